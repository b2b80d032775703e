"""SpikingMemory: a recurrent spiking layer that keeps its state from decision to decision.

Imports torch and the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikerl.errors import SpikerlError, checked_whole, listed
from spikerl.layers import Dense
from spikerl.nn import kernels
from spikerl.nn.layer import exact_array
from spikerl.nn.rules import keep_rules
from spikerl.nn.surrogates import Surrogate

State = tuple[Tensor, Tensor]
SLOWEST, FASTEST = 0.98, 0.5  # decays are spread between these at the start
SHORTEST = 1e-37  # of a decay; below, float32 has few digits or none


class SpikingMemory(nn.Module):
    """Leaky neurons with recurrent weights and a learned decay each (Bellec et al. 2018, without
    adaptation), in the place of an LSTM.

    The neuron is that of spikerl.network with reset by subtraction, v_init = 0 and threshold 1. Per
    decision it takes sim_steps steps; spikes of the last step and potentials are its state.
    """

    num_layers = 1

    def __init__(
        self, input_size: int, hidden_size: int, sim_steps: int, surrogate: Surrogate | None = None
    ) -> None:
        super().__init__()
        if problems := checked_whole("sim_steps", sim_steps):
            raise SpikerlError(listed("this memory cannot be", problems))
        self.input_size, self.hidden_size = input_size, hidden_size
        self.sim_steps = sim_steps
        self.surrogate = surrogate or Surrogate("fast_sigmoid")
        self.synapses = nn.Linear(input_size, hidden_size)
        self.recurrent = nn.Parameter(torch.empty(hidden_size, hidden_size))  # [from, to]
        self.decay_logit = nn.Parameter(torch.empty(hidden_size))
        self.initialise()
        keep_rules(self)

    @classmethod
    def of(cls, layer: Dense, sim_steps: int, surrogate: Surrogate | None = None) -> SpikingMemory:
        """The neurons of a recurrent layer of a SpikingNetwork, in float32.

        What to_layer() gave comes back exactly. Raises SpikerlError with what a memory is not.
        """
        decay = np.asarray(layer.decay, dtype=np.float64)
        wanted = {
            "recurrent weights": layer.recurrent_weight is not None,
            "neurons that fire": layer.spiking,
            "reset by subtraction": layer.reset == "subtract",
            "thresholds of 1": np.all(np.asarray(layer.v_threshold) == 1),
            "potentials that start at 0": not np.any(layer.v_init),
            "weights that float32 holds": all(
                (np.abs(part) <= np.finfo(np.float32).max).all()
                for part in (layer.weight, layer.bias, layer.recurrent)
                if part is not None
            ),
            "decays that a sigmoid in float32 gives": bool((decay >= SHORTEST).all()),
            "no refractory steps": not layer.refractory_steps,
            "no floor": layer.v_min is None,
            "no delay": not layer.delay_steps,
            "no synaptic current": not layer.has_current,
            "no adaptation": not layer.adapts,
        }
        missing = [f"wanted {name}" for name, there in wanted.items() if not there]
        if missing:
            raise SpikerlError(listed("this layer is no SpikingMemory", missing))
        found = cls(layer.n_in, layer.n_out, sim_steps, surrogate)
        with torch.no_grad():
            found.synapses.weight.copy_(torch.tensor(layer.weight))
            found.synapses.bias.copy_(torch.tensor(layer.bias))
            found.recurrent.copy_(torch.tensor(layer.recurrent).T)
            found.decay_logit.copy_(_logit(torch.tensor(decay)))
        return found

    def rules(self) -> dict[str, Any]:
        """What the weights mean and their tensors do not hold."""
        return {"sim_steps": self.sim_steps, "weights": [self.hidden_size, self.input_size]}

    def initialise(self) -> None:
        """Decays from fast to slow, currents as large as the inputs, an orthogonal recurrence.

        Inputs of size 1 are a current of about one threshold, however wide the memory is. Weights
        orthogonal as they are would give sqrt(n_in / N) of it: a spike every few decisions, which
        tells what was seen too late.
        """
        gain = max(1.0, (self.hidden_size / self.input_size) ** 0.5)
        nn.init.orthogonal_(self.synapses.weight, gain=gain)
        nn.init.uniform_(self.synapses.bias, 0.0, 0.25)
        nn.init.orthogonal_(self.recurrent)
        with torch.no_grad():
            spread = torch.linspace(FASTEST, SLOWEST, self.hidden_size)
            self.decay_logit.copy_(torch.logit(spread))

    def forward(self, features: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        """Spikes per step [L, B, N] of every decision, and the state after the last.

        features: [L, B, n_in].  state: spikes and potentials, [1, B, N] each.
        starts: [L, B], 1 where an episode begins and the state is forgotten.
        """
        kind = features.dtype
        decay = torch.sigmoid(self.decay_logit)
        parts = [features, *state, self.synapses.weight, self.synapses.bias, decay, self.recurrent]
        if not self.training and not torch.is_grad_enabled():
            parts = [part.double() for part in parts]  # as the deployed network decides
        features, spikes, potentials, weight, bias, decay, recurrent = parts
        counts, s, v = _apply(
            nn.functional.linear(features, weight, bias),
            starts,
            spikes[0],
            potentials[0],
            decay,
            recurrent,
            (self.sim_steps, self.surrogate),
        )
        rates = (counts / self.sim_steps).to(kind)
        lost = ~torch.isfinite(v).all(dim=1, keepdim=True)
        if lost.any():  # heard what is no number; silence would hide it
            rates = rates.masked_fill(lost, torch.nan)
        return rates, (s[None].to(kind), v[None].to(kind))

    def first(self, rows: Tensor) -> Tensor:
        """Spikes per step [B, N] of the first decision of an episode, for rows [B, n_in]."""
        return self.walk()(rows, rows.new_ones(len(rows)))

    def walk(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Decisions one after the other, by a function that keeps their state between its calls.

        It takes rows [B, n_in] and starts [B], 1 where an episode begins, and gives spikes per step
        [B, N].
        """
        state: State | None = None

        @torch.no_grad()
        def step(rows: Tensor, starts: Tensor) -> Tensor:
            nonlocal state
            before = self.fresh(len(rows)) if state is None else state
            training = self.training
            rates, state = self.eval()(rows.double()[None], before, starts.double()[None])
            self.train(training)
            found: Tensor = rates[0]
            return found

        return step

    def fresh(self, rows: int) -> State:
        """The state before an episode, for so many rows."""
        zeros = self.recurrent.new_zeros((1, rows, self.hidden_size))
        return zeros, zeros

    def to_layer(self) -> Dense:
        """The same neurons as a layer of a SpikingNetwork, exactly."""
        return Dense(
            exact_array(self.synapses.weight),
            exact_array(self.synapses.bias),
            recurrent=exact_array(self.recurrent).T,
            decay=exact_array(torch.sigmoid(self.decay_logit)),
        )


def _logit(decay: Tensor) -> Tensor:
    """The numbers in float32 whose sigmoid in float32 is nearest to decays in float64."""
    middle = torch.logit(decay).clamp(max=20.0).float()  # whose sigmoid is 1
    near = [middle]
    for way in (-torch.inf, torch.inf):
        found = middle
        for _ in range(8):
            found = torch.nextafter(found, torch.full_like(found, way))
            near.append(found)
    tried = torch.stack(near)
    best = (torch.sigmoid(tried).double() - decay).abs().argmin(dim=0, keepdim=True)
    return tried.gather(0, best)[0]


class _Remember(torch.autograd.Function):
    """Sequences, on the CPU; no gradient goes to the state a sequence starts from."""

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        starts: Tensor,
        s: Tensor,
        v: Tensor,
        decay: Tensor,
        recurrent: Tensor,
        rules: tuple[int, Surrogate],
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps, _ = rules
        place, kind = current.device, current.dtype
        parts = [p.detach().cpu().contiguous() for p in (current, starts, decay, recurrent)]
        flow, begins, leak, weights = (part.numpy() for part in parts)
        s_end, v_end = (part.detach().cpu().contiguous().clone() for part in (s, v))
        length, rows, width = current.shape
        before = torch.empty((length * steps, rows, width), dtype=kind)
        counts = torch.zeros((length, rows, width), dtype=kind)
        threshold = torch.ones(width, dtype=kind)
        state = (v_end.numpy(), s_end.numpy())
        rest = (leak, threshold.numpy(), weights, 0, steps, before.numpy(), counts.numpy())
        kernels.remember(flow, begins, *state, *rest)
        ctx.save_for_backward(*parts, s, v, before, threshold)
        ctx.rules = rules
        return counts.to(place), s_end.to(place), v_end.to(place)

    @staticmethod
    def backward(ctx: Any, g_counts: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        current, starts, decay, recurrent, s, v, before, threshold = ctx.saved_tensors
        steps, surrogate = ctx.rules
        found = [torch.zeros_like(part) for part in (current, decay, recurrent)]
        kernels.remember_back(
            g_counts.detach().cpu().contiguous().numpy(),
            starts.numpy(),
            before.numpy(),
            v.detach().cpu().contiguous().numpy(),
            s.detach().cpu().contiguous().numpy(),
            decay.numpy(),
            threshold.numpy(),
            recurrent.numpy(),
            0,
            steps,
            surrogate.code,
            surrogate.slope,
            *(part.numpy() for part in found),
        )
        g_current, g_decay, g_recurrent = (part.to(g_counts.device) for part in found)
        return g_current, None, None, None, g_decay, g_recurrent, None


_apply: Any = _Remember.apply
