"""The loops of kernels.py on a CUDA device: all T steps of a layer in one launch each way.

Imports torch and triton, which comes with torch builds for CUDA. A program has BLOCK neurons of
[B, N], whose potentials stay in registers from step to step; only currents, potentials before the
reset and spikes go through memory. Spikes and potentials are those of fire() step by step to the
bit, gradients but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128
OPTIONS = {"enable_fp_fusion": False}  # a product is rounded before something is added to it

jit: Callable[..., Any] = triton.jit
looped: Callable[..., Any] = triton.jit(do_not_specialize=["steps", "counted"])


@jit
def places(neurons, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where the neurons of a program are, and which of these places are neurons at all."""
    place = tl.program_id(0) * block + tl.arange(0, block)
    return place, place < neurons


@jit
def numbers(decay, theta, place, inside, width):  # type: ignore[no-untyped-def]
    """Decay and threshold of each."""
    leak = tl.load(decay + place % width, mask=inside, other=0.0)
    level = tl.load(theta + place % width, mask=inside, other=1.0)
    return leak, level


@jit
def reset(u, fired, level, zero: tl.constexpr):  # type: ignore[no-untyped-def]
    """What is left of the potential u after a step."""
    return tl.where(fired, 0.0, u) if zero else u - tl.where(fired, level, 0.0)


@jit
def taken(u, level, zero: tl.constexpr):  # type: ignore[no-untyped-def]
    """What the reset takes from the potential u by a spike."""
    return u if zero else level


@jit
def passed(g_v, fired, zero: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of the gradient of what is left, that of the potential before the reset."""
    return tl.where(fired, 0.0, g_v) if zero else g_v


@looped
def forward_kernel(  # type: ignore[no-untyped-def]
    current,
    v,
    decay,
    theta,
    spikes,
    before,
    counts,
    steps,
    counted,
    neurons,
    width,
    zero: tl.constexpr,
    constant: tl.constexpr,
    wanted: tl.constexpr,
    block: tl.constexpr,
):
    """See kernels.forward(); neurons = B * N, width = N."""
    place, inside = places(neurons, block)
    leak, level = numbers(decay, theta, place, inside, width)
    potential = tl.load(v + place, mask=inside, other=0.0)
    tally = tl.zeros_like(potential)
    # pointers move on, as offsets [T, B, N] may not fit into 32 bits
    drive, kept, sent = current + place, before + place, spikes + place
    for t in range(steps):
        u = leak * potential + tl.load(drive, mask=inside, other=0.0)
        fired = u >= level
        tl.store(kept, u, mask=inside)
        if wanted:
            tl.store(sent, tl.where(fired, 1.0, 0.0), mask=inside)
            sent += neurons
        tally += tl.where(fired & (t < counted), 1.0, 0.0)
        potential = reset(u, fired, level, zero)
        kept += neurons
        if not constant:
            drive += neurons
    tl.store(counts + place, tally, mask=inside)
    tl.store(v + place, potential, mask=inside)


@jit
def bend(u, level, slope, code: tl.constexpr):  # type: ignore[no-untyped-def]
    """The surrogate's derivative by v, see surrogates.py; slope as steepness() has it."""
    x = (u - level) / level
    if code == 0:
        d = 1.0 + slope * tl.abs(x)
        found = 1.0 / (d * d)
    elif code == 1:
        d = slope * x
        found = 1.0 / (1.0 + d * d)
    elif code == 2:
        f = 1.0 / (1.0 + tl.exp(-slope * x))
        found = 4.0 * f * (1.0 - f)
    elif code == 3:
        found = tl.maximum(1.0 - slope * tl.abs(x), 0.0)
    else:
        found = tl.where(slope * tl.abs(x) < 0.5, 1.0, 0.0)
    return found


@looped
def backward_kernel(  # type: ignore[no-untyped-def]
    g_spikes,
    g_counts,
    g_v,
    before,
    start,
    decay,
    theta,
    g_current,
    g_decay,
    slope,
    steps,
    counted,
    neurons,
    width,
    zero: tl.constexpr,
    code: tl.constexpr,
    detach: tl.constexpr,
    constant: tl.constexpr,
    wanted: tl.constexpr,
    learned: tl.constexpr,
    block: tl.constexpr,
):
    """See kernels.backward(); g_decay is [B, N], and so is g_current where it is constant."""
    place, inside = places(neurons, block)
    leak, level = numbers(decay, theta, place, inside, width)
    tally = tl.load(g_counts + place, mask=inside, other=0.0)
    after = tl.load(g_v + place, mask=inside, other=0.0)
    a = tl.load(slope)
    drive, leaks, g_u = tl.zeros_like(after), tl.zeros_like(after), tl.zeros_like(after)
    last = tl.cast(steps - 1, tl.int64) * neurons + place
    kept, given, out = before + last, g_spikes + last, g_current + last
    for back in range(steps):
        u = tl.load(kept, mask=inside, other=0.0)
        fired = u >= level
        leaks += g_u * reset(u, fired, level, zero)
        g_s = tl.where(steps - 1 - back < counted, tally, 0.0)
        if wanted:
            g_s += tl.load(given, mask=inside, other=0.0)
            given -= neurons
        if not detach:
            g_s -= taken(u, level, zero) * after
        g_u = g_s * bend(u, level, a, code) / level + passed(after, fired, zero)
        if constant:
            drive += g_u
        else:
            tl.store(out, g_u, mask=inside)
            out -= neurons
        kept -= neurons
        after = leak * g_u
    if constant:
        tl.store(g_current + place, drive, mask=inside)
    if learned:
        leaks += g_u * tl.load(start + place, mask=inside, other=0.0)
        tl.store(g_decay + place, leaks, mask=inside)
    tl.store(g_v + place, after, mask=inside)


def launch(kernel: Any, rows: Tensor, *given: Any, **choices: Any) -> None:
    """Run a kernel for the neurons of rows [B, N] on their device."""
    with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
        kernel[(triton.cdiv(rows.numel(), BLOCK),)](*given, **choices, block=BLOCK, **OPTIONS)


def ready() -> None:
    """Raises what keeps Triton from working, such as that there is no C compiler for its driver."""
    triton.runtime.driver.active.get_current_target()


def forward(
    current: Tensor,
    v: Tensor,
    decay: Tensor,
    threshold: Tensor,
    *,
    zero: bool,
    counted: int,
    spikes: Tensor,
    before: Tensor,
    counts: Tensor,
) -> None:
    """All steps of a layer; v [B, N] goes on in place, the last three are filled.

    current: [T, B, N], or [1, B, N] for the same at every step.  decay, threshold: [N].
    spikes:  [T, B, N], or no steps at all.  before: [T, B, N].  counts: [B, N].
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
        counts,
        len(before),
        counted,
        v.numel(),
        v.shape[1],
        zero=zero,
        constant=len(current) == 1,
        wanted=len(spikes) > 0,
    )


def backward(
    g_spikes: Tensor,
    g_counts: Tensor,
    g_v: Tensor,
    before: Tensor,
    start: Tensor,
    decay: Tensor,
    threshold: Tensor,
    *,
    zero: bool,
    code: int,
    slope: float,
    detach: bool,
    counted: int,
    g_current: Tensor,
    learned: bool,
) -> Tensor:
    """The gradient [N] of decay; g_v [B, N] of the final v ends as that of start.

    g_spikes:  [T, B, N], or no steps at all.  g_counts: [B, N] of the counts, over `counted` steps.
    g_current: [T, B, N], or [1, B, N] to be summed over time, filled.
    """
    g_decay = torch.zeros_like(g_v if learned else g_v[:1])
    launch(
        backward_kernel,
        g_v,
        g_spikes,
        g_counts,
        g_v,
        before,
        start.contiguous(),
        decay.contiguous(),
        threshold.contiguous(),
        g_current,
        g_decay,
        steepness(code, slope, before),
        len(before),
        counted,
        g_v.numel(),
        g_v.shape[1],
        zero=zero,
        code=code,
        detach=detach,
        constant=len(g_current) == 1,
        wanted=len(g_spikes) > 0,
        learned=learned,
    )
    return g_decay.sum(0)


def steepness(code: int, slope: float, like: Tensor) -> Tensor:
    """What x is multiplied by, [1]: pi / 2 times the slope for the arctan.

    A tensor, as a number would come in float32, or have the kernel compiled for each anew.
    """
    return like.new_full((1,), math.pi / 2 * slope if code == 1 else slope)


@looped
def filter_kernel(  # type: ignore[no-untyped-def]
    current,
    flow,
    steps,
    neurons,
    decay: tl.constexpr,
    constant: tl.constexpr,
    block: tl.constexpr,
):
    """See currents.filtered()."""
    place, inside = places(neurons, block)
    drive, kept = current + place, flow + place
    now = tl.zeros((block,), dtype=flow.dtype.element_ty)
    for _ in range(steps):
        now = decay * now + tl.load(drive, mask=inside, other=0.0)
        tl.store(kept, now, mask=inside)
        kept += neurons
        if not constant:
            drive += neurons


def filter_steps(current: Tensor, decay: float, flow: Tensor) -> None:
    """Fills flow [T, B, N] with the synaptic currents of current, [T, B, N] or [1, B, N]."""
    given = (current.contiguous(), flow, len(flow), flow[0].numel())
    launch(filter_kernel, flow[0], *given, decay=decay, constant=len(current) == 1)
