"""The compiled half of the "cpu" back end: one function that carries rows through all T steps.

Imports numpy and numba. A network comes flattened: `program` holds one row of sizes, flags and
offsets per layer of neurons (the constants below name its columns), `values` every number of every
layer. One signature for every network: compiled once, then loaded from numba's cache on disk.

Order of work: row by row, layer by layer, all T steps of a layer before the next one. Layers feed
forward only, so this gives what stepping all layers together gives, and the weights of one layer
stay in the nearest cache. Spikes travel as bits, one row of 64-bit words per step.
"""
# mypy: allow-untyped-defs, allow-untyped-calls
# numba infers the types of compiled functions; annotations would repeat what it finds.

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 8  # doubles per vector; padding, blocks and bytes of bits are made of it
GROUP = 2  # events are added in groups of this size, filled up with a neuron of weight 0
CHAINS = 2  # sums that run side by side, as an addition waits for the one before it
BLOCKS = (64, 16, 8)  # neurons that are advanced together, accumulators in registers

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
    PLAIN,  # 1: decay 1, no floor, reset by subtraction
    NARROW,  # 1: weights and the sums of one step in float32
    SLOW,  # 1: refractory or recurrent, stepped neuron by neuron
    RECURRENT,  # 1: it has recurrent weights
    WEIGHT,  # offsets into `values` ...
    BIAS,
    DECAY,
    THRESHOLD,
    FLOOR,
    FEEDBACK,  # recurrent weights, [from, to padded]
    FAN_IN,  # neurons it listens to
    SYNAPSE_STARTS,  # offsets into `index`: [FAN_IN + 1] first synapses, then their targets
    TARGETS,
    STATE,  # offset of its neurons in a row of `v`, `resting` and `counts`
    FLIGHT,  # offset of its kept spikes in a row of `flight`
    BITS,  # offset of its spikes in `bits`
    SPIKES,  # neurons of all layers before it: where its recorded spikes begin
) = range(COLUMNS := 26)

CURRENT, EVENTS, SYNAPSES, TOTALS = range(4)  # SOURCE: given; weight rows; sparse; spike counts


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile lazily, cached on disk where there is a place for it."""
    compiled: Callable[..., Any]
    try:
        compiled = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no writable directory for the cache: compile in each process
        compiled = numba.njit(nogil=True, error_model="numpy")(function)
    return compiled


def _instructions(emitter: Callable[..., Any]) -> Callable[..., Any]:
    """A function of compiled code that brings its own instructions."""
    return intrinsic(emitter)


@_instructions
def _trailing_zeros(_: Any, word: Any) -> Any:
    """Position of the lowest set bit of a word that is not zero."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), emit


@_instructions
def _advance_block(_: Any, arguments: Any) -> Any:
    """Advance one block of neurons by all steps; arguments as _Block takes them.

    Vector instructions, because potentials, sums and counts then stay in registers for the whole
    run, where a numba loop loads and stores them at every event. No operation is fused.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        numbers = cgutils.unpack_tuple(builder, args[0])
        for width, plain, narrow in product(BLOCKS, (0, 1), (0, 1)):
            wanted = _whole(width + 2 * plain + narrow)
            with builder.if_then(builder.icmp_signed("==", numbers[0], wanted)):
                _Block(builder, width, bool(plain), bool(narrow), numbers[1:]).emit()
        return context.get_dummy_value()

    return types.none(arguments), emit


_DOUBLE, _I8, _I32, _I64 = ir.DoubleType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_REALS = ir.VectorType(_DOUBLE, LANES)


def _whole(number: int) -> Any:
    return ir.Constant(_I64, number)


class _Block:
    """Emits the instructions for one width of block; addresses and strides are in bytes."""

    def __init__(self, builder, width, plain, narrow, numbers):
        self.builder, self.width, self.plain, self.narrow = builder, width, plain, narrow
        self.vectors = range(width // LANES)
        (self.subtract, self.steps, self.weight, self.base, self.base_stride) = numbers[:5]
        (self.decay, self.threshold, self.floor, self.v, self.counts) = numbers[5:10]
        (self.starts, self.events, self.bits, self.bits_stride) = numbers[10:]

    def emit(self) -> None:
        """The loop over steps, the loop over the events of a step, and the update of v."""
        build = self.builder
        zero = ir.Constant(_REALS, None)
        potential, fired = self.variables(), self.variables()  # counts as doubles: one instruction
        one = ir.Constant(_REALS, [1.0] * LANES)
        limit = [self.vector(self.threshold, k) for k in self.vectors]
        for k in self.vectors:
            build.store(self.vector(self.v, k), potential[k])
            build.store(zero, fired[k])
        subtract = build.icmp_signed("!=", self.subtract, _whole(0))
        with cgutils.for_range(build, self.steps, intp=_I64) as loop:
            total = self.add_events(loop.index)
            base = self.at(self.base, loop.index, self.base_stride)
            bits = self.at(self.bits, loop.index, self.bits_stride)
            for k in self.vectors:
                current = build.fadd(total[k], self.vector(base, k))
                u = build.load(potential[k])
                if self.plain:
                    u = build.fadd(u, current)
                else:
                    u = build.fadd(build.fmul(self.vector(self.decay, k), u), current)
                    low = self.vector(self.floor, k)
                    u = build.select(build.fcmp_ordered("<", u, low), low, u)
                spikes = build.fcmp_ordered(">=", u, limit[k])
                after = build.fsub(u, limit[k])
                if not self.plain:
                    after = build.select(subtract, after, zero)
                build.store(build.select(spikes, after, u), potential[k])
                count = build.load(fired[k])
                build.store(build.select(spikes, build.fadd(count, one), count), fired[k])
                self.store(build.bitcast(spikes, _I8), build.add(bits, _whole(k)), 1)
        for k in self.vectors:
            offset = _whole(k * LANES * 8)
            self.store(build.load(potential[k]), build.add(self.v, offset), 8)
            count = build.fptosi(build.load(fired[k]), ir.VectorType(_I64, LANES))
            self.store(count, build.add(self.counts, offset), 8)

    def add_events(self, step: Any) -> list[Any]:
        """The sum of the weight rows of all neurons that spike in this step, per vector."""
        build = self.builder
        lanes = min(2 * LANES, self.width) if self.narrow else LANES
        kind = ir.VectorType(ir.FloatType() if self.narrow else _DOUBLE, lanes)
        parts = range(self.width // lanes)
        row_bytes = self.width * (4 if self.narrow else 8)
        sums = [[cgutils.alloca_once(build, kind) for _ in parts] for _ in range(CHAINS)]
        for chain in sums:
            for part in chain:
                build.store(ir.Constant(kind, None), part)
        first = self.load(_I64, self.at(self.starts, step, _whole(8)), 8)
        last = self.load(_I64, self.at(self.starts, build.add(step, _whole(1)), _whole(8)), 8)
        with cgutils.for_range_slice(build, first, last, _whole(GROUP), intp=_I64) as (event, _):
            for e in range(GROUP):
                place = self.at(self.events, build.add(event, _whole(e)), _whole(4))
                neuron = build.zext(self.load(_I32, place, 4), _I64)
                row = self.at(self.weight, neuron, _whole(row_bytes))
                for p in parts:
                    here = build.add(row, _whole(p * row_bytes // len(parts)))
                    into = sums[e % CHAINS][p]
                    build.store(build.fadd(build.load(into), self.load(kind, here, 4)), into)
        total = []
        for p in parts:
            value = build.load(sums[0][p])
            for chain in sums[1:]:
                value = build.fadd(value, build.load(chain[p]))
            for half in range(0, lanes, LANES):
                lane = ir.Constant(ir.VectorType(_I32, LANES), list(range(half, half + LANES)))
                piece = build.shuffle_vector(value, value, lane) if lanes > LANES else value
                total.append(build.fpext(piece, _REALS) if self.narrow else piece)
        return total

    def at(self, address: Any, index: Any, stride: Any) -> Any:
        return self.builder.add(address, self.builder.mul(index, stride))

    def variables(self) -> list[Any]:
        return [cgutils.alloca_once(self.builder, _REALS) for _ in self.vectors]

    def vector(self, address: Any, k: int) -> Any:
        return self.load(_REALS, self.builder.add(address, _whole(k * LANES * 8)), 8)

    def load(self, kind: Any, address: Any, align: int) -> Any:
        value = self.builder.load(self.builder.inttoptr(address, kind.as_pointer()))
        value.align = align
        return value

    def store(self, value: Any, address: Any, align: int) -> None:
        pointer = self.builder.inttoptr(address, value.type.as_pointer())
        self.builder.store(value, pointer).align = align


@_compiled
def _advance_fast(steps, layer, values, base, base_stride, v, counts, starts, events, bits):
    """All steps of a layer without refractoriness or recurrence, block by block."""
    numbers = values.ctypes.data
    weight = numbers + layer[WEIGHT] * 8
    done = 0
    while done < layer[PADDED]:
        width = _block_width(layer[PADDED] - done)
        o = done * 8
        numbers_of_block = (
            width + 2 * layer[PLAIN] + layer[NARROW], layer[SUBTRACT], steps,
            weight, base.ctypes.data + o, base_stride * 8,
            numbers + layer[DECAY] * 8 + o, numbers + layer[THRESHOLD] * 8 + o,
            numbers + layer[FLOOR] * 8 + o, v.ctypes.data + o, counts.ctypes.data + o,
            starts.ctypes.data, events.ctypes.data, bits.ctypes.data + done // 8, layer[WORDS] * 8,
        )  # fmt: skip
        _advance_block(numbers_of_block)
        weight += width * (layer[FAN_IN] + 1) * (4 if layer[NARROW] else 8)
        done += width


def block_width(left: int) -> int:
    """The widest block that fits into this many padded neurons."""
    wide, medium, narrow = BLOCKS
    return wide if left >= wide else medium if left >= medium else narrow


_block_width = _compiled(block_width)


@_compiled
def _advance_slow(
    steps, layer, values, base, base_stride, v, resting, counts, starts, events, bits, current
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
                    row = layer[FEEDBACK] + (w * 64 + _trailing_zeros(word)) * padded
                    word &= word - np.uint64(1)
                    heard[:n] += values[row : row + n]
            current[:n] += heard[:n]
        out = (layer[KEPT] + t) * words
        bits[out : out + words] = 0
        for j in range(n):
            if resting[j] > 0:
                resting[j] -= 1
                continue
            u = values[layer[DECAY] + j] * v[j] + current[j]
            u = max(u, values[layer[FLOOR] + j])
            if u >= values[layer[THRESHOLD] + j]:
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
                events[found] = w * 64 + _trailing_zeros(word)
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
                totals[w % words * 64 + _trailing_zeros(word)] += sign
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
    steps, program, values, index, currents, constant, v, resting, flight, counts,
    scratch_bits, starts, events, base, totals, sums, spikes,
):  # fmt: skip
    """Carry the rows of `currents` through all steps, from and to the state in v, resting, flight.

    currents:      [T or 1, B, n] of the first layer of neurons, bias included.
    constant:      currents has one step, which holds for all T.
    v, resting:    [B, STATE of all]; flight: [B, FLIGHT of all] 64-bit words.
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
                    counts[b, state], listed, events, bits, sums,
                )  # fmt: skip
            else:
                _advance_fast(
                    steps, layer, values, current, stride, v[b, state], counts[b, state],
                    listed, events, bits[kept:],
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
