"""Gymnasium wrappers: observations as spike trains, for one environment and for many.

Imports gymnasium, agent, encoding, preprocessing, arguments and endings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from spikerl.encoding import ENCODERS, ConstantCurrent, Encoder
from spikerl.errors import SpikerlError, checked_whole, listed
from spikerl.network import FloatArray
from spikerl.preprocessing import Preprocessing, from_space
from spikerl.wrappers.arguments import plain
from spikerl.wrappers.endings import last_observations

_OWN_CHANCE = 0x5B1C  # beside the environment's own stream of the same seed


class _Encoding:
    """Observations of one space to trains [T, channels], by an encoder of spikerl.encoding."""

    def __init__(
        self, space: spaces.Space[Any], encoder: str, sim_steps: int, options: Mapping[str, Any]
    ) -> None:
        problems = checked_whole("sim_steps", sim_steps)
        if not isinstance(encoder, str) or encoder not in ENCODERS:
            problems.append(f"encoder is {encoder!r}; there are {', '.join(ENCODERS)}")
        if not isinstance(options, Mapping):
            problems.append(
                f"encoder_kwargs is {options!r}; wanted a mapping such as {{'scale': 2.0}}"
            )
        if problems:
            raise SpikerlError(listed("observations cannot be encoded like this", problems))
        if problems := _option_problems(ENCODERS[encoder], options):
            raise SpikerlError(listed(f"encoder_kwargs of {encoder!r} cannot be used", problems))
        self.sim_steps = int(sim_steps)
        try:
            self.encoder: Encoder = ENCODERS[encoder](**options)
        except (TypeError, ValueError) as error:  # such as several numbers where it takes one
            raise SpikerlError(f"encoder_kwargs of {encoder!r}: {error}") from None
        self.preprocessing: Preprocessing = from_space(space)
        self.starts = _starts(space)
        n = self.preprocessing.n_outputs()
        shape = (self.sim_steps, self.encoder.n_channels(n))
        if not _fits(self.encoder, n, shape):
            raise SpikerlError(
                f"encoder_kwargs of {encoder!r} are for another number of inputs, the observations "
                f"{space} give {n}: found {dict(options)}"
            )
        low, high = np.zeros(shape[1]), np.ones(shape[1])
        if isinstance(self.encoder, ConstantCurrent):
            low, high = _bounds(space, n)
        bounds = (np.broadcast_to(part.astype(np.float32), shape) for part in (low, high))
        lows, highs = bounds
        self.space = spaces.Box(lows, highs, dtype=np.float32)
        self.rng = np.random.default_rng()

    def seed(self, seed: int | None) -> None:
        """Start the encoder's chance anew; None lets it go on."""
        if seed is not None:
            self.rng = np.random.default_rng([int(seed), _OWN_CHANCE])

    def batch(self, observations: Any) -> NDArray[np.float32]:
        """Trains [B, T, channels] of a batch, or of one observation (B = 1)."""
        rows = self.preprocessing(self._from_zero(observations))
        trains: FloatArray = self.encoder.encode(rows, self.sim_steps, self.rng)
        return np.ascontiguousarray(np.swapaxes(trains, 0, 1), dtype=np.float32)

    def _from_zero(self, observations: Any) -> Any:
        """Whole numbers of spaces that begin elsewhere, counted from 0 on."""
        if not self.starts:
            return observations
        if None in self.starts:
            return np.asarray(observations) - self.starts[None]
        return {
            key: np.asarray(part) - self.starts[key] if key in self.starts else part
            for key, part in observations.items()
        }


class EncodeObservation(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Observations become spike trains, or currents, [T, channels] of float32.

    encoder:        "constant", "poisson", "equidistant", "latency" or "population".
    sim_steps:      T.
    encoder_kwargs: of the encoder, see spikerl.encoding: scale, signed, n_neurons, ...

    Images are divided by 255, whole numbers become one-hot from their space's start on, Dict
    entries lie side by side, as spikerl.preprocessing has it. reset(seed=...) seeds the encoder's
    chance as well.
    Raises SpikerlError for an encoder that does not exist, T < 1, arguments that are none of the
    encoder's or for another number of inputs, or another observation space.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        encoder: str = "poisson",
        sim_steps: int = 16,
        encoder_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(
            self,
            encoder=encoder,
            sim_steps=plain(sim_steps),
            encoder_kwargs=plain(encoder_kwargs),
        )
        gym.ObservationWrapper.__init__(self, env)
        self._encoding = _Encoding(env.observation_space, encoder, sim_steps, encoder_kwargs or {})
        self.observation_space = self._encoding.space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._encoding.seed(seed)
        return super().reset(seed=seed, options=options)

    def observation(self, observation: Any) -> NDArray[np.float32]:
        """The train [T, channels] of one observation."""
        train: NDArray[np.float32] = self._encoding.batch(observation)[0]
        return train


class VectorEncodeObservation(VectorWrapper[Any, Any, Any, Any, Any], RecordConstructorArgs):
    """EncodeObservation for vector environments, in each of their autoreset modes.

    Encoders keep nothing from step to step, so an environment that was reset needs nothing; where
    it was reset within the step, the last observation in info["final_obs"] is encoded too.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        encoder: str = "poisson",
        sim_steps: int = 16,
        encoder_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(
            self,
            encoder=encoder,
            sim_steps=plain(sim_steps),
            encoder_kwargs=plain(encoder_kwargs),
        )
        VectorWrapper.__init__(self, env)
        space = env.single_observation_space
        self._encoding = _Encoding(space, encoder, sim_steps, encoder_kwargs or {})
        self.single_observation_space = self._encoding.space
        self.observation_space = batch_space(self._encoding.space, self.num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        first = seed if seed is None or isinstance(seed, (int, np.integer)) else seed[0]
        self._encoding.seed(None if first is None else int(first))
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._encoding.batch(observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        if "final_obs" in infos:
            ended = np.logical_or(terminations, truncations)
            last = last_observations(infos, ended)
            for i in np.flatnonzero(ended):
                last[i] = self._encoding.batch(last[i])[0]
            infos = {**infos, "final_obs": last}
        return self._encoding.batch(observations), rewards, terminations, truncations, infos


def _option_problems(encoder: type[Encoder], options: Mapping[str, Any]) -> list[str]:
    """Options an encoder does not have, and values of another kind than its own."""
    usual = {entry.name: entry.default for entry in fields(encoder)}  # type: ignore[arg-type]
    problems = []
    for name, value in options.items():
        if name not in usual:
            known = f"it has {', '.join(usual)}" if usual else "it has none"
            problems.append(f"there is no option {name}; {known}")
        elif isinstance(usual[name], bool):
            if not isinstance(value, (bool, np.bool_)):
                problems.append(f"{name} is {value!r}, wanted True or False")
        elif isinstance(usual[name], int):
            problems += checked_whole(name, value)
        elif isinstance(usual[name], float) and not _numeric(value):
            problems.append(f"{name} is {value!r}, wanted a number, or one for each input")
    return problems


def _numeric(value: Any) -> bool:
    try:
        return np.asarray(value).dtype.kind in "iuf"
    except ValueError:  # rows of different length
        return False


def _fits(encoder: Encoder, n: int, shape: tuple[int, int]) -> bool:
    """Whether an encoder makes trains [T, channels] of n numbers."""
    try:
        train = encoder.encode(np.zeros((1, n)), shape[0], np.random.default_rng(0))
    except ValueError:  # of numpy: scales or ranges for other inputs
        return False
    return train.shape == (shape[0], 1, shape[1])


def _starts(space: spaces.Space[Any]) -> dict[str | None, Any]:
    """The first of the whole numbers by Dict key, None outside a Dict, where it is not 0."""
    if isinstance(space, spaces.Dict):
        return {key: start for key, s in space.items() for start in _starts(s).values()}
    start = getattr(space, "start", 0)
    return {None: np.asarray(start, dtype=np.int64)} if np.any(start) else {}


def _bounds(space: spaces.Space[Any], n: int) -> tuple[FloatArray, FloatArray]:
    """Bounds of the preprocessed rows: a Box's own, 0 and 1 for all else."""
    if isinstance(space, spaces.Box):
        scale = 1 / 255 if from_space(space).inputs[0].steps else 1.0
        return space.low.reshape(-1) * scale, space.high.reshape(-1) * scale
    if isinstance(space, spaces.Dict):
        lows, highs = zip(*(_bounds(s, -1) for s in space.spaces.values()), strict=True)
        return np.concatenate(lows), np.concatenate(highs)
    n = from_space(space).n_outputs()
    return np.zeros(n), np.ones(n)
