"""The "cpu" back end: the contract compiled for one processor core, event by event, in float64.

What it spends depends on the spikes: a neuron that is silent costs its update, not its weights. A
drive that is constant in time (stride 0 along T) is multiplied with the weights once per run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.backends import cpu_kernels as code
from spikerl.backends.base import (
    Capabilities,
    Session,
    capability_problems,
    refuse_options,
    require_runnable,
    self_tested,
)
from spikerl.backends.cpu_blocks import FILTERED, GROUP, LANES, LEAKY, PLAIN
from spikerl.connections import IntArray, neuron_bias, synapses
from spikerl.errors import BackendError
from spikerl.network import (
    Dense,
    Flatten,
    FloatArray,
    Layer,
    NeuronLayer,
    Recording,
    SpikingNetwork,
)


class CpuBackend:
    """The default back end: every feature of the contract, spike for spike the reference."""

    name = "cpu"
    capabilities = Capabilities(current=True, adaptation=True)

    def problems(self, network: SpikingNetwork) -> list[str]:
        """Every reason this network cannot run here; empty if it can."""
        return capability_problems(self.capabilities, network)

    def compile(
        self,
        network: SpikingNetwork,
        *,
        batch_size: int = 1,
        seed: int | None = None,
        **options: Any,
    ) -> Session:
        """A session in this process, without randomness.

        precision: "float64", or "float32" for weights and the sums of one step in float32 with
                   potentials in float64: faster in wide layers, and exact where the weights are
                   multiples of 2^-k whose sums fit into 24 bits. The session's network has the
                   rounded weights.
        Raises BackendError for another precision or another option.
        """
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options, ("precision",))
        precision = options.get("precision", "float64")
        if precision not in ("float64", "float32"):
            raise BackendError(
                f"back end 'cpu' has no precision {precision!r}, only 'float64' and 'float32'"
            )
        session = CpuSession(network, batch_size, narrow=precision == "float32")
        return self_tested(session, self.capabilities)


class CpuSession(Session):
    """A network laid out for the kernel, with its state."""

    def __init__(self, network: SpikingNetwork, batch_size: int, narrow: bool = False) -> None:
        plan = _Plan(network, narrow)
        self._first = plan.first
        self._program = np.array(plan.rows)
        self._values = _aligned(np.concatenate(plan.values))
        self._index = np.concatenate([np.zeros(1, np.int64), *plan.index])
        self._start = _aligned(plan.v_init)
        self._v = _aligned(np.tile(plan.v_init, (batch_size, 1)))
        self._resting = np.zeros(self._v.shape, dtype=np.int64)
        self._flow, self._lift = np.zeros(self._v.shape), np.zeros(self._v.shape)
        self._flight = np.zeros((batch_size, plan.flight), dtype=np.uint64)
        self._parts = [
            (slice(row[code.STATE], row[code.STATE] + row[code.SIZE]), bool(row[code.SPIKING]))
            for row in plan.rows
        ]
        self._neurons = sum(layer.n_out for layer in network.spiking_layers)
        self._room: tuple[NDArray[Any], ...] = ()
        self._room_steps = 0
        self._nothing = np.zeros(0, dtype=np.uint8)
        super().__init__(CpuBackend.name, plan.effective, batch_size)

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        steps, rows, _ = drive.shape
        if steps > self._room_steps:
            self._make_room(steps)
        constant = drive.strides[0] == 0
        currents = self._currents(drive[:1] if constant else drive)
        counts = np.zeros((rows, self._v.shape[1]), dtype=np.int64)
        spikes = self._nothing
        if record_spikes:
            spikes = np.empty(steps * rows * self._neurons, dtype=np.uint8)
        code.decide(
            steps,
            self._program,
            self._values,
            self._index,
            currents,
            constant,
            self._v,
            self._resting,
            self._flow,
            self._lift,
            self._flight,
            counts,
            *self._room,
            spikes,
        )
        v = self._v[:rows].copy()
        return Recording(
            tuple([counts[:, part] for part, spiking in self._parts if spiking]),
            tuple([v[:, part] for part, _ in self._parts]),
            steps,
            self._split(spikes, steps, rows) if record_spikes else None,
        )

    def _currents(self, drive: FloatArray) -> FloatArray:
        """W x + b of the first layer of neurons for every step of the drive, [T, B, n]."""
        steps, rows, n_in = drive.shape
        if steps > 1 and not all(isinstance(layer, (Dense, Flatten)) for layer in self._first):
            # unfolding the maps of all steps at once would take more memory than the network
            return np.concatenate([self._currents(drive[t : t + 1]) for t in range(steps)])
        x = drive.reshape(steps * rows, n_in)
        for layer in self._first:
            x = layer.apply(x)
        return np.ascontiguousarray(x).reshape(steps, rows, -1)

    def _split(
        self, spikes: NDArray[np.uint8], steps: int, rows: int
    ) -> tuple[NDArray[np.bool_], ...]:
        parts, at = [], 0
        for layer in self.network.spiking_layers:
            size = steps * rows * layer.n_out
            part = spikes[at : at + size].view(np.bool_)
            parts.append(part.reshape(steps, rows, layer.n_out))
            at += size
        return tuple(parts)

    def _make_room(self, steps: int) -> None:
        """Working memory for runs of up to this many steps; kept, and shared by all rows."""
        program, widest = self._program, int(self._program[:, code.PADDED].max())
        words = (program[:, code.KEPT] + steps) * program[:, code.WORDS]
        program[:, code.BITS] = np.cumsum(words) - words
        self._room = (
            np.zeros(words.sum(), dtype=np.uint64),
            np.zeros((2, steps + 1), dtype=np.int64),
            np.zeros(steps * (widest + GROUP), dtype=np.int32),
            _aligned(np.zeros((steps, widest))).reshape(-1),
            np.zeros(widest, dtype=np.int64),
            np.zeros(2 * widest),
        )
        self._room_steps = steps

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        rest = (self._resting, self._flow, self._lift, self._flight)
        if rows is None:
            self._v[:] = self._start
            for state in rest:
                state.fill(0)
        else:
            self._v[rows] = self._start
            for state in rest:
                state[rows] = 0

    def _close(self) -> None:
        self._room = ()


class _Plan:
    """A network flattened into the tables that the kernel reads.

    rows:   one program row per layer of neurons; values, index: what the rows point into.
    first:  the layers that numpy applies to the drive, up to the first one with neurons.
    effective: the network as it runs, with weights rounded where they are narrow.
    v_init: [STATE of all]; flight: words of spikes kept between runs.
    """

    def __init__(self, network: SpikingNetwork, narrow: bool) -> None:
        self.narrow = narrow
        self.rows: list[IntArray] = []
        self.values: list[FloatArray] = []
        self.index: list[IntArray] = []
        self.first: list[Layer] = []
        self.flight = 0
        self._value_count, self._index_count = 0, 1
        starts: list[FloatArray] = []
        pending: list[Layer] = []
        layers: list[Layer] = []
        for layer in network.layers:
            pending.append(layer)
            layers.append(layer)
            if isinstance(layer, NeuronLayer):
                self._add(layer, pending)
                if self.rows[-1][code.NARROW]:
                    layers[-1] = replace(layer, weight=layer.weight.astype(np.float32))
                starts.append(_padded(layer.v_init, layer.n_out, 0.0))
                self.first = self.first or pending
                pending = []
        self.v_init = np.concatenate(starts)
        self.effective = SpikingNetwork(tuple(layers), network.dt_ms) if narrow else network

    def _add(self, layer: NeuronLayer, stack: list[Layer]) -> None:
        row = np.zeros(code.COLUMNS, dtype=np.int64)
        before = self.rows[-1] if self.rows else row
        n = layer.n_out
        plain = layer.reset == "subtract" and layer.v_min is None and bool((layer.decay == 1).all())
        filtered = layer.has_current or layer.adapts
        slow = layer.refractory_steps > 0 or layer.recurrent_weight is not None
        row[code.SIZE], row[code.PADDED] = n, _whole_vectors(n)
        row[code.WORDS] = -(-n // 64)
        row[code.DELAY], row[code.KEPT] = layer.delay_steps, max(1, layer.delay_steps)
        row[code.REFRACTORY] = layer.refractory_steps
        row[code.SUBTRACT] = layer.reset == "subtract"
        row[code.SPIKING], row[code.SLOW] = layer.spiking, slow
        row[code.KIND] = FILTERED if filtered else PLAIN if plain else LEAKY
        row[code.FAN_IN] = before[code.SIZE]
        row[code.STATE] = before[code.STATE] + before[code.PADDED] if self.rows else 0
        row[code.SPIKES] = before[code.SPIKES] + before[code.SIZE] if self.rows else 0
        row[code.FLIGHT] = self.flight
        self.flight += int(row[code.KEPT] * row[code.WORDS])
        never = np.inf  # of a read-out, and of the neurons that only fill up a vector
        threshold = layer.v_threshold if layer.spiking else never
        row[code.BIAS] = self._store(_padded(neuron_bias(layer), n, 0.0))
        row[code.DECAY] = self._store(_padded(layer.decay, n, 1.0))
        row[code.THRESHOLD] = self._store(_padded(threshold, n, never))
        floor = -np.inf if layer.v_min is None else layer.v_min
        row[code.FLOOR] = self._store(_padded(floor, n, -np.inf))
        if slow or filtered:
            row[code.CURRENT_DECAY] = self._store(_padded(layer.current_decay, n, 0.0))
            row[code.ADAPTATION] = self._store(_padded(layer.adaptation, n, 0.0))
            row[code.ADAPTATION_DECAY] = self._store(_padded(layer.adaptation_decay, n, 0.0))
        if layer.recurrent_weight is not None:
            row[code.RECURRENT] = 1
            row[code.FEEDBACK] = self._store(_by_sender(layer.recurrent_weight))
        if not self.rows:
            row[code.SOURCE] = code.CURRENT
        elif isinstance(layer, Dense) and all(isinstance(x, (Dense, Flatten)) for x in stack):
            totals = plain and not (slow or filtered or layer.spiking)
            row[code.SOURCE] = code.TOTALS if totals else code.EVENTS
            rows = _by_sender(layer.weight)
            if not (slow or totals):
                row[code.NARROW] = self.narrow
                rows = _in_blocks(rows, np.float32 if self.narrow else np.float64)
            row[code.WEIGHT] = self._store(rows)
        else:
            row[code.SOURCE] = code.SYNAPSES
            found = synapses(stack)
            row[code.WEIGHT] = self._store(found.weights)
            row[code.SYNAPSE_STARTS] = self._point(np.append(found.starts, found.starts[-1]))
            row[code.TARGETS] = self._point(found.targets)
        self.rows.append(row)

    def _store(self, values: FloatArray) -> int:
        at = self._value_count
        filled = np.zeros(_whole_vectors(values.size))
        filled[: values.size] = values.reshape(-1)
        self.values.append(filled)
        self._value_count += len(filled)
        return at

    def _point(self, index: IntArray) -> int:
        at = self._index_count
        self.index.append(index)
        self._index_count += len(index)
        return at


def _whole_vectors(n: int) -> int:
    return -(-n // LANES) * LANES


def _padded(values: Any, n: int, fill: float) -> FloatArray:
    """A scalar or [n] as [n, rounded up to whole vectors]."""
    padded = np.full(_whole_vectors(n), fill)
    padded[:n] = values
    return padded


def _by_sender(weight: FloatArray) -> FloatArray:
    """[n_out, n_in] as [n_in + 1, padded n_out]: one spike adds one row, the last adds nothing."""
    n_out, n_in = weight.shape
    rows = np.zeros((n_in + 1, _whole_vectors(n_out)))
    rows[:n_in, :n_out] = weight.T
    return rows


def _in_blocks(rows: FloatArray, kind: type[np.floating[Any]]) -> FloatArray:
    """The columns of one block side by side, block after block: a block stays in a near cache."""
    parts, done = [], 0
    while done < rows.shape[1]:
        width = code.block_width(rows.shape[1] - done)
        parts.append(rows[:, done : done + width].reshape(-1))
        done += width
    return np.concatenate(parts).astype(kind).view(np.float64)  # the bytes, whatever they mean


def _aligned(values: FloatArray) -> FloatArray:
    """A copy that starts on a cache line, so that no vector crosses one."""
    room = np.empty(values.size + LANES)
    skip = (-room.ctypes.data % 64) // 8
    copy = room[skip : skip + values.size].reshape(values.shape)
    copy[...] = values
    return copy
