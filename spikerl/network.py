"""The neuron contract, SpikingNetwork and Recording.

Imports numpy, layers and errors only. Everything in spikerl is tested against the definition below.

Each step t = 1..T, layer after layer:

    i <- current_decay * i + W x + b  x: spikes of the layer before, or the drive for the first
    v <- decay * v + i
    v <- max(v, v_min)                only where a layer has a v_min
    s <- v >= v_threshold + adaptation * a   inclusive; at most one spike per neuron and step
    a <- adaptation_decay * a + s
    v <- v - s * v_threshold          reset="subtract";  v <- 0 where s: reset="zero"

With current_decay = 0 and adaptation = 0, as usual, i is W x + b and the threshold v_threshold.

A read-out (spiking=False) has the same sum and never fires; its potential is the answer.
v starts at v_init, i and a at 0. The bias acts at every step from the first one, whatever the
delays.

    delay_steps       the layer's spikes reach the next layer this many steps later (0: in the same
                      step; 1: in the next one, as in NEST and on most chips)
    recurrent         U s(t - max(1, delay_steps)) is added to the sum: a layer hears itself one
                      step later at the earliest
    refractory_steps  for this many steps after a spike v is held: no leak, no input, no spike;
                      i and a go on
    current_decay     neurons with a synaptic current (current-based, as in Tang et al. 2020)
    adaptation        each spike lifts the threshold; resets take v_threshold alone (Bellec et al.
                      2020)

Data are flat: a feature map [C, H, W] is a row of C*H*W numbers in that order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.errors import NetworkError
from spikerl.layers import (
    LAYER_TYPES,
    RESETS,
    AvgPool2d,
    Conv2d,
    Dense,
    Flatten,
    FloatArray,
    Layer,
    NeuronLayer,
    Reset,
)

__all__ = [
    "LAYER_TYPES",
    "RESETS",
    "AvgPool2d",
    "Conv2d",
    "Dense",
    "Flatten",
    "FloatArray",
    "Layer",
    "NeuronLayer",
    "Recording",
    "Reset",
    "SpikingNetwork",
]


@dataclass(frozen=True, eq=False)
class SpikingNetwork:
    """A stack of layers under the neuron contract; immutable, and valid once it exists.

    layers: the last one has neurons; only the last one may be a read-out.
    dt_ms:  milliseconds per step; read only by back ends that live in physical time.
    Raises NetworkError with every problem of every layer.
    """

    layers: tuple[Layer, ...]
    dt_ms: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.layers, Iterable):
            object.__setattr__(self, "layers", tuple(self.layers))
        problems = list(self._problems())
        if problems:
            raise NetworkError(problems)

    def _problems(self) -> Iterable[str]:
        if not isinstance(self.layers, tuple) or not self.layers:
            yield f"layers must be a sequence of at least one layer, found {self.layers!r}"
            return
        if not (
            isinstance(self.dt_ms, (int, float)) and np.isfinite(self.dt_ms) and self.dt_ms > 0
        ):
            yield f"dt_ms must be finite and > 0, found {self.dt_ms!r}"
        sound: list[bool] = []
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, LAYER_TYPES):
                names = ", ".join(t.__name__ for t in LAYER_TYPES)
                yield f"layer {i}: found {type(layer).__name__}, wanted one of {names}"
                sound.append(False)
                continue
            found = layer.problems()
            sound.append(not found)
            yield from (f"layer {i} ({type(layer).__name__}): {text}" for text in found)
            last = i == len(self.layers) - 1
            if last and not isinstance(layer, NeuronLayer):
                yield f"layer {i} ({type(layer).__name__}): the last layer must have neurons"
            if not last and isinstance(layer, NeuronLayer) and not layer.spiking:
                yield f"layer {i}: only the last layer may be a read-out (spiking=False)"
        for i in range(1, len(self.layers)):
            before, here = self.layers[i - 1], self.layers[i]
            if sound[i - 1] and sound[i] and before.n_out != here.n_in:
                yield (
                    f"layer {i} expects {here.n_in} inputs, "
                    f"layer {i - 1} has {before.n_out} outputs"
                )

    @property
    def n_in(self) -> int:
        """Width of the drive."""
        return self.layers[0].n_in

    @property
    def n_out(self) -> int:
        """Neurons of the last layer."""
        return self.layers[-1].n_out

    @cached_property
    def neuron_layers(self) -> tuple[NeuronLayer, ...]:
        """The layers that have neurons, in order; potentials are recorded for each."""
        return tuple(layer for layer in self.layers if isinstance(layer, NeuronLayer))

    @cached_property
    def spiking_layers(self) -> tuple[NeuronLayer, ...]:
        """The layers that fire, in order; spikes and counts are recorded for each."""
        return tuple(layer for layer in self.neuron_layers if layer.spiking)

    @property
    def readout(self) -> NeuronLayer:
        """The last layer."""
        return self.neuron_layers[-1]

    def fingerprint(self) -> str:
        """SHA-256 over every field of every layer: equal exactly when the networks are."""
        digest = hashlib.sha256(repr(float(self.dt_ms)).encode())
        for layer in self.layers:
            digest.update(type(layer).__name__.encode())
            for field in fields(layer):
                value = getattr(layer, field.name)
                digest.update(f"|{field.name}".encode())
                if isinstance(value, np.ndarray):
                    digest.update(
                        repr(value.shape).encode() + np.ascontiguousarray(value).tobytes()
                    )
                else:
                    digest.update(repr(value).encode())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Recording:
    """What came out of T steps; the one thing metrics, decoders and tests consume.

    counts:     one [B, n] int64 per spiking layer: spikes in this run.
    potentials: one [B, n] float64 per neuron layer: v after the last step (None where unreadable).
    spikes:     one [T, B, n] bool per spiking layer, or None if they were not asked for.
    sim_steps:  T of this run.
    """

    counts: tuple[NDArray[np.int64], ...]
    potentials: tuple[FloatArray | None, ...]
    sim_steps: int
    spikes: tuple[NDArray[np.bool_], ...] | None = None

    @property
    def potential(self) -> FloatArray | None:
        """Final potential [B, n_out] of the last layer."""
        return self.potentials[-1]

    @staticmethod
    def joined(parts: list[Recording]) -> Recording:
        """One recording of the rows of several, in order; all of the same network and T."""

        def together(arrays: Iterable[Any], axis: int = 0) -> Any:
            found = list(arrays)
            return None if found[0] is None else np.concatenate(found, axis=axis)

        first = parts[0]
        spikes = None
        if first.spikes is not None:
            spikes = tuple(
                together((p.spikes[i] for p in parts if p.spikes is not None), axis=1)
                for i in range(len(first.spikes))
            )
        return Recording(
            counts=tuple(together(p.counts[i] for p in parts) for i in range(len(first.counts))),
            potentials=tuple(
                together(p.potentials[i] for p in parts) for i in range(len(first.potentials))
            ),
            sim_steps=first.sim_steps,
            spikes=spikes,
        )
