"""Encoders: preprocessed observations [B, n] -> drive [T, B, channels]. Imports numpy and errors.

Spike trains are unsigned and at most one spike per step, so the spike encoders divide by `scale`
and, where signed=True, give every input two channels: first all positive parts, then all negative.
An input beyond its scale saturates at one spike per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.random import Generator

from spikerl.errors import ShapeError, SpikerlError
from spikerl.network import FloatArray


class Encoder(Protocol):
    """Turns a row of numbers into T steps of input."""

    def n_channels(self, n_inputs: int) -> int:
        """Width of the drive for n_inputs numbers."""
        ...

    def encode(self, x: FloatArray, sim_steps: int, rng: Generator) -> FloatArray:
        """Drive [T, B, n_channels] for rows x [B, n_inputs]; randomness comes from rng only."""
        ...


def split_signed(x: FloatArray) -> FloatArray:
    """Positive parts, then negative parts: [..., n] -> [..., 2n], all >= 0."""
    return np.concatenate([np.maximum(x, 0.0), np.maximum(-x, 0.0)], axis=-1)


def equidistant(p: FloatArray, sim_steps: int) -> FloatArray:
    """round(T p) spikes in T steps at even distances, for p [B, n] in [0, 1]: [T, B, n]."""
    steps = np.arange(sim_steps + 1).reshape(-1, 1, 1)
    spikes: FloatArray = np.diff(np.floor(steps * p + 0.5), axis=0)
    return spikes


@dataclass(frozen=True, eq=False)
class ConstantCurrent:
    """The numbers themselves as a current, the same at every step (Rueckauer et al. 2017)."""

    def n_channels(self, n_inputs: int) -> int:
        return n_inputs

    def encode(self, x: FloatArray, sim_steps: int, rng: Generator) -> FloatArray:
        return np.broadcast_to(x, (sim_steps, *x.shape))


@dataclass(frozen=True, eq=False)
class _SpikeEncoder:
    """scale: scalar or [n], the magnitude of a spike at every step.  signed: two channels."""

    scale: Any = 1.0
    signed: bool = True

    def __post_init__(self) -> None:
        scale = np.array(self.scale, dtype=np.float64)
        if scale.ndim > 1 or not np.isfinite(scale).all() or (scale <= 0).any():
            raise SpikerlError(f"{type(self).__name__}: scale must be finite and > 0")
        scale.setflags(write=False)
        object.__setattr__(self, "scale", scale)

    def n_channels(self, n_inputs: int) -> int:
        return 2 * n_inputs if self.signed else n_inputs

    def intensity(self, x: FloatArray) -> FloatArray:
        """Spikes per step in [0, 1] of every channel: [B, n_channels]."""
        scaled = x / self.scale
        return np.clip(split_signed(scaled) if self.signed else scaled, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class PoissonSpikes(_SpikeEncoder):
    """A spike with probability |x| / scale at every step, independently (Diehl et al. 2015)."""

    def encode(self, x: FloatArray, sim_steps: int, rng: Generator) -> FloatArray:
        p = self.intensity(x)
        return (rng.random((sim_steps, *p.shape)) < p).astype(np.float64)


@dataclass(frozen=True, eq=False)
class EquidistantSpikes(_SpikeEncoder):
    """round(T |x| / scale) spikes at even distances: an integrator that starts half full."""

    def encode(self, x: FloatArray, sim_steps: int, rng: Generator) -> FloatArray:
        return equidistant(self.intensity(x), sim_steps)


@dataclass(frozen=True, eq=False)
class LatencySpike(_SpikeEncoder):
    """One spike, the earlier the larger: step 1 for |x| = scale, step T towards 0, none at 0."""

    def encode(self, x: FloatArray, sim_steps: int, rng: Generator) -> FloatArray:
        p = self.intensity(x)
        when = np.rint((1.0 - p) * (sim_steps - 1))
        steps = np.arange(sim_steps).reshape(-1, 1, 1)
        spikes: FloatArray = ((steps == when) & (p > 0)).astype(np.float64)
        return spikes


@dataclass(frozen=True, eq=False)
class PopulationCode:
    """n_neurons Gaussian receptive fields per input, exp(-(x - mu)^2 / (2 sigma^2)) (PopSAN, 2020).

    Centres mu are even over [low, high] (scalar or [n]); sigma is in units of x. The activity in
    [0, 1] enters as a current, or as equidistant or Poisson spikes. Channels: input after input.
    """

    n_neurons: int = 10
    low: Any = -1.0
    high: Any = 1.0
    sigma: float = 0.25
    spikes: Literal["none", "equidistant", "poisson"] = "none"

    def __post_init__(self) -> None:
        low, high = np.array(self.low, np.float64), np.array(self.high, np.float64)
        if self.n_neurons < 2 or not np.isfinite(self.sigma) or self.sigma <= 0:
            raise SpikerlError("PopulationCode: n_neurons must be >= 2 and sigma finite and > 0")
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
            raise SpikerlError("PopulationCode: low must be below high, both finite")
        if self.spikes not in ("none", "equidistant", "poisson"):
            raise SpikerlError(
                f"PopulationCode: spikes is {self.spikes!r}, wanted none, equidistant or poisson"
            )
        low.setflags(write=False)
        high.setflags(write=False)
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def n_channels(self, n_inputs: int) -> int:
        return n_inputs * self.n_neurons

    def activity(self, x: FloatArray) -> FloatArray:
        """Activity in [0, 1] of every field: [B, n * n_neurons]."""
        place = np.linspace(0.0, 1.0, self.n_neurons)
        low = np.broadcast_to(self.low, x.shape[1:])[:, None]
        high = np.broadcast_to(self.high, x.shape[1:])[:, None]
        centres = low + (high - low) * place
        fields: FloatArray = np.exp(-0.5 * ((x[:, :, None] - centres) / self.sigma) ** 2)
        return fields.reshape(len(x), -1)

    def encode(self, x: FloatArray, sim_steps: int, rng: Generator) -> FloatArray:
        activity = self.activity(x)
        if self.spikes == "equidistant":
            return EquidistantSpikes(signed=False).encode(activity, sim_steps, rng)
        if self.spikes == "poisson":
            return PoissonSpikes(signed=False).encode(activity, sim_steps, rng)
        return ConstantCurrent().encode(activity, sim_steps, rng)


SQUASHES = ("none", "tanh")


def gaussian_fields(
    x: FloatArray, centres: FloatArray, widths: FloatArray, squash: str
) -> FloatArray:
    """Activity [B, n * k] in [0, 1] of k Gaussian fields per input x [B, n]; see ReceptiveFields.

    centres, widths: [n, k], or [1, k] for the same fields on every input.
    """
    if squash == "tanh":
        x = np.tanh(x)
    fields: FloatArray = np.exp(-0.5 * ((x[:, :, None] - centres) / widths) ** 2)
    return fields.reshape(len(x), -1)


@dataclass(frozen=True, eq=False)
class ReceptiveFields:
    """Gaussian fields with a centre and a width each, as training left them (Tang et al. 2020).

    The activity exp(-(x - centre)^2 / (2 width^2)) enters as a current, the same at every step, or
    as equidistant spikes.

    centres, widths: [n, k] for k fields on each of n inputs.
    squash: "tanh" is applied to the inputs before, so that fields over (-1, 1) meet any input.
    spikes: "none" or "equidistant".
    """

    centres: Any
    widths: Any
    squash: Literal["none", "tanh"] = "none"
    spikes: Literal["none", "equidistant"] = "none"

    def __post_init__(self) -> None:
        for name in ("centres", "widths"):
            array = np.array(getattr(self, name), np.float64)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        shape = self.centres.shape
        if len(shape) != 2 or 0 in shape or shape != self.widths.shape:
            raise SpikerlError(
                f"ReceptiveFields: centres have shape {shape}, widths {self.widths.shape}; wanted "
                "(inputs, fields) for both"
            )
        if not (np.isfinite(self.centres).all() and np.isfinite(self.widths).all()):
            raise SpikerlError("ReceptiveFields: centres and widths must be finite")
        if (self.widths <= 0).any():
            raise SpikerlError("ReceptiveFields: widths must be > 0")
        for name, known in (("squash", SQUASHES), ("spikes", ("none", "equidistant"))):
            if getattr(self, name) not in known:
                raise SpikerlError(
                    f"ReceptiveFields: {name} is {getattr(self, name)!r}, wanted one of "
                    + ", ".join(known)
                )

    def n_channels(self, n_inputs: int) -> int:
        return n_inputs * int(self.centres.shape[1])

    def encode(self, x: FloatArray, sim_steps: int, rng: Generator) -> FloatArray:
        if x.shape[1] != len(self.centres):
            raise ShapeError(
                f"ReceptiveFields: rows of {x.shape[1]} numbers, fields are on {len(self.centres)}"
            )
        activity = gaussian_fields(x, self.centres, self.widths, self.squash)
        if self.spikes == "equidistant":
            return equidistant(activity, sim_steps)
        return np.broadcast_to(activity, (sim_steps, *activity.shape))


# by name, for those that need no arrays
ENCODERS: dict[str, type] = {
    "constant": ConstantCurrent,
    "poisson": PoissonSpikes,
    "equidistant": EquidistantSpikes,
    "latency": LatencySpike,
    "population": PopulationCode,
}
