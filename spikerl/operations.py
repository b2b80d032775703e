"""What a decision takes, counted by NeuroBench's definitions (Yik et al. 2025).

Imports numpy, connections, layers, network and errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.connections import synapses
from spikerl.errors import ShapeError, SpikerlError
from spikerl.layers import AvgPool2d, Conv2d, Dense, Flatten, FloatArray, Layer, NeuronLayer
from spikerl.network import Recording, SpikingNetwork


@dataclass(frozen=True)
class Operations:
    """What one decision takes, as a mean over decisions; weights of zero cost nothing but in dense.

    dense:          synaptic operations if every input and neuron spoke at every step.
    effective_macs: multiply-accumulates: an input that is a number and not a spike, times a weight,
                    at every step.
    effective_acs:  accumulates: a spike, of a neuron or of the input, times its fan-out.
    input_macs:     effective_macs, but those of an input that is constant in time only once: its
                    sum is the same at every step, so that no more are necessary.
    updates:        neurons, read-out included, times steps; leaks: those of them that leak.
    spikes:         of all neurons.
    """

    dense: float
    effective_macs: float
    effective_acs: float
    input_macs: float
    updates: float
    leaks: float
    spikes: float


class Tally:
    """The spikes of many decisions, added up as they are made."""

    def __init__(self) -> None:
        self.decisions = 0
        self._total: Recording | None = None
        self._heard: FloatArray | None = None  # [n_in] inputs that were not 0, over all steps
        self._once: FloatArray | None = None  # the same, but constant ones counted once
        self._numbers = False  # whether an input was something else than a spike

    def add(self, recording: Recording, drive: FloatArray | None = None) -> None:
        """Count the spikes of a recording, whose rows are decisions.

        drive: [T, B, n_in] that led to it; operations() wants it of every one.
        """
        sums = [counts.sum(axis=0, keepdims=True) for counts in recording.counts]
        if self._total is not None:
            sums = [old + new for old, new in zip(self._total.counts, sums, strict=True)]
        rows = [len(counts) for counts in recording.counts]
        rows += [] if drive is None else [drive.shape[1]]
        if drive is not None and (self.decisions == 0 or self._heard is not None):
            self._hear(drive)
        else:
            self._heard = None  # incomplete from here on
        self._total = Recording(tuple(sums), (), recording.sim_steps)
        self.decisions += max(rows, default=1)

    def _hear(self, drive: FloatArray) -> None:
        # A drive that is constant in time comes broadcast: stride 0.
        steps = len(drive) if drive.strides[0] == 0 else 1
        seen = drive[:1] if steps > 1 else drive
        once = np.count_nonzero(seen, axis=(0, 1)).astype(np.float64)
        self._numbers |= not np.isin(seen, (-1.0, 0.0, 1.0)).all()
        if self._heard is None or self._once is None:
            self._heard, self._once = steps * once, once
        else:
            self._heard, self._once = self._heard + steps * once, self._once + once

    @property
    def rates(self) -> tuple[float, ...]:
        """Spikes per neuron and step of each spiking layer."""
        if self._total is None:
            return ()
        return tuple(rate / self.decisions for rate in firing_rates(self._total))

    def activation_sparsity(self) -> float:
        """Share of neurons and steps without a spike, over all spiking layers at once."""
        if self._total is None:
            raise SpikerlError("no decision was counted yet")
        return 1.0 - _active(self._total) / self.decisions

    def synaptic_operations(self, network: SpikingNetwork) -> float:
        """Additions of a weight per decision; see synaptic_operations()."""
        if self._total is None:
            return 0.0
        return synaptic_operations(self._total, network) / self.decisions

    def operations(self, network: SpikingNetwork) -> Operations:
        """Everything counted, per decision; raises SpikerlError where a drive was not given."""
        if self._total is None or self._heard is None or self._once is None:
            raise SpikerlError("operations are counted from drives too; give add() each of them")
        if len(self._heard) != network.n_in:
            raise ShapeError(f"the drive has {len(self._heard)} inputs, the network {network.n_in}")
        steps, n = self._total.sim_steps, self.decisions
        fan = input_fan_out(network)
        ours, heard, once = (
            self.synaptic_operations(network),
            float(self._heard @ fan) / n,
            float(self._once @ fan) / n,
        )
        neurons = sum(layer.n_out for layer in network.neuron_layers)
        leaking = sum(
            int((np.broadcast_to(layer.decay, layer.n_out) != 1.0).sum())
            for layer in network.neuron_layers
        )
        return Operations(
            dense=float(steps * sum(_connections(way) for way in _ways(network))),
            effective_macs=heard if self._numbers else 0.0,
            effective_acs=ours + (0.0 if self._numbers else heard),
            input_macs=once if self._numbers else 0.0,
            updates=float(steps * neurons),
            leaks=float(steps * leaking),
            spikes=sum(float(counts.sum()) for counts in self._total.counts) / n,
        )


def operations(recording: Recording, network: SpikingNetwork, drive: FloatArray) -> Operations:
    """What a decision of a recording takes; drive [T, B, n_in] is what led to it.

    An input is spikes if all of it is -1, 0 or 1. A spike that goes through a pooling costs an
    accumulate for each target, where NeuroBench sees means of spikes and says MACs.
    Raises ShapeError for a recording or a drive of another network.
    """
    tally = Tally()
    tally.add(recording, drive)
    return tally.operations(network)


def firing_rates(recording: Recording) -> tuple[float, ...]:
    """Spikes per neuron and step of every spiking layer, averaged over the batch."""
    return tuple(float(counts.mean()) / recording.sim_steps for counts in recording.counts)


def activation_sparsity(recording: Recording) -> float:
    """Share of neurons and steps without a spike, over all spiking layers at once."""
    return 1.0 - _active(recording)


def fan_outs(network: SpikingNetwork) -> tuple[NDArray[np.int64], ...]:
    """Synapses of non-zero weight that a spike of each neuron reaches, [n] per spiking layer.

    Pooling on the way to the next layer with neurons is part of the synapse; a layer's own
    recurrent weights count as well. Nothing hears a spiking output layer.
    """
    layers = network.neuron_layers
    found = [
        np.diff(synapses(way).starts) + _recurrent(sender)
        for sender, way in zip(layers, list(_ways(network))[1:], strict=False)
    ]
    if layers[-1].spiking:
        found.append(_recurrent(layers[-1]))
    return tuple(found)


def input_fan_out(network: SpikingNetwork) -> NDArray[np.int64]:
    """Synapses of non-zero weight behind each input, [n_in]."""
    return np.diff(synapses(next(_ways(network))).starts)


def synaptic_operations(recording: Recording, network: SpikingNetwork) -> float:
    """Additions of a weight that spikes of neurons cause, per decision (row) of a recording.

    Every spike times its fan-out of non-zero weights, over all T steps; see fan_outs(). What the
    drive does in the first layer is not among them: that is in operations().
    Raises ShapeError for a recording of another network.
    """
    fans = fan_outs(network)
    found = [counts.shape[1] for counts in recording.counts]
    wanted = [len(fan) for fan in fans]
    if found != wanted:
        raise ShapeError(
            f"the recording has {found} neurons per spiking layer, the network {wanted}; pass the "
            "network that was recorded"
        )
    return float(
        sum((counts @ fan).mean() for counts, fan in zip(recording.counts, fans, strict=True))
    )


def connection_sparsity(network: SpikingNetwork) -> float:
    """Share of weights that are zero, recurrent ones included."""
    weights = [
        weight
        for layer in network.neuron_layers
        for weight in (getattr(layer, "weight", None), layer.recurrent_weight)
        if weight is not None
    ]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / sum(weight.size for weight in weights)


def footprint(network: SpikingNetwork, *, weight_bits: int | Sequence[int] = 32) -> int:
    """Bytes of all weights, biases, parameters and state of one row; state is not in the batch.

    weight_bits: of a weight, or one for each layer of neurons; every other number has 32. Spikes in
    flight and refractory times have a byte for each neuron and step of delay. What is the same for
    a whole layer counts once.
    """
    layers = network.neuron_layers
    each = [weight_bits] * len(layers) if isinstance(weight_bits, int) else weight_bits
    bits = 0
    for layer, of_weight in zip(layers, each, strict=True):
        assert isinstance(layer, (Dense, Conv2d))
        bits += of_weight * layer.weight.size + 32 * layer.bias.size
        if layer.recurrent_weight is not None:
            bits += of_weight * layer.recurrent_weight.size
        names = ["decay", "v_threshold", "v_init"]
        names += ["current_decay"] if layer.has_current else []
        names += ["adaptation", "adaptation_decay"] if layer.adapts else []
        bits += 32 * sum(getattr(layer, name).size for name in names)
        variables = 1 + layer.has_current + layer.adapts
        waiting = max(layer.delay_steps, int(layer.recurrent_weight is not None))
        waiting += layer.refractory_steps > 0
        bits += layer.n_out * (32 * variables + 8 * waiting)
    return -(-bits // 8)


def dense_macs(layers: Iterable[Layer]) -> int:
    """Multiply-accumulates of a plain network of these layers, once through; poolings cost none."""
    return sum(_connections([x]) for x in layers if not isinstance(x, (AvgPool2d, Flatten)))


def _ways(network: SpikingNetwork) -> Iterator[list[Layer]]:
    """The layers between one layer of neurons and the next, of which the last has neurons."""
    way: list[Layer] = []
    for layer in network.layers:
        way.append(layer)
        if isinstance(layer, NeuronLayer):
            yield way
            way = []


def _connections(way: list[Layer]) -> int:
    """Synapses of a way, those of weight zero and recurrent ones included."""
    last, moving = way[-1], [layer for layer in way if not isinstance(layer, Flatten)]
    if len(moving) == 1 and isinstance(last, Dense):
        found = int(last.weight.size)
    elif len(moving) == 1 and isinstance(last, Conv2d):
        n_out, n_in, *kernel = last.weight.shape
        places = (
            _inside(*axis)
            for axis in zip(
                last.input_shape[1:],
                kernel,
                last.stride,
                last.padding,
                last.output_shape[1:],
                strict=True,
            )
        )
        found = int(n_out * n_in * prod(places))
    else:
        ones: list[Any] = [
            replace(x, weight=np.ones_like(x.weight)) if isinstance(x, (Dense, Conv2d)) else x
            for x in moving
        ]
        found = len(synapses(ones).targets)
    recurrent = last.recurrent_weight if isinstance(last, NeuronLayer) else None
    return found + (0 if recurrent is None else int(recurrent.size))


def _inside(size: int, kernel: int, stride: int, padding: int, windows: int) -> int:
    """Places of all windows along one axis that lie in the map and not in its padding."""
    places = np.arange(windows)[:, None] * stride - padding + np.arange(kernel)
    return int(((places >= 0) & (places < size)).sum())


def _recurrent(layer: NeuronLayer) -> NDArray[np.int64]:
    """Of each neuron, the neurons of its own layer that hear it."""
    weights = layer.recurrent_weight
    if weights is None:
        return np.zeros(layer.n_out, dtype=np.int64)
    heard: NDArray[np.int64] = (weights != 0).sum(axis=0)
    return heard


def _active(recording: Recording) -> float:
    """Spikes per neuron and step over all spiking layers at once, 0 where there are none."""
    neurons = sum(counts.shape[1] for counts in recording.counts)
    spikes = sum(float(counts.mean(axis=0).sum()) for counts in recording.counts)
    return spikes / (neurons * recording.sim_steps) if neurons else 0.0
