"""Heads: what the values of a network mean as an action. Imports numpy and errors.

Categorical, Binary or Gaussian, as SB3's distributions for Discrete, MultiBinary and Box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from spikerl.errors import SpikerlError
from spikerl.layers import FloatArray


class Head(Protocol):
    """Turns values into actions of one action space."""

    @property
    def n_values(self) -> int:
        """How many values it wants per row."""
        ...

    def action(self, values: FloatArray, deterministic: bool, rng: Generator) -> NDArray[Any]:
        """Actions [B, *action shape]."""
        ...


@dataclass(frozen=True, eq=False)
class Categorical:
    """argmax per choice; nvec holds the number of options of each choice, as MultiDiscrete's.

    sampling, used when deterministic=False: "softmax" draws from the logits (PPO, A2C, TRPO);
    "epsilon" draws a uniform action with probability epsilon per row (DQN, QR-DQN); "none" stays
    greedy.
    """

    nvec: tuple[int, ...]
    multi: bool = False
    sampling: Literal["none", "softmax", "epsilon"] = "none"
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        nvec = tuple(int(n) for n in self.nvec)
        object.__setattr__(self, "nvec", nvec)
        if not nvec or min(nvec) < 1 or (len(nvec) > 1 and not self.multi):
            raise SpikerlError(f"Categorical: nvec is {nvec}, multi is {self.multi}")
        _check_choice(self, "sampling", "none", "softmax", "epsilon")
        if not 0.0 <= self.epsilon <= 1.0:
            raise SpikerlError(f"Categorical: epsilon must be in [0, 1], found {self.epsilon!r}")

    @property
    def n_values(self) -> int:
        return sum(self.nvec)

    def action(self, values: FloatArray, deterministic: bool, rng: Generator) -> NDArray[Any]:
        parts = np.split(values, np.cumsum(self.nvec)[:-1], axis=1)
        if not deterministic and self.sampling == "softmax":
            # Gumbel-max: argmax(logits + noise) is a draw from the softmax
            parts = [part + rng.gumbel(size=part.shape) for part in parts]
        chosen = np.stack([part.argmax(axis=1) for part in parts], axis=1).astype(np.int64)
        if not deterministic and self.sampling == "epsilon":
            explore = rng.random(len(values)) < self.epsilon
            chosen[explore] = rng.integers(self.nvec, size=(int(explore.sum()), len(self.nvec)))
        return chosen if self.multi else chosen[:, 0]


@dataclass(frozen=True, eq=False)
class Binary:
    """1 where the logit is positive, one bit per value; draws from the sigmoid when sampling."""

    n: int

    @property
    def n_values(self) -> int:
        return self.n

    def action(self, values: FloatArray, deterministic: bool, rng: Generator) -> NDArray[Any]:
        noise = 0.0 if deterministic else rng.logistic(size=values.shape)
        return (values + noise > 0).astype(np.int8)


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The values are the means of a Gaussian over a Box.

    low, high:  the action space's bounds.
    squash:     "clip" (PPO, A2C, TRPO) or "tanh", then unscaled to [low, high] (SAC, TD3, ARS).
    mean_limit: the mean is clipped to +-mean_limit before tanh (clip_mean under gSDE), or None.
    noise:      what deterministic=False adds: "none"; "fixed", log_std [n]; "read", where the
                network has n more outputs, the log standard deviations (SAC), clipped to [-20, 2];
                "unknown", where sampling is refused (gSDE's noise needs the hidden layer).
    """

    low: Any
    high: Any
    squash: Literal["clip", "tanh"] = "clip"
    mean_limit: float | None = None
    noise: Literal["none", "fixed", "read", "unknown"] = "none"
    log_std: Any = None

    def __post_init__(self) -> None:
        freeze(self, "low", "high", "log_std")
        _check_choice(self, "squash", "clip", "tanh")
        _check_choice(self, "noise", "none", "fixed", "read", "unknown")
        if self.low.shape != self.high.shape or not (self.low <= self.high).all():
            raise SpikerlError("Gaussian: low and high must have one shape, low below high")
        if self.squash == "tanh" and not np.isfinite([self.low, self.high]).all():
            raise SpikerlError("Gaussian: squash='tanh' needs finite low and high")
        if self.mean_limit is not None and not self.mean_limit > 0:
            raise SpikerlError(f"Gaussian: mean_limit must be > 0, found {self.mean_limit!r}")
        if (self.noise == "fixed") != (self.log_std is not None):
            raise SpikerlError("Gaussian: log_std is given exactly when noise='fixed'")
        if self.log_std is not None and self.log_std.shape not in ((), (self.low.size,)):
            raise SpikerlError(
                f"Gaussian: log_std has shape {self.log_std.shape}, wanted ({self.low.size},)"
            )

    @property
    def n_values(self) -> int:
        return int(self.low.size) * (2 if self.noise == "read" else 1)

    def action(self, values: FloatArray, deterministic: bool, rng: Generator) -> NDArray[Any]:
        n = self.low.size
        mean = values[:, :n]
        if self.mean_limit is not None:
            mean = np.clip(mean, -self.mean_limit, self.mean_limit)
        if not deterministic and self.noise != "none":
            if self.noise == "unknown":
                raise SpikerlError(
                    "deterministic=False: this agent explored with noise of a network that is not "
                    "deployed (gSDE, or a deviation beside the spikes); call predict(..., "
                    "deterministic=True)"
                )
            log_std = np.clip(values[:, n:], -20, 2) if self.noise == "read" else self.log_std
            mean = mean + np.exp(log_std) * rng.standard_normal(mean.shape)
        mean = mean.reshape(-1, *self.low.shape)
        if self.squash == "tanh":
            mean = self.low + 0.5 * (np.tanh(mean) + 1.0) * (self.high - self.low)
        action: FloatArray = np.clip(mean, self.low, self.high)
        return action


def _check_choice(instance: Any, name: str, *choices: str) -> None:
    if getattr(instance, name) not in choices:
        raise SpikerlError(
            f"{type(instance).__name__}: {name} is {getattr(instance, name)!r}, "
            f"wanted one of {', '.join(choices)}"
        )


def freeze(instance: Any, *names: str) -> None:
    """Make fields of a frozen dataclass float64 arrays that cannot be written to."""
    for name in names:
        value = getattr(instance, name)
        if value is None:
            continue
        array = np.array(value, dtype=np.float64)
        array.setflags(write=False)
        object.__setattr__(instance, name, array)
