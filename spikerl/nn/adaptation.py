"""fire_adaptive(): fire() for neurons whose spikes lift their threshold. Imports torch and kernels.

A file of its own because few neurons adapt, and the others should not wait for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikerl.nn.firing import derivative, runs_compiled, runs_fused
from spikerl.nn.kernels import bend_row, compiled
from spikerl.nn.surrogates import Surrogate


def fire_adaptive(
    current: Tensor,
    v: Tensor,
    decay: Tensor,
    threshold: Tensor,
    *,
    adaptation: float,
    adaptation_decay: float,
    sim_steps: int,
    zero: bool,
    surrogate: Surrogate,
    detach_reset: bool = False,
    counted: int | None = None,
    spikes: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes [T, B, N], counts [B, N] and final potentials [B, N]; see fire() for the rest.

    The threshold at a step is threshold + adaptation * a, where a decays by adaptation_decay per
    step and each spike adds 1 to it (Bellec et al. 2020). The gradient takes both ways: through
    potentials and through a.
    """
    counted = sim_steps if counted is None else counted
    lift = (adaptation, adaptation_decay)
    rules = (sim_steps, zero, surrogate.code, surrogate.slope, detach_reset, counted, lift)
    found: tuple[Tensor, Tensor, Tensor] = _apply(current, v, decay, threshold, rules)
    return found


class _FireAdaptive(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, current: Tensor, v: Tensor, decay: Tensor, threshold: Tensor, rules: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps, zero, _, _, _, counted, (beta, rho) = rules
        start = v.detach()
        v = start.clone(memory_format=torch.contiguous_format)
        spikes = current.new_empty((steps, *v.shape))
        before, lifts = torch.empty_like(spikes), torch.empty_like(spikes)
        if runs_compiled(current):
            _forward(
                current.detach().contiguous().numpy(),
                v.numpy(),
                decay.detach().numpy(),
                threshold.numpy(),
                int(zero),
                np.array([beta, rho], np.float32),
                spikes.numpy(),
                before.numpy(),
                lifts.numpy(),
            )
        elif fused := runs_fused(current, "fused_adaptation"):
            fused.forward(
                current.detach(),
                v,
                decay.detach(),
                threshold,
                lift=(beta, rho),
                zero=zero,
                spikes=spikes,
                before=before,
                lifts=lifts,
            )
        else:
            lift = torch.zeros_like(v)
            for t in range(steps):
                u = decay * v + current[0 if len(current) == 1 else t]
                s = (u >= threshold + beta * lift).to(u.dtype)
                before[t], lifts[t], spikes[t] = u, lift, s
                lift = rho * lift + s
                v = u * (1 - s) if zero else u - s * threshold
        ctx.save_for_backward(spikes, before, lifts, start, decay, threshold)
        ctx.rules = (*rules, len(current) == 1)
        return spikes, spikes[:counted].sum(0), v

    @staticmethod
    def backward(
        ctx: Any, g_spikes: Tensor, g_counts: Tensor, g_v: Tensor
    ) -> tuple[Tensor | None, ...]:
        spikes, before, lifts, start, decay, threshold = ctx.saved_tensors
        steps, zero, code, slope, detach, counted, (beta, rho), constant = ctx.rules
        g_spikes = torch.cat([g_spikes[:counted] + g_counts, g_spikes[counted:]])
        earlier = torch.cat([start[None], before[:-1]])
        fired = torch.cat([torch.zeros_like(start)[None], spikes[:-1]])
        earlier = earlier * (1 - fired) if zero else earlier - fired * threshold
        twice = torch.is_grad_enabled()
        g_v = g_v.clone(memory_format=torch.contiguous_format)
        if runs_compiled(before) and not twice:
            g_u = torch.empty_like(before)
            _backward(
                g_spikes.contiguous().numpy(),
                g_v.numpy(),
                before.numpy(),
                lifts.numpy(),
                decay.detach().numpy(),
                threshold.numpy(),
                np.array([beta, rho, slope], np.float32),
                int(zero),
                code,
                int(detach),
                g_u.numpy(),
            )
        elif (fused := runs_fused(before, "fused_adaptation")) and not twice:
            g_u = torch.empty_like(before)
            fused.backward(
                g_spikes.contiguous(),
                g_v,
                (spikes, before, lifts),
                decay.detach(),
                threshold,
                lift=(beta, rho),
                zero=zero,
                code=code,
                slope=slope,
                detach=detach,
                g_u=g_u,
            )
        else:
            g_a, rows = torch.zeros_like(g_v), []
            for t in reversed(range(steps)):
                u, s = before[t], spikes[t]
                g_s = g_spikes[t] + g_a
                if not detach:
                    g_s = g_s - (u if zero else threshold) * g_v
                x = (u - beta * lifts[t] - threshold) / threshold
                g_x = g_s * derivative(x, code, slope) / threshold
                rows.append(g_x + (g_v * (1 - s) if zero else g_v))
                g_a = rho * g_a - beta * g_x
                g_v = decay * rows[-1]
            g_u = torch.stack(rows[::-1])
        g_current = g_u.sum(0, keepdim=True) if constant else g_u
        return g_current, g_v, (g_u * earlier).sum((0, 1)), None, None


_apply: Any = _FireAdaptive.apply


@compiled
def _forward(current, v, decay, theta, zero, rules, spikes, before, lifts):  # type: ignore[no-untyped-def]
    steps, rows, width = before.shape
    constant = current.shape[0] == 1
    beta, rho = rules[0], rules[1]
    one, none = np.float32(1.0), np.float32(0.0)
    for t in range(steps):
        for b in range(rows):
            potential, u, lift, out = v[b], before[t, b], lifts[t, b], spikes[t, b]
            drive = current[0 if constant else t, b]
            if t:
                last, sent = lifts[t - 1, b], spikes[t - 1, b]
                for i in range(width):
                    lift[i] = rho * last[i] + sent[i]
            else:
                for i in range(width):
                    lift[i] = none
            for i in range(width):
                u[i] = decay[i] * potential[i] + drive[i]
                out[i] = one if u[i] >= theta[i] + beta * lift[i] else none
            if zero:
                for i in range(width):
                    potential[i] = u[i] * (one - out[i])
            else:
                for i in range(width):
                    potential[i] = u[i] - theta[i] * out[i]


@compiled
def _backward(g_spikes, g_v, before, lifts, decay, theta, rules, zero, code, detach, g_u):  # type: ignore[no-untyped-def]
    """g_u [T, B, N] filled; g_v [B, N] is that of the final v and ends as that of the first."""
    steps, rows, width = before.shape
    beta, rho, slope = rules[0], rules[1], rules[2]
    one, none = np.float32(1.0), np.float32(0.0)
    bend, g_a = np.empty(width, np.float32), np.empty(width, np.float32)
    free = np.empty(width, np.float32)
    for b in range(rows):
        g_a[:] = none
        after = g_v[b]
        for t in range(steps - 1, -1, -1):
            u, lift, given, out = before[t, b], lifts[t, b], g_spikes[t, b], g_u[t, b]
            for i in range(width):
                free[i] = u[i] - beta * lift[i]
            bend_row(free, theta, code, slope, bend)
            for i in range(width):
                fired = free[i] >= theta[i]
                g_s = given[i] + g_a[i]
                if not detach:
                    g_s -= (u[i] if zero else theta[i]) * after[i]
                g_x = g_s * bend[i]
                kept = none if zero and fired else one
                out[i] = g_x + kept * after[i]
                g_a[i] = rho * g_a[i] - beta * g_x
                after[i] = decay[i] * out[i]
