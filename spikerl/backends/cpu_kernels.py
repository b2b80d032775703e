"""The compiled half of the "cpu" back end: one function that carries rows through all T steps.

Imports numpy, compiling and cpu_blocks. A network comes flattened: `program` holds one row of
sizes, flags and offsets per layer of neurons (the constants below name its columns), `values` every
number of every layer. One signature for every network: compiled once, then loaded from numba's
cache on disk.

Order of work: row by row, layer by layer, all T steps of a layer before the next one. Layers feed
forward only, so this gives what stepping all layers together gives, and the weights of one layer
stay in the nearest cache. Spikes travel as bits, one row of 64-bit words per step.
"""
# mypy: allow-untyped-defs, allow-untyped-calls
# numba infers the types of compiled functions; annotations would repeat what it finds.

from __future__ import annotations

import numpy as np

from spikerl.backends import cpu_blocks
from spikerl.backends.cpu_blocks import (
    BLOCKS,
    GROUP,
    LEAKY,
    PLAIN,
    WIDE,
    advance_block,
    trailing_zeros,
)
from spikerl.compiling import compiling

(
    SIZE,  # neurons
    PADDED,  # neurons, rounded up to whole vectors
    WORDS,  # 64-bit words per step of spikes
    DELAY,  # delay_steps
    KEPT,  # steps of spikes kept between runs: max(1, delay_steps)
    REFRACTORY,  # refractory_steps
    SUBTRACT,  # 1: reset by subtraction, 0: to zero
    SPIKING,  # 0: a read-out
    SOURCE,  # where its current comes from, see below
    KIND,  # LEAKY, PLAIN or FILTERED, see cpu_blocks.py
    PRECISION,  # WIDE, NARROW or SHORT weights, see cpu_blocks.py
    SLOW,  # 1: refractory or recurrent, stepped neuron by neuron
    RECURRENT,  # 1: it has recurrent weights
    WEIGHT,  # offsets into `values` ...
    BIAS,
    DECAY,
    THRESHOLD,
    FLOOR,
    CURRENT_DECAY,  # only where SLOW or FILTERED
    ADAPTATION,
    ADAPTATION_DECAY,
    FEEDBACK,  # recurrent weights, [from, to padded]
    FAN_IN,  # neurons it listens to
    SYNAPSE_STARTS,  # offsets into `index`: [FAN_IN + 1] first synapses, then their targets
    TARGETS,
    STATE,  # offset of its neurons in a row of `v`, `resting` and `counts`
    FLIGHT,  # offset of its kept spikes in a row of `flight`
    BITS,  # offset of its spikes in `bits`
    SPIKES,  # neurons of all layers before it: where its recorded spikes begin
) = range(COLUMNS := 29)

CURRENT, EVENTS, SYNAPSES, TOTALS = range(4)  # SOURCE: given; weight rows; sparse; spike counts

_compiled = compiling(cpu_blocks.__file__)


@_compiled
def _advance_fast(
    steps, layer, values, base, base_stride, v, flow, lift, counts, starts, events, bits
):
    """All steps of a layer without refractoriness or recurrence, block by block."""
    numbers = values.ctypes.data
    weight = numbers + layer[WEIGHT] * 8
    done = 0
    while done < layer[PADDED]:
        width = _block_width(layer[PADDED] - done)
        o = done * 8
        numbers_of_block = (
            16 * width + 4 * layer[KIND] + layer[PRECISION], layer[SUBTRACT], steps,
            weight, base.ctypes.data + o, base_stride * 8,
            numbers + layer[DECAY] * 8 + o, numbers + layer[THRESHOLD] * 8 + o,
            numbers + layer[FLOOR] * 8 + o, v.ctypes.data + o, counts.ctypes.data + o,
            starts.ctypes.data, events.ctypes.data, bits.ctypes.data + done // 8, layer[WORDS] * 8,
            numbers + layer[CURRENT_DECAY] * 8 + o, numbers + layer[ADAPTATION] * 8 + o,
            numbers + layer[ADAPTATION_DECAY] * 8 + o, flow.ctypes.data + o, lift.ctypes.data + o,
        )  # fmt: skip
        advance_block(numbers_of_block)
        weight += width * (layer[FAN_IN] + 1) * (8 if layer[PRECISION] == WIDE else 4)
        done += width


def block_width(left: int) -> int:
    """The widest block that fits into this many padded neurons."""
    wide, medium, narrow = BLOCKS
    return wide if left >= wide else medium if left >= medium else narrow


_block_width = _compiled(block_width)


@_compiled
def _advance_slow(
    steps,
    layer,
    values,
    base,
    base_stride,
    v,
    resting,
    flow,
    lift,
    counts,
    starts,
    events,
    bits,
    current,
):
    """All steps of any layer, one neuron after the other; weights are [n_in, padded]."""
    n, padded, words = layer[SIZE], layer[PADDED], layer[WORDS]
    for t in range(steps):
        current[:n] = 0.0
        for e in range(starts[t], starts[t + 1]):
            row = layer[WEIGHT] + events[e] * padded
            current[:n] += values[row : row + n]
        current[:n] += base[t * base_stride : t * base_stride + n]
        if layer[RECURRENT]:
            heard = current[padded:]
            heard[:n] = 0.0
            for w in range(words):
                word = bits[t * words + w]  # KEPT - max(1, delay) is 0: the oldest that is kept
                while word:
                    row = layer[FEEDBACK] + (w * 64 + trailing_zeros(word)) * padded
                    word &= word - np.uint64(1)
                    heard[:n] += values[row : row + n]
            current[:n] += heard[:n]
        out = (layer[KEPT] + t) * words
        bits[out : out + words] = 0
        for j in range(n):
            flow[j] = values[layer[CURRENT_DECAY] + j] * flow[j] + current[j]
            raised = values[layer[ADAPTATION] + j] * lift[j]
            lift[j] = values[layer[ADAPTATION_DECAY] + j] * lift[j]
            if resting[j] > 0:
                resting[j] -= 1
                continue
            u = values[layer[DECAY] + j] * v[j] + flow[j]
            u = max(u, values[layer[FLOOR] + j])
            if u >= values[layer[THRESHOLD] + j] + raised:
                lift[j] += 1.0
                u = u - values[layer[THRESHOLD] + j] if layer[SUBTRACT] else 0.0
                resting[j] = layer[REFRACTORY]
                counts[j] += 1
                bits[out + j // 64] |= np.uint64(1) << np.uint64(j % 64)
            v[j] = u


@_compiled
def _list_events(steps, words, silent, bits, starts, events):
    """The neurons that spike at each step: events[starts[t] : starts[t + 1]]."""
    found = 0
    for t in range(steps):
        starts[t] = found
        for w in range(words):
            word = bits[t * words + w]
            while word:
                events[found] = w * 64 + trailing_zeros(word)
                word &= word - np.uint64(1)
                found += 1
        while found % GROUP:
            events[found] = silent
            found += 1
    starts[steps] = found


@_compiled
def _spread(steps, layer, values, index, starts, events, base):
    """Currents [T, padded] through sparse connections, bias included."""
    n, padded = layer[SIZE], layer[PADDED]
    targets, weights = layer[TARGETS], layer[WEIGHT]
    for t in range(steps):
        row = base[t * padded : (t + 1) * padded]
        row[:] = 0.0
        for e in range(starts[t], starts[t + 1]):
            at = layer[SYNAPSE_STARTS] + events[e]
            for q in range(index[at], index[at + 1]):
                row[index[targets + q]] += values[weights + q]
        row[:n] += values[layer[BIAS] : layer[BIAS] + n]


@_compiled
def _sum_totals(steps, layer, before, values, counts, bits, v, totals):
    """A read-out that only adds up: one product with the spikes that arrived, not one per step."""
    words, delay = before[WORDS], before[DELAY]
    totals[: before[SIZE]] = counts[before[STATE] : before[STATE] + before[SIZE]]
    for sign, first in ((1, 0), (-1, steps)):  # sent before this run; not yet arrived at its end
        at = (before[KEPT] - delay + first) * words
        for w in range(delay * words):
            word = bits[at + w]
            while word:
                totals[w % words * 64 + trailing_zeros(word)] += sign
                word &= word - np.uint64(1)
    n = layer[SIZE]
    for i in range(before[SIZE]):
        if totals[i]:
            row = layer[WEIGHT] + i * layer[PADDED]
            for j in range(n):
                v[j] += totals[i] * values[row + j]
    v[:n] += steps * values[layer[BIAS] : layer[BIAS] + n]


@_compiled
def decide(
    steps, program, values, index, currents, constant, v, resting, flow, lift, flight, counts,
    scratch_bits, starts, events, base, totals, sums, spikes,
):  # fmt: skip
    """Carry the rows of `currents` through all steps, from and to the state in v ... flight.

    currents:      [T or 1, B, n] of the first layer of neurons, bias included.
    constant:      currents has one step, which holds for all T.
    v, resting, flow, lift: [B, STATE of all]; flow and lift are those of reference.py's current and
                   lift. flight: [B, FLIGHT of all] 64-bit words.
    counts:        [B, STATE of all], zero on entry.
    scratch_bits, starts, events, base, totals, sums: room to work in, large enough for T steps.
    spikes:        room for every layer's [T, B, n] one after the other, or empty.
    """
    rows, none = currents.shape[1], starts[1]  # none: T + 1 zeros, as currents have no events
    for b in range(rows):
        for k in range(len(program)):
            layer = program[k]
            n, padded, words = layer[SIZE], layer[PADDED], layer[WORDS]
            bits = scratch_bits[layer[BITS] :]
            kept = layer[KEPT] * words
            state = slice(layer[STATE], layer[STATE] + padded)
            bits[:kept] = flight[b, layer[FLIGHT] : layer[FLIGHT] + kept]
            before = program[k - 1]
            sent = scratch_bits[before[BITS] + (before[KEPT] - before[DELAY]) * before[WORDS] :]

            if layer[SOURCE] == TOTALS:
                heard, own = scratch_bits[before[BITS] :], v[b, state]
                _sum_totals(steps, layer, before, values, counts[b], heard, own, totals)
                continue
            listed, stride, current = none, 0, base
            if layer[SOURCE] == CURRENT:
                for t in range(len(currents)):
                    base[t * padded : t * padded + n] = currents[t, b]
                    base[t * padded + n : (t + 1) * padded] = 0.0
                stride = 0 if constant else padded
            else:
                _list_events(steps, before[WORDS], layer[FAN_IN], sent, starts[0], events)
                if layer[SOURCE] == SYNAPSES:
                    _spread(steps, layer, values, index, starts[0], events, base)
                    stride = padded
                else:
                    listed, current = starts[0], values[layer[BIAS] :]
            if layer[SLOW]:
                _advance_slow(
                    steps, layer, values, current, stride, v[b, state], resting[b, state],
                    flow[b, state], lift[b, state], counts[b, state], listed, events, bits, sums,
                )  # fmt: skip
            else:
                _advance_fast(
                    steps, layer, values, current, stride, v[b, state], flow[b, state],
                    lift[b, state], counts[b, state], listed, events, bits[kept:],
                )  # fmt: skip
            latest = bits[steps * words : steps * words + kept]
            flight[b, layer[FLIGHT] : layer[FLIGHT] + kept] = latest
            if len(spikes) and layer[SPIKING]:
                first = layer[SPIKES] * steps * rows
                for t in range(steps):
                    out = first + (t * rows + b) * n
                    at = kept + t * words
                    for j in range(n):
                        shift = np.uint64(j % 64)
                        spikes[out + j] = (bits[at + j // 64] >> shift) & np.uint64(1)


@_compiled
def same(one, other):
    """Whether two matrices of one shape hold the same numbers; not a number is none of them."""
    for j in range(one.shape[0]):
        differ = 0
        for i in range(one.shape[1]):
            differ += one[j, i] != other[j, i]
        if differ:
            return False
    return True


@_compiled
def _write_blocks(values, at, n, fan_in, padded, weight):
    """Weights [n, n_in] into the blocks that begin at values[at]."""
    done = 0
    while done < padded:
        width = _block_width(padded - done)
        for j in range(fan_in):
            for i in range(min(width, n - done)):
                values[at + j * width + i] = weight[done + i, j]
        at += width * (fan_in + 1)
        done += width


@_compiled
def put(layer, values, start, weight, seen, bias, decay, threshold, v_init):
    """Write other numbers [n] into a layer, and weights [n, n_in] if they are not those seen.

    start: the first potentials, [STATE of all].
    """
    n, fan_in, padded = layer[SIZE], layer[FAN_IN], layer[PADDED]
    for i in range(n):
        values[layer[BIAS] + i] = bias[i]
        values[layer[DECAY] + i] = decay[i]
        values[layer[THRESHOLD] + i] = threshold[i]
        start[layer[STATE] + i] = v_init[i]
        if layer[KIND] == PLAIN and decay[i] != 1:
            layer[KIND] = LEAKY
    if same(weight, seen):
        return
    seen[:] = weight
    if layer[PRECISION] == WIDE:
        _write_blocks(values, layer[WEIGHT], n, fan_in, padded, weight)
    else:
        _write_blocks(values.view(np.float32), 2 * layer[WEIGHT], n, fan_in, padded, weight)
