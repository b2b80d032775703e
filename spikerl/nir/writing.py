"""A SpikingNetwork as a NIR graph."""

from __future__ import annotations

import os
import warnings
from math import isfinite
from typing import Any, Literal

import numpy as np

from spikerl.agent import SpikingAgent
from spikerl.errors import ConversionError, ConversionWarning, SpikerlError, listed
from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, Layer, NeuronLayer, SpikingNetwork
from spikerl.nir.numbers import KEY, library, node_kind, parameters, remembered

Readout = Literal["node", "current"]


def to_nir(
    source: SpikingNetwork | SpikingAgent,
    *,
    dt: float | None = None,
    readout: Readout = "node",
    portable: bool = False,
) -> Any:
    """The nir.NIRGraph of a network, or of an agent's network.

    dt:       seconds per step; None takes the network's dt_ms. Many readers assume 1e-4.
    readout:  "node" writes a read-out as I or LI, which few readers know; "current" ends the graph
              with the read-out's weights, and the sum of what comes out is its potential.
    portable: raise instead of warning where the metadata hold what NIR has no word for.
    An agent's preprocessing, encoder and decoder are not in the graph; sim_steps is, as metadata.
    Raises ConversionError with everything that cannot be written.
    """
    network = source.network if isinstance(source, SpikingAgent) else source
    if not isinstance(network, SpikingNetwork):
        raise SpikerlError(
            f"found {type(source).__name__}, wanted a SpikingNetwork or a SpikingAgent"
        )
    dt = network.dt_ms / 1000.0 if dt is None else float(dt)
    writer = _Writer(library(), dt, len(network.layers))
    if not (isfinite(dt) and dt > 0):
        writer.problems.append(f"dt must be finite and > 0 seconds, found {dt!r}")
    if readout not in ("node", "current"):
        writer.problems.append(f"readout is {readout!r}, wanted 'node' or 'current'")
    if not writer.problems:
        writer.write(network, readout)
    if portable:
        writer.problems += writer.unsaid
    if writer.problems:
        raise ConversionError("this network cannot be written as NIR", writer.problems)
    if writer.unsaid:
        warnings.warn(
            listed("only spikerl reads these from the graph's metadata", writer.unsaid),
            ConversionWarning,
            stacklevel=2,
        )
    own: dict[str, Any] = {"dt_ms": float(network.dt_ms), "fires_at_threshold": True}
    if isinstance(source, SpikingAgent):
        own["sim_steps"] = int(source.sim_steps)
    return writer.graph({"dt": dt, KEY: own})


def write(
    source: SpikingNetwork | SpikingAgent,
    path: str | os.PathLike[str],
    *,
    dt: float | None = None,
    readout: Readout = "node",
    portable: bool = False,
) -> None:
    """Write a network as a NIR file (HDF5); arguments and errors are those of to_nir()."""
    graph = to_nir(source, dt=dt, readout=readout, portable=portable)
    library().write(os.fspath(path), graph)


class _Writer:
    """Nodes in a chain, and what stood in the way.

    shape: of what the last node gives out, without batch.
    unsaid: what the metadata hold and NIR cannot say.
    """

    def __init__(self, nir: Any, dt: float, n_layers: int) -> None:
        self.nir, self.dt, self._n_layers = nir, dt, n_layers
        self.problems: list[str] = []
        self.unsaid: list[str] = []
        self.shape: tuple[int, ...] = ()
        self._nodes: dict[str, Any] = {}
        self._edges: list[tuple[str, str]] = []
        self._last = ""

    def graph(self, metadata: dict[str, Any]) -> Any:
        self._chain("output", self.nir.Output(output_type=np.array(self.shape)))
        return self.nir.NIRGraph(nodes=self._nodes, edges=self._edges, metadata=metadata)

    def write(self, network: SpikingNetwork, readout: Readout) -> None:
        first = network.layers[0]
        self.shape = (first.n_in,) if isinstance(first, Dense) else tuple(first.input_shape)
        self._chain("input", self.nir.Input(input_type=np.array(self.shape)))
        for i, layer in enumerate(network.layers):
            self._map(i, layer)
            if isinstance(layer, NeuronLayer):
                self._neurons(i, layer, readout)

    def _chain(self, name: str, node: Any) -> None:
        self._nodes[name] = node
        if self._last:
            self._edges.append((self._last, name))
        self._last = name

    def _map(self, i: int, layer: Layer) -> None:
        """The linear part of a layer."""
        nir = self.nir
        if isinstance(layer, Flatten):
            self._flatten(f"flatten_{i}", {"input_shape": np.array(layer.input_shape)})
            return
        if isinstance(layer, Dense):
            if len(self.shape) > 1:
                self._flatten(f"to_row_{i}", {"implicit": True})
            node = nir.Affine(weight=np.array(layer.weight), bias=np.array(layer.bias))
            self._chain(f"affine_{i}", node)
            self.shape = (layer.n_out,)
            return
        if self.shape != layer.input_shape:
            self.problems.append(
                f"layer {i} ({type(layer).__name__}) reads {self.shape} as a map of "
                f"{layer.input_shape}: NIR has no node that gives a row another shape"
            )
        if isinstance(layer, Conv2d):
            node = nir.Conv2d(
                input_shape=layer.input_shape[1:],
                weight=np.array(layer.weight),
                stride=layer.stride,
                padding=layer.padding,
                dilation=(1, 1),
                groups=1,
                bias=np.array(layer.bias),
            )
            found = tuple(int(n) for n in node.output_type["output"])
            if found != layer.output_shape:
                self.problems.append(
                    f"layer {i}: nir takes the output of a kernel {layer.weight.shape[2:]} for "
                    f"{found}, it is {layer.output_shape}; only square kernels can be written"
                )
            self._chain(f"conv2d_{i}", node)
        elif isinstance(layer, AvgPool2d):
            size, stride = np.array(layer.kernel_size), np.array(layer.steps)
            pool = nir.AvgPool2d(kernel_size=size, stride=stride, padding=np.array([0, 0]))
            self._chain(f"avg_pool2d_{i}", pool)
        self.shape = layer.output_shape

    def _flatten(self, name: str, metadata: dict[str, Any]) -> None:
        node = self.nir.Flatten(input_type=np.array(self.shape), start_dim=0, end_dim=-1)
        node.metadata[KEY] = metadata
        self._chain(name, node)
        self.shape = (int(np.prod(self.shape)),)

    def _neurons(self, i: int, layer: NeuronLayer, readout: Readout) -> None:
        if (layer.decay < 1).any() and (layer.decay == 1).any():
            self.problems.append(
                f"layer {i}: some neurons leak and some do not (decay < 1 and = 1); "
                "a NIR node is one or the other"
            )
            return
        if layer.has_current or layer.adapts:
            self.problems.append(
                f"layer {i}: synaptic currents and thresholds that adapt (current_decay, "
                "adaptation > 0) are not written"
            )
            return
        self._note(i, layer)
        if not layer.spiking and readout == "current":
            if (layer.decay < 1).any():
                self.unsaid.append(f"layer {i}: decay of the read-out, which has no node")
            self._nodes[self._last].metadata[KEY] = {"readout": remembered(layer)}
            return
        kind = node_kind(layer)
        name = f"{kind.lower()}_{i}"
        node = getattr(self.nir, kind)(**parameters(layer, self.shape, self.dt))
        node.metadata[KEY] = remembered(layer)
        self._chain(name, node)
        if layer.recurrent_weight is not None:
            self._recurrent(i, layer)
        if layer.delay_steps and i + 1 < self._n_layers:  # nobody hears the last layer
            delay = np.full(self.shape, layer.delay_steps * self.dt)
            self._chain(f"delay_{i}", self.nir.Delay(delay=delay))

    def _recurrent(self, i: int, layer: NeuronLayer) -> None:
        if layer.delay_steps > 1:
            self.problems.append(
                f"layer {i}: recurrent weights with delay_steps={layer.delay_steps}; a loop in NIR "
                "takes one step, so delay_steps must be 0 or 1"
            )
        name = f"recurrent_{i}"
        self._nodes[name] = self.nir.Linear(weight=np.array(layer.recurrent_weight))
        self._edges += [(self._last, name), (name, self._last)]

    def _note(self, i: int, layer: NeuronLayer) -> None:
        """What NIR has no word for."""
        if layer.spiking and layer.reset == "subtract":
            self.unsaid.append(f"layer {i}: reset='subtract'; others reset to zero")
        if np.any(layer.v_init):
            self.unsaid.append(f"layer {i}: v_init; others start at 0")
        if layer.v_min is not None:
            self.unsaid.append(f"layer {i}: v_min={layer.v_min:g}; others have no floor")
        if layer.refractory_steps:
            self.unsaid.append(f"layer {i}: refractory_steps={layer.refractory_steps}")
