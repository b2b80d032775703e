"""Compiled loops over time: spikes forward, gradients backward.

Imports numba and numpy. One call does all T steps of a layer; potentials before the reset are kept
for the way back. Arrays are [T, B, N], per neuron [N], potentials [B, N].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from spikerl.compiling import compiling

compiled = compiling(__file__, fastmath={"contract", "arcp", "nsz"})


@compiled
def forward(current, v, decay, theta, zero, counted, spikes, before, counts):  # type: ignore[no-untyped-def]
    """All steps of a layer; v [B, N] goes on in place.

    current: [T, B, N], or [1, B, N] for the same at every step.  zero: 1 for reset to zero.
    counted: how many of the first steps are added up in counts [B, N].
    spikes:  filled, unless it has no steps; before: v before the reset, filled.
    """
    # Short loops over few arrays: the compiler makes vector code only where it can check cheaply
    # that they do not overlap.
    steps, rows, width = before.shape
    constant = current.shape[0] == 1
    wanted = spikes.shape[0] > 0
    one, none = np.float32(1.0), np.float32(0.0)
    for t in range(steps):
        for b in range(rows):
            potential, u = v[b], before[t, b]
            drive = current[0 if constant else t, b]
            for i in range(width):
                u[i] = decay[i] * potential[i] + drive[i]
            if zero:
                for i in range(width):
                    potential[i] = none if u[i] >= theta[i] else u[i]
            else:
                for i in range(width):
                    potential[i] = u[i] - (theta[i] if u[i] >= theta[i] else none)
            if wanted:
                out = spikes[t, b]
                for i in range(width):
                    out[i] = one if u[i] >= theta[i] else none
            if t < counted:
                tally = counts[b]
                for i in range(width):
                    tally[i] += one if u[i] >= theta[i] else none


@compiled
def fired(before, theta, spikes):  # type: ignore[no-untyped-def]
    """The spikes [T, B, N] that forward() saw, from the potentials before the reset."""
    steps, rows, width = before.shape
    one, none = np.float32(1.0), np.float32(0.0)
    for t in range(steps):
        for b in range(rows):
            u, out = before[t, b], spikes[t, b]
            for i in range(width):
                out[i] = one if u[i] >= theta[i] else none


_inlined: Callable[..., Any] = numba.njit(inline="always", error_model="numpy")


@_inlined
def bend_row(u, theta, code, slope, bend):  # type: ignore[no-untyped-def]
    """The surrogate's derivative by v of a row u [N], see surrogates.py."""
    one, none = np.float32(1.0), np.float32(0.0)
    width = len(u)
    if code == 0:
        for i in range(width):
            d = one + slope * abs((u[i] - theta[i]) / theta[i])
            bend[i] = one / (d * d * theta[i])
    elif code == 1:
        wide = np.float32(math.pi / 2) * slope
        for i in range(width):
            x = wide * (u[i] - theta[i]) / theta[i]
            bend[i] = one / ((one + x * x) * theta[i])
    elif code == 2:
        for i in range(width):
            f = one / (one + np.float32(math.exp(-slope * (u[i] - theta[i]) / theta[i])))
            bend[i] = np.float32(4.0) * f * (one - f) / theta[i]
    elif code == 3:
        for i in range(width):
            bend[i] = max(none, one - slope * abs((u[i] - theta[i]) / theta[i])) / theta[i]
    else:
        for i in range(width):
            near = slope * abs((u[i] - theta[i]) / theta[i]) < np.float32(0.5)
            bend[i] = (one if near else none) / theta[i]


@compiled
def backward(  # type: ignore[no-untyped-def]
    g_spikes,
    g_counts,
    counted,
    g_v,
    before,
    v_start,
    decay,
    theta,
    zero,
    code,
    slope,
    detach,
    g_current,
    g_decay,
    learned,
):
    """The gradients of forward(): g_v [B, N] holds that of the final v and ends as that of v_start.

    g_spikes:  [T, B, N] or no steps at all.  g_counts: [B, N] of the counts, over `counted` steps.
    g_current: [T, B, N], filled, or [1, B, N] to be summed over time, added to.
    g_decay:   [N], added to where learned is 1.  detach: 1 leaves the reset out of the gradient.
    """
    steps, rows, width = before.shape
    constant = g_current.shape[0] == 1
    wanted = g_spikes.shape[0] > 0
    slope = np.float32(slope)
    none = np.float32(0.0)
    bend, g_s = np.empty(width, np.float32), np.empty(width, np.float32)
    for t in range(steps - 1, -1, -1):
        for b in range(rows):
            u, after = before[t, b], g_v[b]
            bend_row(u, theta, code, slope, bend)
            if wanted:
                given = g_spikes[t, b]
                for i in range(width):
                    g_s[i] = given[i]
            else:
                for i in range(width):
                    g_s[i] = none
            if t < counted:
                tally = g_counts[b]
                for i in range(width):
                    g_s[i] += tally[i]
            if not detach:
                if zero:
                    for i in range(width):
                        g_s[i] -= u[i] * after[i]
                else:
                    for i in range(width):
                        g_s[i] -= theta[i] * after[i]
            if zero:
                for i in range(width):
                    after[i] = none if u[i] >= theta[i] else after[i]
            for i in range(width):
                after[i] += g_s[i] * bend[i]
            out = g_current[0 if constant else t, b]
            if constant:
                for i in range(width):
                    out[i] += after[i]
            else:
                for i in range(width):
                    out[i] = after[i]
            if learned:
                w = before[t - 1, b] if t else v_start[b]
                for i in range(width):
                    reached = t > 0 and w[i] >= theta[i]
                    rest = none if zero else w[i] - theta[i]
                    g_decay[i] += after[i] * (rest if reached else w[i])
            for i in range(width):
                after[i] *= decay[i]


@compiled
def remember(current, starts, v, s, decay, theta, recurrent, zero, steps, before, counts):  # type: ignore[no-untyped-def]
    """A recurrent layer over whole sequences: L decisions of `steps` steps each.

    current: [L, B, N].  starts: [L, B], 1 where an episode begins.  v, s: [B, N], go on in place.
    recurrent: [N, N], row j the weights from neuron j.
    before: [L * steps, B, N], filled; counts: [L, B, N], added to.
    """
    length, rows, width = current.shape
    one, none = np.float32(1.0), np.float32(0.0)
    for b in range(rows):
        potential, last = v[b], s[b]
        for k in range(length):
            if starts[k, b] > 0:
                potential[:] = none
                last[:] = none
            for t in range(steps):
                u, drive = before[k * steps + t, b], current[k, b]
                for i in range(width):
                    u[i] = decay[i] * potential[i] + drive[i]
                for j in range(width):
                    if last[j] > 0:
                        weights = recurrent[j]
                        for i in range(width):
                            u[i] += weights[i]
                tally = counts[k, b]
                for i in range(width):
                    last[i] = one if u[i] >= theta[i] else none
                for i in range(width):
                    tally[i] += last[i]
                if zero:
                    for i in range(width):
                        potential[i] = u[i] * (one - last[i])
                else:
                    for i in range(width):
                        potential[i] = u[i] - theta[i] * last[i]


@compiled
def remember_back(  # type: ignore[no-untyped-def]
    g_counts,
    starts,
    before,
    v_start,
    s_start,
    decay,
    theta,
    recurrent,
    zero,
    steps,
    code,
    slope,
    g_current,
    g_decay,
    g_recurrent,
):
    """The gradients of remember(), added to g_current [L, B, N], g_decay and g_recurrent [N, N]."""
    length, rows, width = g_counts.shape
    slope = np.float32(slope)
    none = np.float32(0.0)
    bend, g_s = np.empty(width, np.float32), np.empty(width, np.float32)
    g_v = np.empty(width, np.float32)
    heard, g_heard = np.empty(width, np.float32), np.empty(width, np.float32)
    for b in range(rows):
        g_v[:] = none
        g_heard[:] = none  # of the spikes, through the weights into the next step
        for k in range(length - 1, -1, -1):
            given, out = g_counts[k, b], g_current[k, b]
            for t in range(steps - 1, -1, -1):
                place = k * steps + t
                u = before[place, b]
                bend_row(u, theta, code, slope, bend)
                for i in range(width):
                    g_s[i] = given[i] + g_heard[i]
                if zero:
                    for i in range(width):
                        g_s[i] -= u[i] * g_v[i]
                    for i in range(width):
                        g_v[i] = none if u[i] >= theta[i] else g_v[i]
                else:
                    for i in range(width):
                        g_s[i] -= theta[i] * g_v[i]
                for i in range(width):
                    g_v[i] += g_s[i] * bend[i]
                for i in range(width):
                    out[i] += g_v[i]
                fresh = t == 0 and starts[k, b] > 0
                if fresh:
                    g_v[:] = none
                    g_heard[:] = none
                    continue
                first = place == 0
                for i in range(width):
                    w = v_start[b, i] if first else before[place - 1, b, i]
                    fired = s_start[b, i] > 0 if first else w >= theta[i]
                    heard[i] = np.float32(1.0) if fired else none
                    if fired and not first:
                        w = none if zero else w - theta[i]
                    g_decay[i] += g_v[i] * w
                for j in range(width):
                    weights = recurrent[j]
                    total = none
                    for i in range(width):
                        total += weights[i] * g_v[i]
                    g_heard[j] = total
                    if heard[j] > 0:
                        target = g_recurrent[j]
                        for i in range(width):
                            target[i] += g_v[i]
                for i in range(width):
                    g_v[i] *= decay[i]
