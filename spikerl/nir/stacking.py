"""Layers out of NIR nodes, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from spikerl.assembly import Assembly, Neurons, Weights
from spikerl.network import FloatArray, NeuronLayer
from spikerl.nir.chain import LINEAR, NEURONS, Link, shape_of
from spikerl.nir.numbers import KEY, ROUNDING, parameters, recalled


class Stack:
    """The layers so far, in `made`.

    notes: what was read by a rule that the user should know of.
    """

    def __init__(self, dt: float, fires_at_threshold: bool, metadata: bool) -> None:
        self._dt, self._inclusive, self._metadata = dt, fires_at_threshold, metadata
        self.made = Assembly()
        self.notes: list[str] = []
        self._last: Link | None = None

    def add(self, link: Link) -> None:
        """The next node of the chain."""
        if link.kind == "Input":
            self.made.shape = shape_of(link.node)
            if self.made.shape is None:
                self._refuse(link, "does not say its shape")
                self.made.lose()
        elif link.kind in LINEAR:
            self._weights(link)
            self._last = link
        elif link.kind in NEURONS:
            self._neurons(link)
        elif link.kind == "Delay":
            steps = np.unique(np.asarray(link.node.delay) / self._dt)
            if len(steps) != 1 or steps[0] < 0 or abs(steps[0] - np.rint(steps[0])) > 1e-6:
                self._refuse(link, f"is not one whole number of steps of {self._dt:g} s")
            else:
                self.made.delay(label(link), round(float(steps[0])))
        elif link.kind == "AvgPool2d":
            if np.any(link.node.padding):
                self._refuse(link, "has padding, which average pooling has not in spikerl")
            self.made.pool(label(link), _pair(link.node.kernel_size), _pair(link.node.stride))
        elif link.kind == "Flatten":
            self._flatten(link)

    def finish(self) -> None:
        """The end of the chain: weights without neurons become a read-out that sums."""
        own = None
        if self.made.waiting is not None and self._last is not None:
            own = self._own(self._last).get("readout")
            if own is None:
                self.notes.append(f"{label(self._last)} is the end: a read-out sums what it gives")
        self.made.finish(None if own is None else recalled(own))

    def _refuse(self, link: Link, text: str) -> None:
        self.made.refuse(label(link), text)

    def _own(self, link: Link) -> dict[str, Any]:
        found = link.node.metadata.get(KEY) if self._metadata else None
        return found if isinstance(found, dict) else {}

    def _weights(self, link: Link) -> None:
        node = link.node
        weight = np.asarray(node.weight, np.float64)
        bias = None if link.kind == "Linear" else np.asarray(node.bias, np.float64)
        if link.kind != "Conv2d":
            self.made.weights(label(link), Weights(weight, bias))
            return
        if int(node.groups) != 1 or np.any(np.asarray(node.dilation) != 1):
            self._refuse(link, f"has groups={node.groups}, dilation={node.dilation}, wanted 1")
            self.made.lose()
        padding = (0, 0)
        if not isinstance(node.padding, str):
            padding = _pair(node.padding)
        elif node.padding != "valid":
            self._refuse(link, f"has padding={node.padding!r}, wanted numbers")
            self.made.lose()
        self.made.weights(label(link), Weights(weight, bias, _pair(node.stride), padding))

    def _flatten(self, link: Link) -> None:
        start, end = int(link.node.start_dim), int(link.node.end_dim)
        shape, own = self.made.shape, self._own(link)
        if shape is not None and (start % len(shape) != 0 or end % len(shape) != len(shape) - 1):
            self._refuse(link, f"flattens dimensions {start} to {end} of {shape}, not all")
        if own.get("implicit", False):
            self.made.row()
        else:
            said = own.get("input_shape")
            said = None if said is None else tuple(int(n) for n in said)
            self.made.flatten(label(link), said)

    def _neurons(self, link: Link) -> None:
        loop = None if link.loop is None else np.asarray(link.loop.weight, np.float64)
        own = self._own(link)
        if not own:
            fields, gain = self._read(link)
            self.made.neurons(label(link), Neurons(fields, gain, loop))
            return
        layer = self.made.neurons(label(link), Neurons(recalled(own), loop=loop))
        if layer is not None:
            self._compare(link, layer)

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

    def _read(self, link: Link) -> tuple[dict[str, Any], FloatArray]:
        """Fields and gain of another program's neurons, by NIR's equations."""
        node = link.node
        fields: dict[str, Any] = {"spiking": link.kind in ("IF", "LIF"), "reset": "zero"}
        gain = np.asarray(node.r, np.float64) * self._dt
        if link.kind in ("LIF", "LI"):
            tau = np.asarray(node.tau, np.float64)
            gain = gain / tau
            if (tau > self._dt).all():
                fields["decay"] = _common(1.0 - self._dt / tau)
            else:
                self._refuse(link, f"has tau <= dt = {self._dt:g} s, so nothing remains in a step")
            if np.any(node.v_leak):
                self._refuse(link, "has v_leak != 0, wanted a potential that leaks to 0")
        elif np.abs(gain - 1).max() > ROUNDING:
            self.notes.append(
                f"{label(link)}: r * dt = {gain.mean():g}, so its weights were multiplied by it; "
                "where a program means one unit per step whatever r says, give dt = 1 / r"
            )
        if fields["spiking"]:
            if np.any(node.v_reset):
                self._refuse(link, "has v_reset != 0, wanted neurons that reset to 0")
            threshold = np.asarray(node.v_threshold, np.float64)
            if not self._inclusive:
                threshold = np.nextafter(threshold, np.inf)
            fields["v_threshold"] = _common(threshold)
        return fields, np.where(np.abs(gain - 1) <= ROUNDING, 1.0, gain)


def label(link: Link) -> str:
    """What problems with a node begin with."""
    return f"node {link.name!r} ({link.kind})"


def _common(values: FloatArray) -> FloatArray:
    """One number where all are equal."""
    first = values.flat[0]
    return np.asarray(first) if (values == first).all() else values


def _pair(value: Any) -> tuple[int, int]:
    """One number for both directions, or (vertical, horizontal)."""
    first, second = np.broadcast_to(np.ravel(np.asarray(value)), (2,))
    return int(first), int(second)
