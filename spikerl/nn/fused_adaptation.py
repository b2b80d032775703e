"""fire_adaptive() on a CUDA device: all T steps in one launch each way. See fused.py."""

from __future__ import annotations

import triton.language as tl
from torch import Tensor

from spikerl.nn.fused import (
    bend,
    launch,
    looped,
    numbers,
    passed,
    places,
    reset,
    steepness,
    taken,
)


@looped
def forward_kernel(  # type: ignore[no-untyped-def]
    current,
    v,
    decay,
    theta,
    spikes,
    before,
    lifts,
    steps,
    neurons,
    width,
    beta: tl.constexpr,
    rho: tl.constexpr,
    zero: tl.constexpr,
    constant: tl.constexpr,
    block: tl.constexpr,
):
    """See adaptation.fire_adaptive()."""
    place, inside = places(neurons, block)
    leak, level = numbers(decay, theta, place, inside, width)
    potential = tl.load(v + place, mask=inside, other=0.0)
    lift = tl.zeros_like(potential)
    drive, kept, sent, lifted = current + place, before + place, spikes + place, lifts + place
    for _ in range(steps):
        u = leak * potential + tl.load(drive, mask=inside, other=0.0)
        fired = u >= level + beta * lift
        tl.store(kept, u, mask=inside)
        tl.store(lifted, lift, mask=inside)
        tl.store(sent, tl.where(fired, 1.0, 0.0), mask=inside)
        lift = rho * lift + tl.where(fired, 1.0, 0.0)
        potential = reset(u, fired, level, zero)
        kept += neurons
        lifted += neurons
        sent += neurons
        if not constant:
            drive += neurons
    tl.store(v + place, potential, mask=inside)


@looped
def backward_kernel(  # type: ignore[no-untyped-def]
    g_spikes,
    g_v,
    spikes,
    before,
    lifts,
    decay,
    theta,
    g_current,
    slope,
    steps,
    neurons,
    width,
    beta: tl.constexpr,
    rho: tl.constexpr,
    zero: tl.constexpr,
    code: tl.constexpr,
    detach: tl.constexpr,
    block: tl.constexpr,
):
    """The gradients by current [T, B, N] and v."""
    place, inside = places(neurons, block)
    leak, level = numbers(decay, theta, place, inside, width)
    after = tl.load(g_v + place, mask=inside, other=0.0)
    g_lift, a = tl.zeros_like(after), tl.load(slope)
    last = tl.cast(steps - 1, tl.int64) * neurons + place
    given, sent, kept, lifted = g_spikes + last, spikes + last, before + last, lifts + last
    out = g_current + last
    for _ in range(steps):
        u = tl.load(kept, mask=inside, other=0.0)
        g_s = tl.load(given, mask=inside, other=0.0) + g_lift
        if not detach:
            g_s -= taken(u, level, zero) * after
        free = u - beta * tl.load(lifted, mask=inside, other=0.0)
        g_x = g_s * bend(free, level, a, code) / level
        g_u = g_x + passed(after, tl.load(sent, mask=inside, other=0.0) > 0, zero)
        tl.store(out, g_u, mask=inside)
        g_lift = rho * g_lift - beta * g_x
        after = leak * g_u
        given -= neurons
        sent -= neurons
        kept -= neurons
        lifted -= neurons
        out -= neurons
    tl.store(g_v + place, after, mask=inside)


def forward(
    current: Tensor,
    v: Tensor,
    decay: Tensor,
    threshold: Tensor,
    *,
    lift: tuple[float, float],
    zero: bool,
    spikes: Tensor,
    before: Tensor,
    lifts: Tensor,
) -> None:
    """All steps of a layer; v [B, N] goes on in place, the last three [T, B, N] are filled.

    current: [T, B, N], or [1, B, N] for the same at every step.  decay, threshold: [N].
    lift:    adaptation and adaptation_decay.
    """
    launch(
        forward_kernel,
        v,
        current.contiguous(),
        v,
        decay.contiguous(),
        threshold.contiguous(),
        spikes,
        before,
        lifts,
        len(before),
        v.numel(),
        v.shape[1],
        *lift,
        zero=zero,
        constant=len(current) == 1,
    )


def backward(
    g_spikes: Tensor,
    g_v: Tensor,
    kept: tuple[Tensor, Tensor, Tensor],
    decay: Tensor,
    threshold: Tensor,
    *,
    lift: tuple[float, float],
    zero: bool,
    code: int,
    slope: float,
    detach: bool,
    g_u: Tensor,
) -> None:
    """Fills g_u [T, B, N]; g_v [B, N] of the final v ends as that of the first.

    kept: spikes, potentials before the reset and lifts of forward().
    """
    launch(
        backward_kernel,
        g_v,
        g_spikes,
        g_v,
        *kept,
        decay.contiguous(),
        threshold.contiguous(),
        g_u,
        steepness(code, slope, g_u),
        len(g_u),
        g_v.numel(),
        g_v.shape[1],
        *lift,
        zero=zero,
        code=code,
        detach=detach,
    )
