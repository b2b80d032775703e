"""Layers out of NIR nodes, one after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, FloatArray, Layer, NeuronLayer
from spikerl.nir.chain import LINEAR, NEURONS, Link, shape_of
from spikerl.nir.numbers import KEY, ROUNDING, parameters, recalled

Shape = tuple[int, ...]


class Stack:
    """The layers so far.

    problems: what cannot be read.  notes: what was read by a rule the user should know of.
    shape:    of what the last node gives out; None once that is not known.
    """

    def __init__(self, dt: float, fires_at_threshold: bool, metadata: bool) -> None:
        self._dt, self._inclusive, self._metadata = dt, fires_at_threshold, metadata
        self.layers: list[Layer] = []
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.shape: Shape | None = None
        self._made: list[Link] = []  # the node that completed each layer
        self._weights: Link | None = None  # a linear node that waits for its neurons

    def add(self, link: Link) -> None:
        """The next node of the chain."""
        if link.kind == "Input":
            self.shape = shape_of(link.node)
            if self.shape is None:
                self._refuse(link, "does not say its shape")
        elif link.kind in LINEAR:
            if self._weights is not None:
                self._refuse(link, f"follows {self._weights.name!r} without neurons between them")
            self._weights = link
        elif link.kind in NEURONS:
            self._neurons(link)
        elif link.kind == "Delay":
            self._delay(link)
        elif link.kind != "Output":
            if self._weights is not None:
                self._refuse(link, f"stands between {self._weights.name!r} and its neurons")
            self._plain(link)

    def finish(self) -> None:
        """The end of the chain: weights without neurons become a read-out that sums."""
        if self._weights is not None:
            own = self._own(self._weights).get("readout")
            if own is None:
                self.notes.append(
                    f"the graph ends with {self._weights.name!r}: a read-out sums what it gives"
                )
            self._append(self._weights, {"spiking": False} if own is None else recalled(own))
        elif not self.problems and not (self.layers and isinstance(self.layers[-1], NeuronLayer)):
            self.problems.append("the graph does not end with neurons or weights")
        for layer, link in zip(self.layers[:-1], self._made[:-1], strict=True):
            if isinstance(layer, NeuronLayer) and not layer.spiking:
                self._refuse(link, "never fires, so nothing may come after it")

    def _refuse(self, link: Link, text: str) -> None:
        self.problems.append(f"node {link.name!r} ({link.kind}) {text}")

    def _own(self, link: Link) -> dict[str, Any]:
        found: dict[str, Any] = link.node.metadata.get(KEY, {}) if self._metadata else {}
        return found

    def _append(self, link: Link, fields: dict[str, Any], gain: FloatArray | None = None) -> None:
        """The layer of the waiting weights with these neurons."""
        weights, self._weights = self._weights, None
        assert weights is not None
        layer = self._layer(weights, fields, link, gain)
        if layer is not None:
            self._checked(link, layer)

    def _checked(self, link: Link, layer: Layer) -> bool:
        before = None if self.shape is None else int(np.prod(self.shape))
        found = layer.problems()
        if not found and before not in (None, layer.n_in):
            found = [f"reads {layer.n_in} numbers where {before} come"]
        for text in found:
            self._refuse(link, text)
        self.layers.append(layer)
        self._made.append(link)
        self.shape = None
        if not found:
            self.shape = (layer.n_out,) if isinstance(layer, Dense) else layer.output_shape
        return not found

    def _plain(self, link: Link) -> None:
        if self.shape is None:
            return
        node = link.node
        if link.kind == "Flatten":
            start, end = int(node.start_dim), int(node.end_dim)
            rank = len(self.shape)
            if start % rank != 0 or end % rank != rank - 1:
                self._refuse(link, f"flattens dimensions {start} to {end} of {self.shape}, not all")
            own = self._own(link)
            if not own.get("implicit", False):
                shape = own.get("input_shape", self.shape)
                self._checked(link, Flatten(tuple(int(n) for n in shape)))
            self.shape = (int(np.prod(self.shape)),)
            return
        if len(self.shape) != 3:
            self._refuse(link, f"reads {self.shape}, wanted a map (channels, height, width)")
            self.shape = None
            return
        if np.any(node.padding):
            self._refuse(link, "has padding, which average pooling has not in spikerl")
        size, stride = _pair(node.kernel_size), _pair(node.stride)
        self._checked(link, AvgPool2d(self._map_shape(), size, stride))

    def _map_shape(self) -> tuple[int, int, int]:
        assert self.shape is not None
        channels, height, width = self.shape
        return channels, height, width

    def _layer(
        self, weights: Link, fields: dict[str, Any], link: Link, gain: FloatArray | None
    ) -> Dense | Conv2d | None:
        node = weights.node
        weight = np.asarray(node.weight, np.float64)
        bias = None if weights.kind == "Linear" else np.asarray(node.bias, np.float64)
        loop = None if link.loop is None else np.asarray(link.loop.weight, np.float64)
        if gain is not None:
            gain = _per_row(gain, len(weight))
            if gain is None:
                self._refuse(link, "has an r that differs within a channel")
                return None
            weight = weight * gain.reshape(-1, *(1,) * (weight.ndim - 1))
            bias = None if bias is None else bias * gain
            loop = None if loop is None else loop * gain[:, None]
        if weights.kind != "Conv2d":
            if weight.ndim != 2:
                self._refuse(weights, f"has weights of shape {weight.shape}, wanted a matrix")
                return None
            return Dense(weight=weight, bias=bias, recurrent=loop, **fields)
        if loop is not None:
            self._refuse(weights, "is recurrent, which only Affine and Linear may be")
        if self.shape is None:
            return None
        if len(self.shape) != 3:
            self._refuse(weights, f"reads {self.shape}, wanted a map (channels, height, width)")
            return None
        if int(node.groups) != 1 or np.any(np.asarray(node.dilation) != 1):
            self._refuse(weights, f"has groups={node.groups}, dilation={node.dilation}, wanted 1")
        padding = (0, 0)
        if isinstance(node.padding, (str, bytes)):
            if node.padding not in ("valid", b"valid"):
                self._refuse(weights, f"has padding={node.padding!r}, wanted numbers")
        else:
            padding = _pair(node.padding)
        stride = _pair(node.stride)
        return Conv2d(weight, self._map_shape(), bias, stride=stride, padding=padding, **fields)

    def _delay(self, link: Link) -> None:
        steps = np.unique(np.asarray(link.node.delay) / self._dt)
        last = self.layers[-1] if self.layers else None
        if self._weights is not None or not isinstance(last, NeuronLayer) or not last.spiking:
            self._refuse(link, "does not follow neurons that spike")
        elif len(steps) != 1 or steps[0] < 0 or abs(steps[0] - round(steps[0])) > 1e-6:
            self._refuse(link, f"is not one whole number of steps of {self._dt:g} s")
        elif last.delay_steps and last.delay_steps != round(steps[0]):
            self._refuse(link, f"contradicts the metadata, delay_steps={last.delay_steps}")
        else:
            self.layers[-1] = replace(last, delay_steps=round(float(steps[0])))

    def _neurons(self, link: Link) -> None:
        if self._weights is None:
            self._refuse(link, "has no weights of its own before it")
            return
        own = self._own(link)
        if own:
            fields = recalled(own)
            count = len(self.layers)
            self._append(link, fields)
            made = self.layers[-1]
            if len(self.layers) > count and isinstance(made, NeuronLayer) and not made.problems():
                self._compare(link, made)
            return
        fields, gain = self._read(link)
        self._append(link, fields, gain)

    def _compare(self, link: Link, layer: NeuronLayer) -> None:
        """Metadata may add to a node, not contradict it."""
        for name, wanted in parameters(layer, (layer.n_out,), self._dt).items():
            found = np.ravel(getattr(link.node, name, np.nan))
            if not np.array_equal(found, wanted):
                self._refuse(
                    link,
                    f"has another {name} than its metadata say: it was changed after spikerl "
                    "wrote it; read it with metadata=False, which resets to zero",
                )

    def _read(self, link: Link) -> tuple[dict[str, Any], FloatArray | None]:
        """Neurons of another program, by NIR's equations."""
        node, fields = link.node, {"spiking": link.kind in ("IF", "LIF"), "reset": "zero"}
        gain = np.ravel(np.asarray(node.r, np.float64)) * self._dt
        if link.kind in ("LIF", "LI"):
            rate = self._dt / np.ravel(np.asarray(node.tau, np.float64))
            gain = gain / np.ravel(np.asarray(node.tau, np.float64))
            if (rate > 0).all() and (rate < 1).all():
                fields["decay"] = _common(1.0 - rate)
            else:
                self._refuse(link, f"has tau <= dt = {self._dt:g} s, so nothing remains in a step")
            if np.any(node.v_leak):
                self._refuse(link, "has v_leak != 0, wanted a potential that leaks to 0")
        elif np.abs(gain - 1).max() > ROUNDING:
            self.notes.append(
                f"node {link.name!r}: r * dt = {gain.mean():g}, so its weights were multiplied by "
                "it; where a program means one unit per step whatever r says, give dt = 1 / r"
            )
        if fields["spiking"]:
            if np.any(node.v_reset):
                self._refuse(link, "has v_reset != 0, wanted neurons that reset to 0")
            threshold = np.ravel(np.asarray(node.v_threshold, np.float64))
            if not self._inclusive:
                threshold = np.nextafter(threshold, np.inf)
            fields["v_threshold"] = _common(threshold)
        return fields, None if np.abs(gain - 1).max() <= ROUNDING else gain


def _pair(value: Any) -> tuple[int, int]:
    """One number for both directions, or (vertical, horizontal)."""
    first, second = np.broadcast_to(np.ravel(np.asarray(value)), (2,))
    return int(first), int(second)


def _common(values: FloatArray) -> FloatArray:
    """One number where all are equal."""
    return values[0] if (values == values[0]).all() else values


def _per_row(gain: FloatArray, rows: int) -> FloatArray | None:
    """One gain per row of weights; None where neurons that share weights differ."""
    if len(gain) == 1:
        return np.repeat(gain, rows)
    if len(gain) % rows:
        return None
    by_row = gain.reshape(rows, -1)
    return None if (by_row != by_row[:, :1]).any() else by_row[:, 0]
