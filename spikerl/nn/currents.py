"""filtered(): synaptic currents over all T steps as one differentiable function. Imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikerl.nn.firing import runs_compiled, runs_fused
from spikerl.nn.kernels import compiled


def filtered(current: Tensor, decay: float, sim_steps: int) -> Tensor:
    """i_t = decay * i_(t-1) + current_t, from i = 0: [T, B, N].

    The synaptic current of spikerl.network. current: [T, B, N], or [1, B, N] for every step.
    """
    if not runs_compiled(current) and not runs_fused(current):
        return _stepped(current, decay, sim_steps)
    found: Tensor = _apply(current, decay, sim_steps)
    return found


def _stepped(current: Tensor, decay: float, sim_steps: int) -> Tensor:
    flow, found = torch.zeros_like(current[0]), []
    for t in range(sim_steps):
        flow = decay * flow + current[0 if len(current) == 1 else t]
        found.append(flow)
    return torch.stack(found)


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, decay: float, sim_steps: int) -> Tensor:
        ctx.rules = (decay, len(current) == 1)
        flow = current.new_empty((sim_steps, *current.shape[1:]))
        if runs_compiled(current):
            _forward(current.detach().contiguous().numpy(), np.float32(decay), flow.numpy())
        else:
            runs_fused(current).filter_steps(current.detach(), decay, flow)
        return flow

    @staticmethod
    def backward(ctx: Any, g_flow: Tensor) -> tuple[Tensor | None, ...]:
        decay, constant = ctx.rules
        # The gradient runs through the same filter, from the last step to the first.
        g_current = filtered(g_flow.flip(0).contiguous(), decay, len(g_flow)).flip(0)
        return (g_current.sum(0, keepdim=True) if constant else g_current), None, None


_apply: Any = _Filter.apply


@compiled
def _forward(current, decay, flow):  # type: ignore[no-untyped-def]
    steps, rows, width = flow.shape
    constant = current.shape[0] == 1
    for t in range(steps):
        for b in range(rows):
            drive, out = current[0 if constant else t, b], flow[t, b]
            if t:
                last = flow[t - 1, b]
                for i in range(width):
                    out[i] = decay * last[i] + drive[i]
            else:
                for i in range(width):
                    out[i] = drive[i]
