"""Decisions: what a stack of dense layers fires, by the engine of the back end "cpu".

The policy that learns and the agent that is deployed run on the same compiled loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import local
from typing import Any

import numpy as np
from torch import Tensor

from spikerl.backends.cpu_blocks import SHORT, WIDE
from spikerl.backends.cpu_engine import Engine
from spikerl.backends.cpu_kernels import same
from spikerl.backends.cpu_plan import Plan
from spikerl.layers import FloatArray, Layer
from spikerl.network import SpikingNetwork
from spikerl.nn.foreign import ForeignLayer
from spikerl.nn.layer import SpikingLayer

ROWS = 256  # at a time: what their states take is kept


class Decisions(local):
    """An engine made at the first decision, told before each one which numbers the layers have.

    It is no part of what is saved or copied, and every thread has its own.
    """

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._rows = 0
        self._plan: list[Any] = []
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
        found = [self._viewed(k, layer.numbers()) for k, layer in enumerate(layers)]
        engine = self._ready(layers, [weight for weight, *_ in found], min(rows, ROWS))
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
        self,
        layers: Sequence[SpikingLayer | ForeignLayer],
        weights: Sequence[np.ndarray],
        rows: int,
    ) -> Engine:
        """The engine of these layers, made anew if they are others, or have other rules."""
        plan = [(x, x.neuron, w.shape, w.dtype) for x, w in zip(layers, weights, strict=True)]
        if self._engine is None or rows > self._rows or plan != self._plan:
            network = SpikingNetwork(tuple(_without_numbers(layer) for layer in layers))
            single = all(weight.dtype == np.float32 for weight in weights)
            self._engine = Engine(Plan(network, SHORT if single else WIDE), rows)
            self._rows, self._plan = rows, plan
        return self._engine

    def _viewed(self, layer: int, parts: tuple[Tensor, ...]) -> tuple[np.ndarray, ...]:
        """The tensors of a layer as arrays, the same ones while they lie where they did.

        The arrays hold their memory, so that nothing else can come to lie there.
        """
        places = [(part.data_ptr(), part.stride()) for part in parts]
        seen = self._views.get(layer)
        if seen is None or seen[0] != places:
            seen = self._views[layer] = (places, tuple([part.detach().numpy() for part in parts]))
        return seen[1]

    def _exact(self, weight: np.ndarray) -> FloatArray:
        """The first layer's weights in float64, made again only when they have changed."""
        if self._first.shape != weight.shape or not same(self._first, weight):
            self._first, self._weight = weight.copy(), weight.astype(np.float64)
        return self._weight


def _without_numbers(layer: SpikingLayer | ForeignLayer) -> Layer:
    """The layer with numbers of which nothing is wrong, whatever training has come to."""
    found = layer.to_layer()
    leaks = bool((found.decay != 1).any())
    return replace(
        found,
        weight=np.zeros_like(found.weight),
        bias=np.zeros_like(found.bias),
        decay=0.5 if leaks else 1.0,
        v_threshold=1.0,
        v_init=0.0,
    )


View = tuple[list[tuple[int, tuple[int, ...]]], tuple[np.ndarray, ...]]
