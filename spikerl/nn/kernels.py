"""Compiled loops over time: spikes forward, gradients backward, and decisions without gradients.

Imports numba and numpy. One call does all T steps of a layer; potentials before the reset are kept
for the way back. Arrays are [T, B, N], per neuron [N], potentials [B, N].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

_compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")
compiled: Callable[..., Any] = numba.njit(
    cache=True, nogil=True, error_model="numpy", fastmath={"contract", "arcp", "nsz"}
)


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


@_compiled
def decide(  # type: ignore[no-untyped-def]
    x, starts, weights, biases, decays, thetas, extras, zeros, delays, steps, counted, counts
):
    """T steps of a stack of dense layers in float64, spike by spike; no gradient.

    x: [B, n_in] constant current.  starts: one v_init [n] per layer.
    extras: current_decay, adaptation, adaptation_decay per layer.
    weights: one [n_in, n] per layer, transposed.  counts: [B, n] of the last layer, over `counted`.
    """
    depth = len(weights)
    widest = 0
    for layer in range(depth):
        widest = max(widest, weights[layer].shape[1])
    drive, v = np.empty(weights[0].shape[1]), np.empty(widest)
    flow, lift, current = np.empty(widest), np.empty(widest), np.empty(widest)
    level = np.empty(widest)
    # spikes of every layer at every step, as lists of indices
    fired = np.empty((2, steps, widest + 1), np.int32)
    n_fired = np.empty((2, steps), np.int64)
    for b in range(x.shape[0]):
        for layer in range(depth):
            weight, bias, start = weights[layer], biases[layer], starts[layer]
            decay, theta, zero = decays[layer], thetas[layer], zeros[layer]
            alpha, beta, rho = extras[layer][0], extras[layer][1], extras[layer][2]
            flow[:] = 0.0
            lift[:] = 0.0
            width = weight.shape[1]
            here, there = layer % 2, (layer + 1) % 2
            late = delays[layer - 1] if layer else 0
            for i in range(width):
                v[i] = start[i]
            if layer == 0:
                for i in range(width):
                    drive[i] = 0.0
                for j in range(x.shape[1]):
                    value = np.float64(x[b, j])
                    if value != 0.0:
                        for i in range(width):
                            drive[i] += value * weight[j, i]
                for i in range(width):
                    drive[i] += bias[i]
            for t in range(steps):
                if layer == 0:
                    for i in range(width):
                        current[i] = drive[i]
                else:
                    for i in range(width):
                        current[i] = 0.0
                    if t >= late:
                        heard, k = fired[there, t - late], 0
                        stop = n_fired[there, t - late]
                        while k + 4 <= stop:  # four at a time, added one after the other
                            first, second = weight[heard[k]], weight[heard[k + 1]]
                            third, fourth = weight[heard[k + 2]], weight[heard[k + 3]]
                            for i in range(width):
                                some = current[i] + first[i] + second[i]
                                current[i] = some + third[i] + fourth[i]
                            k += 4
                        while k < stop:
                            row = weight[heard[k]]
                            for i in range(width):
                                current[i] += row[i]
                            k += 1
                    for i in range(width):
                        current[i] += bias[i]
                if alpha > 0:
                    for i in range(width):
                        flow[i] = alpha * flow[i] + current[i]
                        current[i] = flow[i]
                for i in range(width):
                    v[i] = decay[i] * v[i] + current[i]
                if beta > 0:
                    for i in range(width):
                        level[i] = theta[i] + beta * lift[i]
                        lift[i] = rho * lift[i] + (1.0 if v[i] >= level[i] else 0.0)
                else:
                    for i in range(width):
                        level[i] = theta[i]
                n = 0
                for i in range(width):  # without a branch: whether a neuron fires is hard to guess
                    fired[here, t, n] = i
                    n += v[i] >= level[i]
                for i in range(width):
                    left = 0.0 if zero else v[i] - theta[i]
                    v[i] = left if v[i] >= level[i] else v[i]
                n_fired[here, t] = n
                if layer == depth - 1 and t < counted:
                    for k in range(n):
                        counts[b, fired[here, t, k]] += 1.0


@_compiled
def same(one, other):  # type: ignore[no-untyped-def]
    """Whether two matrices of one shape hold the same numbers; not a number is none of them."""
    for j in range(one.shape[0]):
        differ = 0
        for i in range(one.shape[1]):
            differ += one[j, i] != other[j, i]
        if differ:
            return False
    return True


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
