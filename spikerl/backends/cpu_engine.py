"""Engine: a planned network with its state, stepped by the kernels.

The "cpu" back end's session runs on it, and so do the decisions of policies in training, whose
weights change between runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.backends import cpu_kernels as code
from spikerl.backends.cpu_blocks import FILTERED, GROUP, LANES
from spikerl.backends.cpu_plan import Plan
from spikerl.connections import IntArray
from spikerl.layers import FloatArray


class Engine:
    """The numbers and the state of a network for so many rows; layers are those with neurons.

    neurons: of all layers that spike.
    """

    def __init__(self, plan: Plan, rows: int) -> None:
        self._program = np.array(plan.rows)
        self._values = aligned(np.concatenate(plan.values))
        self._index = np.concatenate([np.zeros(1, np.int64), *plan.index])
        self._start = aligned(plan.v_init)
        self._v = aligned(np.tile(plan.v_init, (rows, 1)))
        self._resting = np.zeros(self._v.shape, dtype=np.int64)
        self._flow, self._lift = np.zeros(self._v.shape), np.zeros(self._v.shape)
        self._flight = np.zeros((rows, plan.flight), dtype=np.uint64)
        # what this network has of them; the others stay at zero
        slow = self._program[:, code.SLOW].any()
        filtered = slow or (self._program[:, code.KIND] == FILTERED).any()
        self._rest: list[NDArray[Any]] = [self._resting] if slow else []
        self._rest += [self._flow, self._lift] if filtered else []
        self._rest += [self._flight] if slow or self._program[:, code.DELAY].any() else []
        spiking = self._program[:, code.SPIKING] == 1
        self.neurons = int(self._program[spiking, code.SIZE].sum())
        self._parts = [
            (slice(row[code.STATE], row[code.STATE] + row[code.SIZE]), bool(row[code.SPIKING]))
            for row in plan.rows
        ]
        self._room: tuple[NDArray[Any], ...] = ()
        self._room_steps = 0
        self._nothing = np.zeros(0, dtype=np.uint8)
        self._seen: dict[int, NDArray[Any]] = {}

    def run(
        self, currents: FloatArray, steps: int, spikes: NDArray[np.uint8] | None = None
    ) -> tuple[IntArray, ...]:
        """Advance the first B rows by so many steps; the spike counts of every spiking layer.

        currents: [T, B, n] of the first layer, bias included, or [1, B, n] for all steps.
        spikes:   filled with [T, B, n] of every spiking layer, one after the other.
        """
        if steps > self._room_steps:
            self._make_room(steps)
        counts = np.zeros((currents.shape[1], self._v.shape[1]), dtype=np.int64)
        code.decide(
            steps,
            self._program,
            self._values,
            self._index,
            currents,
            len(currents) == 1,
            self._v,
            self._resting,
            self._flow,
            self._lift,
            self._flight,
            counts,
            *self._room,
            self._nothing if spikes is None else spikes,
        )
        return tuple([counts[:, part] for part, spiking in self._parts if spiking])

    def potentials(self, rows: int) -> tuple[FloatArray, ...]:
        """A copy of the potentials [rows, n] of every layer."""
        v = self._v[:rows].copy()
        return tuple([v[:, part] for part, _ in self._parts])

    def put(
        self,
        layer: int,
        weight: NDArray[Any] | None,
        bias: NDArray[Any],
        decay: NDArray[Any],
        threshold: NDArray[Any],
        v_init: NDArray[Any],
    ) -> None:
        """Other numbers for a dense layer, which enter float64 sums as they are.

        weight: [n, n_in], laid out anew only if it has changed, or None for the first layer, whose
        currents are given. The others: [n]; v_init holds from the next reset on.
        """
        if weight is None:
            weight = bias[:0, None]
        seen = self._seen.get(layer)
        if seen is None or seen.dtype != weight.dtype:
            seen = self._seen[layer] = np.full(weight.shape, np.nan, weight.dtype)
        row, rest = self._program[layer], (bias, decay, threshold, v_init)
        code.put(row, self._values, self._start, weight, seen, *rest)

    def reset(self, rows: Any = slice(None)) -> None:
        """Rows (a mask, a slice) as they were first."""
        self._v[rows] = self._start
        for state in self._rest:
            state[rows] = 0

    def _make_room(self, steps: int) -> None:
        """Working memory for runs of up to this many steps; kept, and shared by all rows."""
        program, widest = self._program, int(self._program[:, code.PADDED].max())
        words = (program[:, code.KEPT] + steps) * program[:, code.WORDS]
        program[:, code.BITS] = np.cumsum(words) - words
        self._room = (
            np.zeros(words.sum(), dtype=np.uint64),
            np.zeros((2, steps + 1), dtype=np.int64),
            np.zeros(steps * (widest + GROUP), dtype=np.int32),
            aligned(np.zeros((steps, widest))).reshape(-1),
            np.zeros(widest, dtype=np.int64),
            np.zeros(2 * widest),
        )
        self._room_steps = steps


def aligned(values: FloatArray) -> FloatArray:
    """A copy that starts on a cache line, so that no vector crosses one."""
    room = np.empty(values.size + LANES)
    skip = (-room.ctypes.data % 64) // 8
    copy = room[skip : skip + values.size].reshape(values.shape)
    copy[...] = values
    return copy
