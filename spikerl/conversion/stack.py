"""The plain stack: linear maps, activations and what the outputs mean, out of the source's hands.

Imports numpy and the core. tracing.py makes the layers, algorithms.py the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.decoding import Head
from spikerl.encoding import ReceptiveFields
from spikerl.layers import Layer, Pair, Shape3
from spikerl.network import AvgPool2d, Conv2d, Dense, FloatArray

BATCH = 256  # rows of images at once: unfolded maps are large

Activation = Callable[[FloatArray], FloatArray]
Step = Callable[[FloatArray, NDArray[np.bool_]], FloatArray]


@dataclass(frozen=True, eq=False)
class Spikes:
    """Layers that spike already, in front of a plain layer: those of a spiking policy.

    layers: of a SpikingNetwork.  sim_steps: T they were trained for.
    rates:  spikes per step [B, n] that arrive from the last of them, for rows [B, n_in].
    encoder: what the rows go through before the first of them; None for constant current.
    weight_bits: of the weights of each, as they were trained.
    walk:   of layers that keep their state from decision to decision, for which rates start afresh:
            makes a function of rows [B, n_in] and starts [B], true where an episode begins, that
            gives the spikes per step of one decision after the other.
    """

    layers: tuple[Layer, ...]
    sim_steps: int
    rates: Callable[[FloatArray], FloatArray]
    encoder: ReceptiveFields | None = None
    weight_bits: tuple[int, ...] = ()
    walk: Callable[[], Step] | None = None

    @property
    def stateful(self) -> bool:
        """Whether there is something to remember."""
        return self.walk is not None

    @property
    def n_in(self) -> int:
        """Numbers per row."""
        return self.layers[0].n_in if self.encoder is None else len(self.encoder.centres)


@dataclass(frozen=True, eq=False)
class PlainLayer:
    """A linear map and the activation behind it.

    A unit is what one row of weights makes: a neuron, or a whole channel of a map.

    weight:     [units, n_in], or [units, channels, height, width] of a convolution.
    bias:       [units].
    activation: None for the last layer.
    ceiling:    [units], the largest activation that a neuron may stand for, where it is given by
                the rewriting; else None, and it is calibrated.
    pool:       averages the map before the weights see it.
    input_shape, stride, padding: of a convolution.
    spikes:     what the rows go through before, in a policy that spikes already.
    """

    name: str
    weight: FloatArray
    bias: FloatArray
    activation: Activation | None = None
    ceiling: FloatArray | None = None
    pool: AvgPool2d | None = None
    input_shape: Shape3 | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    spikes: Spikes | None = None

    @property
    def units(self) -> int:
        """Neurons, or channels of the map it makes."""
        return len(self.weight)

    @cached_property
    def core(self) -> Dense | Conv2d:
        """The same linear map as a layer of a SpikingNetwork."""
        return self.neurons(self.weight, self.bias)

    def neurons(self, weight: FloatArray, bias: FloatArray, **rules: Any) -> Dense | Conv2d:
        """A layer of neurons of this geometry with other numbers."""
        if self.input_shape is None:
            return Dense(weight, bias, **rules)
        return Conv2d(
            weight, self.input_shape, bias, stride=self.stride, padding=self.padding, **rules
        )

    @property
    def positions(self) -> int:
        """Numbers per unit: 1, or the pixels of the map it makes."""
        return self.core.n_out // self.units

    def linear(self, rows: FloatArray) -> FloatArray:
        """The map of rows [B, n_in]: [B, units * positions]."""
        if self.pool is not None:
            rows = self.pool.apply(rows)
        return self.core.apply(rows)

    def by_unit(self, values: FloatArray) -> FloatArray:
        """[B, units * positions] as [B * positions, units]."""
        maps = values.reshape(len(values), self.units, -1)
        found: FloatArray = np.moveaxis(maps, 1, 2).reshape(-1, self.units)
        return found

    def with_divided_inputs(self, rise: FloatArray, start: FloatArray) -> PlainLayer:
        """The layer for inputs start + the sum of rise * ramps; rise [units, ramps], start [units].

        A ramp is a unit of its own: those of one unit lie side by side.
        """
        units, count = rise.shape
        tail = self.weight.shape[2:]
        # [n_out, units, positions of a flattened map, ...]
        parts = self.weight.reshape(len(self.weight), units, -1, *tail)
        ends = (1,) * len(tail)
        constant = (parts * start.reshape(1, -1, 1, *ends)).reshape(len(parts), -1).sum(axis=1)
        weight = parts[:, :, None] * rise.reshape(1, units, count, 1, *ends)
        shape = None
        if self.input_shape is not None:
            shape = (units * count, *self.input_shape[1:])
        pool = self.pool
        if pool is not None:
            pool = replace(pool, input_shape=(units * count, *pool.input_shape[1:]))
        return replace(
            self,
            weight=weight.reshape(len(parts), -1, *tail),
            bias=self.bias + constant,
            input_shape=shape,
            pool=pool,
        )

    def scaled_inputs(self, factor: FloatArray) -> FloatArray:
        """The weights for inputs that come divided by factor [units before]."""
        if self.input_shape is not None:
            scaled: FloatArray = self.weight * factor[:, None, None]
            return scaled
        # A flattened map has its channels one after the other.
        return self.weight * np.repeat(factor, self.weight.shape[1] // len(factor))


@dataclass(frozen=True, eq=False)
class PlainStack:
    """Linear layers with activations behind all but the last, and the head for the outputs.

    outputs:   the modules of the source whose outputs, side by side, are the last layer's.
    quantiles: they give [B, quantiles, n] (QR-DQN), of which the last layer gives the mean.
    """

    layers: tuple[PlainLayer, ...]
    head: Head
    outputs: tuple[Any, ...] = ()
    quantiles: bool = False

    @property
    def n_in(self) -> int:
        """Numbers per observation row."""
        first = self.layers[0]
        if first.spikes is not None:
            return first.spikes.n_in
        return first.core.n_in if first.pool is None else first.pool.n_in

    @property
    def reads_images(self) -> bool:
        """Whether the first layer wants maps and not flat rows."""
        spikes = self.layers[0].spikes
        if spikes is not None:
            return isinstance(spikes.layers[0], Conv2d)
        return self.layers[0].input_shape is not None or self.layers[0].pool is not None

    def activations(self, rows: FloatArray) -> Iterator[FloatArray]:
        """The output [B, n] of every layer in turn, for rows [B, n_in]."""
        for layer in self.layers:
            rows = np.concatenate([_output(layer, part) for part in _parts(rows, layer)])
            yield rows

    def values(self, rows: FloatArray) -> FloatArray:
        """What the last layer gives for rows [B, n_in]: [B, n]."""
        found = []
        for part in _parts(rows, self.layers[0]):
            for layer in self.layers:
                part = _output(layer, part)
            found.append(part)
        return np.concatenate(found)

    @property
    def stateful(self) -> bool:
        """Whether decisions depend on those before."""
        spikes = self.layers[0].spikes
        return spikes is not None and spikes.stateful

    def walk(self) -> Step:
        """A function of rows [B, n_in] and starts [B]: values of one decision after the other."""
        first, *rest = self.layers
        if first.spikes is None or first.spikes.walk is None:
            return lambda rows, starts: self.values(rows)
        spikes, step = first.spikes, first.spikes.walk()

        def values(rows: FloatArray, starts: NDArray[np.bool_]) -> FloatArray:
            now = replace(spikes, rates=lambda rows: step(rows, starts))
            return self.with_layers((replace(first, spikes=now), *rest)).values(rows)

        return values

    def with_layers(self, layers: tuple[PlainLayer, ...]) -> PlainStack:
        """The same head behind other layers."""
        return replace(self, layers=layers)


def _output(layer: PlainLayer, rows: FloatArray) -> FloatArray:
    if layer.spikes is not None:
        rows = layer.spikes.rates(rows)
    z = layer.linear(rows)
    if layer.activation is not None:
        z = layer.activation(z)
    if layer.ceiling is not None:
        z = np.minimum(z, np.repeat(layer.ceiling, z.shape[1] // layer.units))
    return z


def _parts(rows: FloatArray, layer: PlainLayer) -> Iterator[FloatArray]:
    size = len(rows) if layer.input_shape is None else BATCH
    for start in range(0, len(rows), max(1, size)):
        yield rows[start : start + size]
