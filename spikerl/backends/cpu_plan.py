"""Plan: a network flattened into the tables that the kernels of the "cpu" back end read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from spikerl.backends import cpu_kernels as code
from spikerl.backends.cpu_blocks import FILTERED, LANES, LEAKY, NARROW, PLAIN, SHORT, WIDE
from spikerl.connections import IntArray, neuron_bias, synapses
from spikerl.network import Dense, Flatten, FloatArray, Layer, NeuronLayer, SpikingNetwork

NEAR = 2**17  # weights, 1 MiB of float64: about what the near caches hold


class Plan:
    """A network flattened into the tables that the kernel reads.

    precision: of weights between layers, see cpu_blocks.py; None for SHORT where that is faster and
            exact, as for the weights of a torch model, and WIDE elsewhere.
    rows:   one program row per layer of neurons; values, index: what the rows point into.
    first:  the layers that numpy applies to the drive, up to the first one with neurons.
    effective: the network as it runs, with weights rounded where they are narrow.
    v_init: [STATE of all]; flight: words of spikes kept between runs.
    """

    def __init__(self, network: SpikingNetwork, precision: int | None = None) -> None:
        self.precision = precision
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
                if self.rows[-1][code.PRECISION] == NARROW:
                    layers[-1] = replace(layer, weight=layer.weight.astype(np.float32))
                starts.append(_padded(layer.v_init, layer.n_out, 0.0))
                self.first = self.first or pending
                pending = []
        self.v_init = np.concatenate(starts)
        rounded = precision == NARROW
        self.effective = SpikingNetwork(tuple(layers), network.dt_ms) if rounded else network

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
                precision = _precise(layer.weight) if self.precision is None else self.precision
                row[code.PRECISION] = precision
                rows = _in_blocks(rows, np.float64 if precision == WIDE else np.float32)
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


def _precise(weight: FloatArray) -> int:
    """SHORT for many weights that float32 holds exactly; of few, converting is no gain."""
    with np.errstate(over="ignore"):
        exact = weight.size > NEAR and (weight.astype(np.float32) == weight).all()
    return SHORT if exact else WIDE


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
