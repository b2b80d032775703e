"""Blocks of neurons carried through all steps by vector instructions written out for them.

Imports numba. cpu_kernels has the loops around it.
"""
# mypy: allow-untyped-defs, allow-untyped-calls
# numba infers the types of compiled functions; annotations would repeat what it finds.

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 8  # doubles per vector; padding, blocks and bytes of bits are made of it
GROUP = 2  # events are added in groups of this size, filled up with a neuron of weight 0
CHAINS = 2  # sums that run side by side, as an addition waits for the one before it
BLOCKS = (64, 16, 8)  # neurons that are advanced together, accumulators in registers
LEAKY, PLAIN, FILTERED = range(3)  # PLAIN: no leak, no floor; FILTERED: a current, or it adapts
WIDE, NARROW, SHORT = range(3)  # weights and their sums; NARROW: both in float32; SHORT: weights


def _instructions(emitter: Callable[..., Any]) -> Callable[..., Any]:
    """A function of compiled code that brings its own instructions."""
    return intrinsic(emitter)


@_instructions
def trailing_zeros(_: Any, word: Any) -> Any:
    """Position of the lowest set bit of a word that is not zero."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), emit


@_instructions
def advance_block(_: Any, arguments: Any) -> Any:
    """Advance one block of neurons by all steps; arguments as _Block takes them.

    Vector instructions, because potentials, sums and counts then stay in registers for the whole
    run, where a numba loop loads and stores them at every event. No operation is fused.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        numbers = cgutils.unpack_tuple(builder, args[0])
        kinds, precisions = (LEAKY, PLAIN, FILTERED), (WIDE, NARROW, SHORT)
        for width, kind, precision in product(BLOCKS, kinds, precisions):
            wanted = _whole(16 * width + 4 * kind + precision)
            with builder.if_then(builder.icmp_signed("==", numbers[0], wanted)):
                _Block(builder, width, kind, precision, numbers[1:]).emit()
        return context.get_dummy_value()

    return types.none(arguments), emit


_DOUBLE, _I8, _I32, _I64 = ir.DoubleType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_REALS = ir.VectorType(_DOUBLE, LANES)


def _whole(number: int) -> Any:
    return ir.Constant(_I64, number)


class _Block:
    """Emits the instructions for one width of block; addresses and strides are in bytes."""

    def __init__(self, builder, width, kind, precision, numbers):
        self.builder, self.width, self.kind, self.precision = builder, width, kind, precision
        self.vectors = range(width // LANES)
        (self.subtract, self.steps, self.weight, self.base, self.base_stride) = numbers[:5]
        (self.decay, self.threshold, self.floor, self.v, self.counts) = numbers[5:10]
        (self.starts, self.events, self.bits, self.bits_stride) = numbers[10:14]
        (self.current_decay, self.adaptation, self.adaptation_decay) = numbers[14:17]
        (self.flow, self.lift) = numbers[17:]

    def emit(self) -> None:
        """The loop over steps, the loop over the events of a step, and the update of v."""
        build = self.builder
        zero = ir.Constant(_REALS, None)
        filtered = self.kind == FILTERED
        potential, fired = self.variables(), self.variables()  # counts as doubles: one instruction
        flow, lift = self.variables(), self.variables()
        one = ir.Constant(_REALS, [1.0] * LANES)
        limit = [self.vector(self.threshold, k) for k in self.vectors]
        for k in self.vectors:
            build.store(self.vector(self.v, k), potential[k])
            build.store(zero, fired[k])
            if filtered:
                build.store(self.vector(self.flow, k), flow[k])
                build.store(self.vector(self.lift, k), lift[k])
        subtract = build.icmp_signed("!=", self.subtract, _whole(0))
        with cgutils.for_range(build, self.steps, intp=_I64) as loop:
            total = self.add_events(loop.index)
            base = self.at(self.base, loop.index, self.base_stride)
            bits = self.at(self.bits, loop.index, self.bits_stride)
            for k in self.vectors:
                current = build.fadd(total[k], self.vector(base, k))
                u, level = build.load(potential[k]), limit[k]
                if filtered:
                    left = build.fmul(self.vector(self.current_decay, k), build.load(flow[k]))
                    current = build.fadd(left, current)
                    build.store(current, flow[k])
                    raised = build.fmul(self.vector(self.adaptation, k), build.load(lift[k]))
                    level = build.fadd(level, raised)
                if self.kind == PLAIN:
                    u = build.fadd(u, current)
                else:
                    u = build.fadd(build.fmul(self.vector(self.decay, k), u), current)
                    low = self.vector(self.floor, k)
                    u = build.select(build.fcmp_ordered("<", u, low), low, u)
                spikes = build.fcmp_ordered(">=", u, level)
                after = build.fsub(u, limit[k])
                if self.kind != PLAIN:
                    after = build.select(subtract, after, zero)
                build.store(build.select(spikes, after, u), potential[k])
                count = build.load(fired[k])
                build.store(build.select(spikes, build.fadd(count, one), count), fired[k])
                if filtered:
                    left = build.fmul(self.vector(self.adaptation_decay, k), build.load(lift[k]))
                    build.store(build.select(spikes, build.fadd(left, one), left), lift[k])
                self.store(build.bitcast(spikes, _I8), build.add(bits, _whole(k)), 1)
        ends = [(potential, self.v)]
        ends += [(flow, self.flow), (lift, self.lift)] if filtered else []
        for k in self.vectors:
            offset = _whole(k * LANES * 8)
            for variables, address in ends:
                self.store(build.load(variables[k]), build.add(address, offset), 8)
            count = build.fptosi(build.load(fired[k]), ir.VectorType(_I64, LANES))
            self.store(count, build.add(self.counts, offset), 8)

    def add_events(self, step: Any) -> list[Any]:
        """The sum of the weight rows of all neurons that spike in this step, per vector."""
        build = self.builder
        narrow = self.precision == NARROW
        lanes = min(2 * LANES, self.width) if narrow else LANES
        kind = ir.VectorType(ir.FloatType() if narrow else _DOUBLE, lanes)
        held = kind if self.precision == WIDE else ir.VectorType(ir.FloatType(), lanes)
        parts = range(self.width // lanes)
        row_bytes = self.width * (8 if self.precision == WIDE else 4)
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
                    weights = self.load(held, here, 4)
                    if self.precision == SHORT:
                        weights = build.fpext(weights, kind)
                    build.store(build.fadd(build.load(into), weights), into)
        total = []
        for p in parts:
            value = build.load(sums[0][p])
            for chain in sums[1:]:
                value = build.fadd(value, build.load(chain[p]))
            for half in range(0, lanes, LANES):
                lane = ir.Constant(ir.VectorType(_I32, LANES), list(range(half, half + LANES)))
                piece = build.shuffle_vector(value, value, lane) if lanes > LANES else value
                total.append(build.fpext(piece, _REALS) if narrow else piece)
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
