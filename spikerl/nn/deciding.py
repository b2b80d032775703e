"""Decisions: what a stack of dense layers fires, by the engine of the back end "cpu".

The policy that learns and the agent that is deployed run on the same compiled loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np
from torch import Tensor

from spikerl.backends.cpu_blocks import SHORT, WIDE
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
        self._rows, self._precision = 0, WIDE
        self._at_work = Lock()  # threads may share a policy, not its potentials
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
        with self._at_work:
            return self._rates(layers, drive, sim_steps)

    def _rates(
        self, layers: Sequence[SpikingLayer | ForeignLayer], drive: np.ndarray, sim_steps: int
    ) -> FloatArray:
        rows = drive.shape[1]
        found = [self._viewed(k, layer.numbers()) for k, layer in enumerate(layers)]
        single = all(weight.dtype == np.float32 for weight, *_ in found)
        engine = self._ready(layers, min(rows, ROWS), SHORT if single else WIDE)
        for k, (weight, *neurons) in enumerate(found):
            if k:
                engine.put(k, weight, *neurons)
            else:
                engine.put(k, None, *neurons)
                exact, bias = self._exact(weight), neurons[0]
        steps = sim_steps - layers[-1].neuron.delay_steps  # what fires later does not arrive
        rates = np.empty((rows, layers[-1].n_out))
        for b in range(0, rows, ROWS):
            x = drive[:steps, b : b + ROWS]
            currents = x.reshape(-1, x.shape[2]).astype(np.float64) @ exact.T
            currents += bias
            engine.reset(slice(x.shape[1]))
            each = engine.run(currents.reshape(len(x), x.shape[1], -1), steps)
            rates[b : b + ROWS] = each[-1]
        rates /= sim_steps
        return rates

    def _ready(
        self, layers: Sequence[SpikingLayer | ForeignLayer], rows: int, precision: int
    ) -> Engine:
        if self._engine is None or rows > self._rows or precision != self._precision:
            network = SpikingNetwork(tuple(layer.to_layer() for layer in layers))
            self._engine, self._rows = Engine(Plan(network, precision), rows), rows
            self._precision = precision
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
