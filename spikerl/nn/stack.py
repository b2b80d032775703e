"""SpikingStack: layers of spiking neurons, from numbers to spikes per step. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from spikerl.errors import SpikerlError
from spikerl.layers import Layer
from spikerl.nn.budget import Budget, Spending
from spikerl.nn.chunks import fire_stack
from spikerl.nn.deciding import Decisions
from spikerl.nn.firing import runs_compiled
from spikerl.nn.foreign import ForeignLayer, ForeignNeuron, spiking_layer
from spikerl.nn.layer import SpikingLayer
from spikerl.nn.neurons import Neuron
from spikerl.nn.normalisation import BatchNorm
from spikerl.nn.population import PopulationEncoder
from spikerl.nn.rules import keep_rules

AnyLayer = SpikingLayer | ForeignLayer


class SpikingStack(nn.Module):
    """Rows [B, n_in] as constant current in, spikes per step [B, n_out] of the last layer out.

    A Linear behind it is a read-out that averages over the T steps: what it gives is the mean input
    a read-out neuron of spikerl.network receives. In training mode all steps of a layer are one
    differentiable call in the precision of the parameters; in evaluation mode without gradients
    (predict(), rollouts) decisions are made in float64, as the deployed network makes them.

    encoder: turns the rows into what the first layer hears; None for the rows themselves.
    exact:  False makes the second kind of decision as the first, faster for large batches.
    budget: what the layers may spend, see budget.py.
    """

    def __init__(
        self,
        layers: Sequence[AnyLayer],
        sim_steps: int,
        encoder: PopulationEncoder | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__()
        if isinstance(sim_steps, bool) or not isinstance(sim_steps, int) or sim_steps < 1:
            raise SpikerlError(f"sim_steps must be a whole number >= 1, found {sim_steps!r}")
        under_way = sum(layer.neuron.delay_steps for layer in layers)
        if under_way >= sim_steps:
            raise SpikerlError(
                f"spikes take {under_way} steps through {len(layers)} layers with delays: none "
                f"arrives within sim_steps={sim_steps}; raise sim_steps, or lower delay_steps"
            )
        self.encoder = encoder
        self.layers = nn.ModuleList(layers)
        self.sim_steps = sim_steps
        self.exact = True
        self.budget = budget
        self._decisions = Decisions()
        keep_rules(self)

    def rules(self) -> dict[str, Any]:
        """What the weights mean: steps, neurons, sizes; not what only shapes the gradient."""
        encoder = self.encoder and {"squash": self.encoder.squash, "spikes": self.encoder.spikes}
        return {
            "sim_steps": self.sim_steps,
            "encoder": encoder,
            **{f"layer {i}": layer.rules() for i, layer in enumerate(self._all(), 1)},
        }

    @property
    def weight_bits(self) -> tuple[int, ...]:
        """Of the weights of every layer; 32 where they are not rounded."""
        return tuple(x.neuron.weight_bits or 32 for x in self._all())

    @property
    def n_out(self) -> int:
        """Neurons of the last layer."""
        return self._all()[-1].n_out

    def forward(self, x: Tensor) -> Tensor:
        """Spikes per step [B, n_out] for rows [B, n_in]."""
        if self.exact and not self.training and not torch.is_grad_enabled():
            return self.decide(x)
        layers = [x for x in self.layers if isinstance(x, SpikingLayer) and x.chunked]
        if self.budget is None and len(layers) == len(self.layers):
            heard, numbers = self._heard(x), [layer.numbers() for layer in layers]
            if all(map(runs_compiled, (heard, *chain(*numbers)))):
                rules = [layer.rule for layer in layers]
                return fire_stack(heard, numbers, rules, self.sim_steps) / self.sim_steps
        return self.rates(x)[-1]

    def _heard(self, x: Tensor) -> Tensor:
        """What the first layer hears of rows: [T, B, n], or [1, B, n] at all steps."""
        x = x.flatten(1)
        return x[None] if self.encoder is None else self.encoder(x, self.sim_steps)

    def rates(self, x: Tensor) -> list[Tensor]:
        """Spikes per step [B, n] of every layer for rows [B, n_in], with gradients."""
        return self._in_turn(self._heard(x))

    def _in_turn(self, x: Tensor) -> list[Tensor]:
        """The same for what the first layer hears, layer by layer."""
        late = 0
        rates: list[Tensor] = []
        leashed = self.budget is not None and torch.is_grad_enabled()
        spending = Spending(self.budget) if leashed and self.budget is not None else None
        for i, layer in enumerate(self._all()):
            last = i == len(self.layers) - 1
            spikes, counts, _ = layer(x, self.sim_steps, late=late, last=last)
            if spending is not None:
                fan_out = 1.0 if last else self._all()[i + 1].fan_out
                leash, done = spending.leash, counts.detach()
                spikes = spikes if last else leash(spikes, done, self.sim_steps, fan_out)
                counts = leash(counts, done, self.sim_steps, fan_out) if last else counts
            rates.append(counts / self.sim_steps)
            x, late = spikes, layer.neuron.delay_steps
        return rates

    def decide(self, x: Tensor) -> Tensor:
        """The same in float64, without gradients; NaN for rows that are not finite."""
        x = x.detach().flatten(1)
        found = self._decided(x)
        if not isfinite(float(x.sum())):  # the quickest way to know; a sum may be too large
            found = found.masked_fill(~torch.isfinite(x).all(dim=1, keepdim=True), torch.nan)
        return found

    def _decided(self, x: Tensor) -> Tensor:
        dense = all(isinstance(layer.synapses, nn.Linear) for layer in self._all())
        if dense and x.device.type == "cpu":
            rows = x.numpy()
            drive = rows if self.encoder is None else self.encoder.exact(rows, self.sim_steps)
            found = self._decisions.rates(self._all(), drive, self.sim_steps)
            return torch.from_numpy(found.astype(rows.dtype))
        steps = x[None]
        if self.encoder is not None:
            drive = self.encoder.exact(x.cpu().numpy(), self.sim_steps)
            steps = torch.from_numpy(drive).to(x.device)
        with torch.no_grad():
            return self._in_turn(steps.double())[-1].to(x.dtype)

    def draw(self) -> None:
        """Another chip, where the neurons have a mismatch."""
        for layer in self._all():
            layer.draw()

    @contextmanager
    def as_designed(self) -> Iterator[None]:
        """Without the chip that was drawn."""
        chips = [layer.chip for layer in self._all()]
        try:
            for layer in self._all():
                layer.chip = None
            yield
        finally:
            for layer, chip in zip(self._all(), chips, strict=True):
                layer.chip = chip

    def decide_as_designed(self, x: Tensor) -> Tensor:
        """decide() without the chip that was drawn: what is exported."""
        with self.as_designed():
            return self.decide(x)

    def to_layers(self) -> tuple[Layer, ...]:
        """The layers of a SpikingNetwork that fires the same spikes."""
        return tuple(layer.to_layer() for layer in self._all())

    def _all(self) -> list[AnyLayer]:
        return list(self.layers)  # type: ignore[arg-type]


class SpikingMLP(SpikingStack):
    """Dense spiking layers of these widths, one after the other.

    n_in: numbers per row.  norm: normalises the current of every layer.
    Raises SpikerlError if there is no layer.
    """

    def __init__(
        self,
        n_in: int,
        widths: Sequence[int],
        *,
        sim_steps: int = 8,
        neuron: Neuron | ForeignNeuron | None = None,
        encoder: PopulationEncoder | None = None,
        norm: type[BatchNorm] | None = None,
        budget: Budget | None = None,
    ) -> None:
        n_in = n_in if encoder is None else encoder.n_out
        widths = [int(n) for n in widths]
        if not widths or min(widths) < 1:
            raise SpikerlError(f"a spiking network needs hidden layers, found net_arch={widths}")
        layers = []
        for n_before, n in zip([n_in, *widths], widths, strict=False):
            layers.append(spiking_layer(nn.Linear(n_before, n), neuron or Neuron(), (n_before,)))
            if norm is not None:
                layers[-1].normalise(norm)
        super().__init__(layers, sim_steps, encoder, budget)
        initialise(self)


def initialise(stack: SpikingStack) -> None:
    """Weights at which spikes flow from the first step of training on.

    Orthogonal with gain sqrt(2) (Saxe et al. 2014), as for ReLU layers: an integrate-and-fire
    neuron's spikes per step follow a ReLU of its current over the drive, which is its threshold
    unless it weakens what comes in. Biases are spread over half a drive, so that some neurons fire
    also for an observation of zeros.
    """
    for layer in stack._all():
        drive = layer.drive
        nn.init.orthogonal_(layer.synapses.weight, gain=2**0.5 * drive)
        if layer.synapses.bias is not None:
            nn.init.uniform_(layer.synapses.bias, 0.0, drive / 2)
