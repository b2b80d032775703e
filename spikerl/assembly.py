"""Layers of other programs put together to those of a SpikingNetwork, one part after the other.

Imports numpy and layers. Other programs keep weights and neurons apart; here the weights wait for
their neurons. Every part has a label, such as "node 'if_1' (IF)", that problems begin with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spikerl.layers import AvgPool2d, Conv2d, Dense, Flatten, FloatArray, Layer, NeuronLayer, Pair

Shape = tuple[int, ...]
PER_NEURON = ("decay", "v_threshold", "v_init")


@dataclass(frozen=True, eq=False)
class Weights:
    """A linear map: weight [n_out, n_in], or [C_out, C_in, kh, kw] of a convolution."""

    weight: FloatArray
    bias: FloatArray | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)


@dataclass(frozen=True, eq=False)
class Neurons:
    """What becomes of the waiting weights.

    fields: of NeuronLayer; decay, v_threshold and v_init may be of any shape that fits the layer.
    gain:   what the input is multiplied by, of such a shape; it goes into the weights.
    loop:   [n, n] recurrent weights, to which the gain applies as well, or None.
    echo:   what every spike adds to its own neuron's potential one step later.
    bias:   what is added in every step besides, of such a shape.
    """

    fields: Mapping[str, Any]
    gain: Any = 1.0
    loop: FloatArray | None = None
    echo: Any = 0.0
    bias: Any = 0.0


class Assembly:
    """The layers so far.

    problems: everything that stands in the way.  labels: of the part that completed each layer.
    shape:    of what the last part gives out, without batch; None where that is not known.
    """

    def __init__(self, shape: Shape | None = None) -> None:
        self.layers: list[Layer] = []
        self.labels: list[str] = []
        self.problems: list[str] = []
        self.shape = shape
        self.waiting: tuple[str, Weights] | None = None
        self._delayed = 0  # steps, by parts since the last neurons
        self._said: tuple[str, int] | None = None  # who said how many that should be
        self._lost = False  # a part was left out: nobody knows the shape any more
        self._unclear = False  # it was the last part: what it left waiting, nobody knows either

    def refuse(self, label: str, text: str) -> None:
        """Note a problem with a part."""
        self.problems.append(f"{label} {text}")

    def lose(self) -> None:
        """A part is left out, so what comes after it cannot be judged by what was before."""
        self.shape, self.waiting = None, None
        self._lost = self._unclear = True

    def weights(self, label: str, weights: Weights) -> None:
        """A linear map that waits for its neurons."""
        if self.waiting is not None:
            self.refuse(label, f"follows {self.waiting[0]} without neurons between them")
        if self._said is not None and self._said[1] != self._delayed:
            owner, steps = self._said
            self.refuse(owner, f"says delay_steps={steps}, and {self._delayed} follow")
        self.waiting, self._unclear, self._said = (label, weights), False, None

    def pool(self, label: str, kernel_size: Pair, stride: Pair) -> None:
        """Average pooling of a map."""
        if self._may_stand(label) and (shape := self._map(label)) is not None:
            self._append(label, AvgPool2d(shape, kernel_size, stride))

    def flatten(self, label: str, input_shape: Shape | None = None) -> None:
        """A map read as a row from here on; input_shape where the layer says another one."""
        if self._may_stand(label):
            if self.shape is None:
                self._need_shape(label)
            else:
                self._append(label, Flatten(input_shape or self.shape))

    def row(self) -> None:
        """A map read as a row from here on, without a layer that says so."""
        if self.shape is not None:
            self.shape = (int(np.prod(self.shape)),)

    def delay(self, label: str, steps: int) -> None:
        """Spikes of the layer before arrive this many steps later."""
        last = self.layers[-1] if self.layers else None
        if self._unclear:
            return
        if self.waiting is not None or not isinstance(last, NeuronLayer) or not last.spiking:
            self.refuse(label, "does not follow neurons that spike")
        elif last.recurrent_weight is not None and self._delayed + steps > 1:
            self.refuse(label, "makes neurons wait longer for the others than for themselves")
        else:
            self._delayed += steps
            self.layers[-1] = replace(last, delay_steps=self._delayed)

    def neurons(self, label: str, neurons: Neurons) -> NeuronLayer | None:
        """The neurons of the waiting weights; returns the layer if it is sound."""
        if self.waiting is None:
            if not self._unclear:
                self.refuse(label, "has no weights of its own before it")
            return None
        (owner, weights), self.waiting = self.waiting, None
        self._delayed, self._said = 0, None
        if "delay_steps" in neurons.fields:
            self._said = label, neurons.fields["delay_steps"]
        layer = self._linear(owner, weights)
        if layer is not None:
            layer = self._with(label, layer, neurons)
        if layer is None:
            self.lose()
            return None
        return layer if self._append(label, layer) else None

    def finish(self, summed: Mapping[str, Any] | None = None) -> None:
        """The end; weights that still wait become a read-out with these fields."""
        if self.waiting is not None:
            self.neurons(self.waiting[0], Neurons(summed or {"spiking": False}))
        elif not self.problems and not (self.layers and isinstance(self.layers[-1], NeuronLayer)):
            self.problems.append("there are no neurons or weights at the end")
        for layer, label in zip(self.layers[:-1], self.labels[:-1], strict=True):
            if isinstance(layer, NeuronLayer) and not layer.spiking:
                self.refuse(label, "never fires, so nothing may come after it")

    def _may_stand(self, label: str) -> bool:
        if self.waiting is None:
            return True
        self.refuse(label, f"stands between {self.waiting[0]} and its neurons")
        return False

    def _need_shape(self, label: str) -> None:
        if not self._lost:
            self.refuse(label, "reads a map of unknown shape: give input_shape=(C, height, width)")
            self.lose()

    def _map(self, label: str) -> tuple[int, int, int] | None:
        if self.shape is None:
            self._need_shape(label)
            return None
        if len(self.shape) != 3:
            self.refuse(label, f"reads {self.shape}, wanted a map (channels, height, width)")
            self.lose()
            return None
        channels, height, width = self.shape
        return channels, height, width

    def _linear(self, label: str, weights: Weights) -> Dense | Conv2d | None:
        if weights.weight.ndim == 2:
            if self.shape is not None and len(self.shape) > 1:
                self.refuse(label, f"reads {self.shape}, wanted a row: flatten the map before")
            return Dense(weights.weight, weights.bias)
        if weights.weight.ndim != 4:
            self.refuse(label, f"has weights of shape {weights.weight.shape}")
            return None
        shape = self._map(label)
        if shape is None:
            return None
        layer = Conv2d(
            weights.weight, shape, weights.bias, stride=weights.stride, padding=weights.padding
        )
        if found := layer.problems():
            self.problems += [f"{label} {text}" for text in found]
            return None
        return layer

    def _with(self, label: str, layer: Dense | Conv2d, neurons: Neurons) -> Dense | Conv2d | None:
        """The layer with its neurons' numbers."""
        shape = (layer.n_out,) if isinstance(layer, Dense) else layer.output_shape
        fields = dict(neurons.fields)
        try:
            for name in PER_NEURON:
                if name in fields:
                    fields[name] = _fitted(fields[name], shape)
            gain = _spread(neurons.gain, shape)
            echo = _spread(neurons.echo, shape)
            bias = _spread(neurons.bias, shape)
        except ValueError as error:
            self.refuse(label, f"has numbers that do not fit {shape}: {error}")
            return None
        by_row = np.stack([gain, bias]).reshape(2, len(layer.weight), -1)
        if (by_row != by_row[:, :, :1]).any():
            self.refuse(label, "treats its input differently within a channel")
            return None
        scale, more = by_row[:, :, 0]
        if (scale != 1).any():
            weight = layer.weight * scale.reshape(-1, *(1,) * (layer.weight.ndim - 1))
            layer = replace(layer, weight=weight, bias=layer.bias * scale)
        if more.any():
            layer = replace(layer, bias=layer.bias + more)
        loop = neurons.loop
        if loop is not None:
            loop = loop * scale[:, None]
        if echo.any():
            loop = np.diag(echo) if loop is None else loop + np.diag(echo)
        if loop is not None:
            if isinstance(layer, Conv2d):
                self.refuse(label, "acts on itself, which neurons of a convolution cannot")
                return None
            fields["recurrent"] = loop
        return replace(layer, **fields)

    def _append(self, label: str, layer: Layer) -> bool:
        before = None if self.shape is None else int(np.prod(self.shape))
        found = layer.problems()
        if not found and before not in (None, layer.n_in):
            found = [f"reads {layer.n_in} numbers where {before} come"]
        for text in found:
            self.refuse(label, text)
        self.layers.append(layer)
        self.labels.append(label)
        if found:
            self.lose()
        else:
            self.shape = (layer.n_out,) if isinstance(layer, Dense) else layer.output_shape
        return not found


def _spread(value: Any, shape: Shape) -> FloatArray:
    """One number per neuron [n]; raises ValueError where the value does not fit the shape."""
    array = np.asarray(value, np.float64)
    if array.size == int(np.prod(shape)):
        return array.ravel()
    found: FloatArray = np.broadcast_to(array, shape).ravel()
    return found


def _fitted(value: Any, shape: Shape) -> FloatArray:
    """As given if it is one number or [n]; else one number where all neurons have the same."""
    array = np.asarray(value, np.float64)
    flat = _spread(array, shape)
    if not array.ndim or array.shape == flat.shape:
        return array
    return flat[0] if (flat == flat[0]).all() else flat
