"""Decisions: what a stack of dense layers fires, by the engine of the back end "cpu".

The policy that learns and the agent that is deployed run on the same compiled loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from spikerl.backends.cpu_engine import Engine
from spikerl.backends.cpu_kernels import same
from spikerl.backends.cpu_plan import Plan
from spikerl.layers import FloatArray
from spikerl.network import SpikingNetwork
from spikerl.nn.foreign import ForeignLayer
from spikerl.nn.layer import SpikingLayer

ROWS = 256  # at a time: what their states take is kept


class Decisions:
    """An engine made at the first decision, told before each one which numbers the layers have.

    It is no part of what is saved or copied.
    """

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._rows = 0
        self._views: dict[int, View] = {}
        self._first: np.ndarray = np.empty((0, 0), np.float32)
        self._weight: FloatArray = np.empty((0, 0))

    def __reduce__(self) -> tuple[Callable[[], Decisions], tuple[()]]:
        return Decisions, ()

    def rates(
        self, layers: Sequence[SpikingLayer | ForeignLayer], drive: np.ndarray, sim_steps: int
    ) -> FloatArray:
        """Spikes per step [B, n] of the last layer, of those that arrive in time.

        drive: what the first layer hears, [T, B, n_in], or [B, n_in] or [1, B, n_in] at all steps.
        """
        drive = drive if drive.ndim == 3 else drive[None]
        rows = drive.shape[1]
        engine = self._ready(layers, min(rows, ROWS))
        for k, layer in enumerate(layers):
            weight, *neurons = self._viewed(k, layer.numbers())
            if k:
                engine.put(k, weight, *neurons)
            else:
                engine.put(k, None, *neurons)
                exact, bias = self._exact(weight), neurons[0]
        steps = sim_steps - layers[-1].neuron.delay_steps  # what fires later does not arrive
        found = np.empty((rows, layers[-1].n_out))
        for b in range(0, rows, ROWS):
            x = drive[:steps, b : b + ROWS].astype(np.float64)
            currents = (x.reshape(-1, x.shape[2]) @ exact.T + bias).reshape(*x.shape[:2], -1)
            engine.reset(slice(x.shape[1]))
            found[b : b + ROWS] = engine.run(currents, steps)[-1]
        found /= sim_steps
        return found

    def _ready(self, layers: Sequence[SpikingLayer | ForeignLayer], rows: int) -> Engine:
        if self._engine is None or rows > self._rows:
            network = SpikingNetwork(tuple(layer.to_layer() for layer in layers))
            self._engine, self._rows = Engine(Plan(network, narrow=False), rows), rows
        return self._engine

    def _viewed(self, layer: int, parts: tuple[Tensor, ...]) -> tuple[np.ndarray, ...]:
        """The tensors of a layer as arrays, the same ones while they lie where they did.

        The arrays hold their memory, so that nothing else can come to lie there.
        """
        places = [part.data_ptr() for part in parts]
        seen = self._views.get(layer)
        if seen is None or seen[0] != places:
            seen = self._views[layer] = (places, tuple([part.detach().numpy() for part in parts]))
        return seen[1]

    def _exact(self, weight: np.ndarray) -> FloatArray:
        """The first layer's weights in float64, made again only when they have changed."""
        if self._first.shape != weight.shape or not same(self._first, weight):
            self._first, self._weight = weight.copy(), weight.astype(np.float64)
        return self._weight


View = tuple[list[int], tuple[np.ndarray, ...]]
