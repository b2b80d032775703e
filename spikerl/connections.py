"""Layers as lists of synapses: who reaches whom with which weight, sorted by the sending neuron.

Imports numpy and network only. For back ends that work spike by spike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikerl.layers import (
    AvgPool2d,
    Conv2d,
    Dense,
    Flatten,
    FloatArray,
    Layer,
    NeuronLayer,
    Pair,
    Shape3,
)

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Synapses:
    """Neuron i sends to targets[starts[i] : starts[i + 1]] with the weights at the same places.

    starts:  [n_in + 1].
    targets: [synapses], weights: [synapses]; a target may occur twice for one sender.
    """

    starts: IntArray
    targets: IntArray
    weights: FloatArray


def synapses(layers: Sequence[Layer]) -> Synapses:
    """The synapses of a stack of linear maps, biases left out; the last one may have neurons."""
    moving = [layer for layer in layers if not isinstance(layer, Flatten)]
    found = _of_layer(moving[0])
    for layer in moving[1:]:
        found = _chained(found, _of_layer(layer))
    return found


def neuron_bias(layer: NeuronLayer) -> FloatArray:
    """The bias of every neuron [n_out] of a layer that has neurons."""
    if isinstance(layer, Conv2d):
        bias: FloatArray = np.repeat(layer.bias, layer.n_out // len(layer.bias))
        return bias
    assert isinstance(layer, Dense)
    bias = layer.bias
    return bias


def _of_layer(layer: Layer) -> Synapses:
    if isinstance(layer, Conv2d):
        senders = _senders(layer.input_shape, layer.weight.shape[2:], layer.stride, layer.padding)
        channels, inputs, kh, kw = layer.weight.shape
        height, width = layer.output_shape[1:]
        # axes: output channel, input channel, output row, output column, kernel row, kernel column
        weights = layer.weight.reshape(channels, inputs, 1, 1, kh, kw)
        targets = np.arange(layer.n_out).reshape(channels, 1, height, width, 1, 1)
        return _sorted(layer.n_in, senders[None], targets, weights)
    if isinstance(layer, AvgPool2d):
        senders = _senders(layer.input_shape, layer.kernel_size, layer.steps, (0, 0))
        targets = np.arange(layer.n_out).reshape(*layer.output_shape, 1, 1)
        return _sorted(layer.n_in, senders, targets, np.array(1 / np.prod(layer.kernel_size)))
    assert isinstance(layer, Dense)
    senders, targets = np.arange(layer.n_in), np.arange(layer.n_out)[:, None]
    return _sorted(layer.n_in, senders, targets, layer.weight)


def _senders(shape: Shape3, kernel: Pair, stride: Pair, padding: Pair) -> IntArray:
    """The number of the neuron under every place of every window, -1 in the padding."""
    numbers = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    edges = ((0, 0), (padding[0],) * 2, (padding[1],) * 2)
    view = np.lib.stride_tricks.sliding_window_view(
        np.pad(numbers, edges, constant_values=-1), kernel, axis=(1, 2)
    )
    return view[:, :: stride[0], :: stride[1]]


def _sorted(n_in: int, senders: IntArray, targets: IntArray, weights: FloatArray) -> Synapses:
    """Synapses from arrays that broadcast against each other; no sender (-1) and weight 0 go."""
    senders, targets, weights = np.broadcast_arrays(senders, targets, weights)
    real = (senders >= 0) & (weights != 0)
    senders, targets, weights = senders[real], targets[real], weights[real]
    order = np.argsort(senders, kind="stable")
    starts = np.zeros(n_in + 1, dtype=np.int64)
    np.cumsum(np.bincount(senders, minlength=n_in), out=starts[1:])
    return Synapses(starts, targets[order], weights[order])


def _chained(first: Synapses, second: Synapses) -> Synapses:
    """Both maps one after the other as one."""
    fan_out = np.diff(second.starts)[first.targets]
    ends = np.concatenate([[0], np.cumsum(fan_out)])
    within = np.arange(ends[-1]) - np.repeat(ends[:-1], fan_out)
    picked = np.repeat(second.starts[first.targets], fan_out) + within
    return Synapses(
        starts=ends[first.starts],
        targets=second.targets[picked],
        weights=np.repeat(first.weights, fan_out) * second.weights[picked],
    )
