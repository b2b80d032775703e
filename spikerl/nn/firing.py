"""fire(): all T steps of a layer as one differentiable function. Imports torch and the kernels.

On the CPU in float32 the loops are compiled, on a CUDA device fused (see fused.py); elsewhere they
are torch operations of the same equations, step by step.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikerl.nn import kernels
from spikerl.nn.surrogates import Surrogate

Numbers = Sequence[Tensor]  # of a layer: weight [N, n_in], bias, decay, threshold and v_init [N]


@dataclass(frozen=True)
class Rule:
    """What a layer does beside its numbers; see fire()."""

    zero: bool
    surrogate: Surrogate
    detach_reset: bool
    delay_steps: int


def fire(
    current: Tensor,
    v: Tensor,
    decay: Tensor,
    threshold: Tensor,
    *,
    sim_steps: int,
    zero: bool,
    surrogate: Surrogate,
    detach_reset: bool = False,
    counted: int | None = None,
    spikes: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes [T, B, N], counts [B, N] and final potentials [B, N] of neurons under the contract.

    The neuron is that of spikerl.network; on the way back the step function has the surrogate's
    derivative (Neftci et al. 2019). No gradient goes to the threshold.

    current: [T, B, N], or [1, B, N] for the same at every step.
    v:       [B, N] before the first step.  decay, threshold: [N].
    counted: the counts are those of the first `counted` steps (all of them).
    spikes:  False leaves them out (no steps), where counts are all one wants.
    """
    counted = sim_steps if counted is None else counted
    rules = (sim_steps, zero, surrogate.code, surrogate.slope, detach_reset, counted, spikes)
    found: tuple[Tensor, Tensor, Tensor] = _apply(current, v, decay, threshold, rules)
    return found


def fire_in_turn(
    x: Tensor, layers: Sequence[Numbers], rules: Sequence[Rule], sim_steps: int
) -> Tensor:
    """fire_stack() of chunks.py layer by layer, which can be differentiated twice."""
    late, rows = 0, x.shape[1]
    for (weight, bias, decay, theta, start), rule in zip(layers, rules, strict=True):
        x, counts, _ = fire(
            torch.nn.functional.linear(delayed(x, late, sim_steps), weight, bias),
            start.expand(rows, -1),
            decay,
            theta,
            sim_steps=sim_steps,
            zero=rule.zero,
            surrogate=rule.surrogate,
            detach_reset=rule.detach_reset,
            counted=sim_steps - rule.delay_steps,
        )
        late = rule.delay_steps
    return counts


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, current: Tensor, v: Tensor, decay: Tensor, threshold: Tensor, rules: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps, zero, *_, counted, wanted = rules
        rows, width = v.shape
        start = v
        v = v.detach().clone(memory_format=torch.contiguous_format)
        before = current.new_empty((steps, rows, width))
        spikes = current.new_empty((steps if wanted else 0, rows, width))
        counts = torch.zeros_like(v)
        if runs_compiled(current):
            shape, many = joined(rows, width)
            kernels.forward(
                current.detach().contiguous().numpy().reshape(-1, *shape),
                v.numpy().reshape(shape),
                np.tile(decay.detach().numpy(), many),
                np.tile(threshold.numpy(), many),
                int(zero),
                counted,
                spikes.numpy().reshape(-1, *shape),
                before.numpy().reshape(-1, *shape),
                counts.numpy().reshape(shape),
            )
        elif fused := runs_fused(current):
            fused.forward(
                current.detach(),
                v,
                decay.detach(),
                threshold,
                zero=zero,
                counted=counted,
                spikes=spikes,
                before=before,
                counts=counts,
            )
        else:
            for t in range(steps):
                u = decay * v + current[0 if len(current) == 1 else t]
                s = (u >= threshold).to(u.dtype)
                before[t] = u
                if wanted:
                    spikes[t] = s
                if t < counted:
                    counts += s
                v = u * (1 - s) if zero else u - s * threshold
        ctx.save_for_backward(before, start, decay, threshold)
        ctx.rules = (*rules, len(current) == 1)
        ctx.set_materialize_grads(False)
        return spikes, counts, v

    @staticmethod
    def backward(
        ctx: Any, g_spikes: Tensor | None, g_counts: Tensor | None, g_v: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        before, start, decay, threshold = ctx.saved_tensors
        steps, zero, code, slope, detach, counted, wanted, constant = ctx.rules
        if g_spikes is None or not wanted:
            g_spikes = before.new_empty((0, *start.shape))
        # own arrays, row by row, whatever the order of what is given
        zeros, dense = partial(before.new_zeros, start.shape), torch.contiguous_format
        g_counts = zeros() if g_counts is None else g_counts.contiguous()
        g_v = zeros() if g_v is None else g_v.clone(memory_format=dense)
        g_current = torch.zeros_like(before[:1]) if constant else torch.empty_like(before)
        shape, many = joined(*start.shape)
        g_decay = decay.new_zeros(many * len(decay))
        # With create_graph (TRPO's Fisher products) the steps back are torch operations too; the
        # potentials count as constants there.
        if runs_compiled(before) and not torch.is_grad_enabled():
            kernels.backward(
                g_spikes.contiguous().numpy().reshape(-1, *shape),
                g_counts.numpy().reshape(shape),
                counted,
                g_v.numpy().reshape(shape),
                before.numpy().reshape(-1, *shape),
                start.detach().contiguous().numpy().reshape(shape),
                np.tile(decay.detach().numpy(), many),
                np.tile(threshold.numpy(), many),
                int(zero),
                code,
                slope,
                int(detach),
                g_current.numpy().reshape(-1, *shape),
                g_decay.numpy(),
                int(ctx.needs_input_grad[2]),
            )
            g_decay = g_decay.view(many, -1).sum(0)
        elif (fused := runs_fused(before)) and not torch.is_grad_enabled():
            g_decay = fused.backward(
                g_spikes.contiguous(),
                g_counts,
                g_v,
                before,
                start.detach(),
                decay.detach(),
                threshold,
                zero=zero,
                code=code,
                slope=slope,
                detach=detach,
                counted=counted,
                g_current=g_current,
                learned=ctx.needs_input_grad[2],
            )
        else:
            for t in reversed(range(steps)):
                u = before[t]
                s = (u >= threshold).to(u.dtype)
                g_s = g_counts if t < counted else torch.zeros_like(g_counts)
                if len(g_spikes):
                    g_s = g_s + g_spikes[t]
                if not detach:
                    g_s = g_s - (u if zero else threshold) * g_v
                x = (u - threshold) / threshold
                g_u = g_s * derivative(x, code, slope) / threshold
                g_u = g_u + (g_v * (1 - s) if zero else g_v)
                if constant:
                    g_current[0] += g_u
                else:
                    g_current[t] = g_u
                earlier = start
                if t:
                    w = before[t - 1]
                    s = (w >= threshold).to(w.dtype)
                    earlier = w * (1 - s) if zero else w - s * threshold
                g_decay[: len(decay)] += (g_u * earlier).sum(0)
                g_v = decay * g_u
        return g_current, g_v, g_decay[: len(decay)], None, None


_apply: Any = _Fire.apply


def delayed(x: Tensor, late: int, sim_steps: int) -> Tensor:
    """What comes [T, B, n] as it is heard, so many steps later; until then nothing is."""
    if not late:
        return x
    return torch.cat([x.new_zeros((late, *x.shape[1:])), x[: sim_steps - late]])


def joined(rows: int, width: int) -> tuple[tuple[int, int], int]:
    """Rows [B, N] as fewer and longer ones, and how many are joined to one.

    The loops over neurons are short otherwise, and what it takes to begin one outweighs them.
    """
    many = 1
    while rows % (2 * many) == 0 and 2 * many * width <= 1024:
        many *= 2
    return (rows // many, many * width), many


def runs_compiled(tensor: Tensor) -> bool:
    """Whether there are compiled loops for it."""
    return tensor.device.type == "cpu" and tensor.dtype is torch.float32


def runs_fused(tensor: Tensor, name: str = "fused") -> Any:
    """The module of that name where its loops are for a tensor, else None."""
    fits = tensor.device.type == "cuda" and tensor.dtype in (torch.float32, torch.float64)
    return _loops(name) if fits else None


@cache
def _loops(name: str) -> Any:
    try:
        import_module("spikerl.nn.fused").ready()
        return import_module(f"spikerl.nn.{name}")
    except Exception as error:  # whatever keeps Triton from working, the steps work without it
        reason = f"Triton does not work here ({type(error).__name__}: {error})"
        warnings.warn(f"layers fire step by step on CUDA, which is slower: {reason}", stacklevel=2)
        return None


def derivative(x: Tensor, code: int, slope: float) -> Tensor:
    """The functions of surrogates.py, by their number."""
    if code == 0:
        return 1 / (1 + slope * x.abs()) ** 2
    if code == 1:
        return 1 / (1 + (math.pi / 2 * slope * x) ** 2)
    if code == 2:
        f = torch.sigmoid(slope * x)
        return 4 * f * (1 - f)
    if code == 3:
        return (1 - slope * x.abs()).clamp(min=0)
    return (slope * x.abs() < 0.5).to(x.dtype)
