"""Decoders: Recording -> values [B, n] -> action. Imports numpy, heads, network and errors.

A Decoder is a read (which quantity of the recording is the value) and a head (what the values mean
as an action, see heads.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from spikerl.errors import SpikerlError
from spikerl.heads import Binary, Categorical, Gaussian, Head, freeze
from spikerl.network import FloatArray, Recording, SpikingNetwork

__all__ = [
    "Binary",
    "Categorical",
    "Decoder",
    "FinalPotential",
    "FirstSpike",
    "Gaussian",
    "Head",
    "Read",
    "ResidualPotential",
    "SpikeCount",
    "WeightedCount",
]


class Read(Protocol):
    """Takes the values out of a recording."""

    needs_spikes: bool
    in_units: bool  # whether the values are in the units of the source, or only in its order

    def n_values(self, network: SpikingNetwork) -> int:
        """How many values it reads from this network."""
        ...

    def problems(self, network: SpikingNetwork) -> list[str]:
        """Every reason it cannot read this network."""
        ...

    def values(self, recording: Recording) -> FloatArray:
        """Values [B, n]."""
        ...


@dataclass(frozen=True, eq=False)
class FinalPotential:
    """(v(T) - v_init) / T * scale + offset of the read-out: the mean input it received.

    scale, offset: scalar or [n].  average=False leaves out the division by T.
    """

    v_init: Any = 0.0
    scale: Any = 1.0
    offset: Any = 0.0
    average: bool = True

    needs_spikes = False
    in_units = True

    def __post_init__(self) -> None:
        freeze(self, "v_init", "scale", "offset")

    def n_values(self, network: SpikingNetwork) -> int:
        return network.n_out

    def problems(self, network: SpikingNetwork) -> list[str]:
        if network.readout.spiking:
            return ["FinalPotential reads a read-out, the last layer is spiking"]
        return []

    def values(self, recording: Recording) -> FloatArray:
        if recording.potential is None:
            raise SpikerlError(
                "the back end does not record potentials: decode spike counts instead"
            )
        total = recording.potential - self.v_init
        mean = total / recording.sim_steps if self.average else total
        values: FloatArray = mean * self.scale + self.offset
        return values


@dataclass(frozen=True, eq=False)
class SpikeCount:
    """count / T * scale + offset of the last layer, which must spike.

    A neuron cannot fire below zero, so negative values need one of two things: an offset, added to
    the layer's bias by the converter and subtracted here; or signed=True, where neuron i speaks for
    +value i and neuron n + i for -value i, and the difference of their counts is read.
    """

    scale: Any = 1.0
    offset: Any = 0.0
    signed: bool = False

    needs_spikes = False
    in_units = True

    def __post_init__(self) -> None:
        freeze(self, "scale", "offset")

    def n_values(self, network: SpikingNetwork) -> int:
        return network.n_out // 2 if self.signed else network.n_out

    def problems(self, network: SpikingNetwork) -> list[str]:
        found = [] if network.readout.spiking else ["SpikeCount needs a last layer that spikes"]
        if self.signed and network.n_out % 2:
            found.append(f"SpikeCount(signed=True) needs pairs, the last layer has {network.n_out}")
        return found

    def values(self, recording: Recording) -> FloatArray:
        counts = recording.counts[-1]
        if self.signed:
            half = counts.shape[1] // 2
            counts = counts[:, :half] - counts[:, half:]
        values: FloatArray = counts / recording.sim_steps * self.scale + self.offset
        return values


@dataclass(frozen=True, eq=False)
class FirstSpike:
    """(T - t) / T for a first spike in step t + 1 of the last layer, 0 for silence (Thorpe 2001).

    Ties go to the lower index, so give the window enough steps to tell the actions apart.
    """

    needs_spikes = True
    in_units = False

    def n_values(self, network: SpikingNetwork) -> int:
        return network.n_out

    def problems(self, network: SpikingNetwork) -> list[str]:
        return [] if network.readout.spiking else ["FirstSpike needs a last layer that spikes"]

    def values(self, recording: Recording) -> FloatArray:
        if recording.spikes is None:
            raise SpikerlError("first-spike decoding needs the spikes: run with record_spikes=True")
        spikes = recording.spikes[-1]
        first = np.where(spikes.any(axis=0), spikes.argmax(axis=0), recording.sim_steps)
        values: FloatArray = (recording.sim_steps - first) / recording.sim_steps
        return values


@dataclass(frozen=True, eq=False)
class WeightedCount:
    """weight @ (count / T) + bias of the last layer, which spikes; the host adds it up.

    For networks that keep their state from decision to decision: a read-out neuron would keep
    everything it ever received.  weight: [n_values, n].  bias: [n_values].
    """

    weight: Any
    bias: Any

    needs_spikes = False
    in_units = True

    def __post_init__(self) -> None:
        freeze(self, "weight", "bias")

    def n_values(self, network: SpikingNetwork) -> int:
        return len(self.weight)

    def problems(self, network: SpikingNetwork) -> list[str]:
        last = network.readout
        if not last.spiking:
            return ["WeightedCount needs a last layer that spikes"]
        if self.weight.shape != (len(self.bias), last.n_out):
            return [
                f"the weights of WeightedCount have shape {self.weight.shape}, wanted "
                f"({len(self.bias)}, {last.n_out})"
            ]
        return []

    def values(self, recording: Recording) -> FloatArray:
        rates = recording.counts[-1] / recording.sim_steps
        values: FloatArray = rates @ self.weight.T + self.bias
        return values


@dataclass(frozen=True, eq=False)
class ResidualPotential:
    """weight @ r + bias, r = (count * v_threshold + v(T) - v_init) / (T * v_threshold) in [0, 1].

    Under reset by subtraction without leak the bracket is all the input a neuron of the last layer
    received, so r is what its spikes per step stand for without their rounding to 1 / T (Bu et al.
    2022 name that rest). The last layer spikes; the sum of weights is left to the host, n numbers
    per neuron and decision.

    weight: [n_values, n].  bias: [n_values].  v_threshold, v_init: scalar or [n], of the layer.
    """

    weight: Any
    bias: Any
    v_threshold: Any = 1.0
    v_init: Any = 0.0

    needs_spikes = False
    in_units = True

    def __post_init__(self) -> None:
        freeze(self, "weight", "bias", "v_threshold", "v_init")

    def n_values(self, network: SpikingNetwork) -> int:
        return len(self.weight)

    def problems(self, network: SpikingNetwork) -> list[str]:
        last = network.readout
        if not last.spiking:
            return ["ResidualPotential reads a last layer that spikes, found a read-out"]
        found = []
        if self.weight.shape != (len(self.bias), last.n_out):
            found.append(
                f"the weights of ResidualPotential have shape {self.weight.shape}, wanted "
                f"({len(self.bias)}, {last.n_out})"
            )
        leaks = (last.decay != 1).any() or last.has_current
        if last.reset != "subtract" or leaks or last.v_min is not None:
            found.append(
                "ResidualPotential needs reset='subtract', decay=1, no synaptic current and no "
                "v_min in the last layer: else count and potential do not add up to what came in"
            )
        return found

    def rates(self, recording: Recording, layer: int = -1) -> FloatArray:
        """r [B, n] of a layer: of the last one, or of another by its index."""
        potential = recording.potentials[layer]
        if potential is None:
            raise SpikerlError(
                "the back end does not record potentials: decode spike counts instead"
            )
        received = recording.counts[-1] + (potential - self.v_init) / self.v_threshold
        rates: FloatArray = np.clip(received / recording.sim_steps, 0.0, 1.0)
        return rates

    def values(self, recording: Recording) -> FloatArray:
        values: FloatArray = self.rates(recording) @ self.weight.T + self.bias
        return values


@dataclass(frozen=True, eq=False)
class Decoder:
    """A read and a head: from a recording to an action."""

    read: Read
    head: Head

    def values(self, recording: Recording) -> FloatArray:
        """Values [B, n]: Q values, logits or means."""
        return self.read.values(recording)

    def action(self, values: FloatArray, deterministic: bool, rng: Generator) -> NDArray[Any]:
        """Actions [B, *action shape]; rng is used only when deterministic is False."""
        return self.head.action(values, deterministic, rng)

    def problems(self, network: SpikingNetwork) -> list[str]:
        """Every reason it does not fit this network."""
        found = self.read.problems(network)
        have, want = self.read.n_values(network), self.head.n_values
        if not found and have != want:
            found.append(f"the network gives {have} values, the action head wants {want}")
        return found
