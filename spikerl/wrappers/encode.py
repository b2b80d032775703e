"""Gymnasium wrappers: observations as spike trains, for one environment and for many.

Imports gymnasium, agent, encoding, preprocessing and arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from spikerl.agent import checked_whole
from spikerl.encoding import ENCODERS, ConstantCurrent, Encoder
from spikerl.errors import SpikerlError, listed
from spikerl.network import FloatArray
from spikerl.preprocessing import Preprocessing, from_space
from spikerl.wrappers.arguments import plain

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
        self.sim_steps = int(sim_steps)
        try:
            self.encoder: Encoder = ENCODERS[encoder](**options)
        except TypeError as error:
            raise SpikerlError(f"encoder_kwargs of {encoder!r}: {error}") from None
        self.preprocessing: Preprocessing = from_space(space)
        n = self.preprocessing.n_outputs()
        shape = (self.sim_steps, self.encoder.n_channels(n))
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
        rows = self.preprocessing(observations)
        trains: FloatArray = self.encoder.encode(rows, self.sim_steps, self.rng)
        return np.ascontiguousarray(np.swapaxes(trains, 0, 1), dtype=np.float32)


class EncodeObservation(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Observations become spike trains, or currents, [T, channels] of float32.

    encoder:        "constant", "poisson", "equidistant", "latency" or "population".
    sim_steps:      T.
    encoder_kwargs: of the encoder, see spikerl.encoding: scale, signed, n_neurons, ...

    Images are divided by 255, whole numbers become one-hot, Dict entries lie side by side, as
    spikerl.preprocessing has it. reset(seed=...) seeds the encoder's chance as well.
    Raises SpikerlError for an encoder that does not exist, T < 1 or another observation space.
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
            last = infos["final_obs"].copy()
            for i in np.flatnonzero([one is not None for one in last]):
                last[i] = self._encoding.batch(last[i])[0]
            infos = {**infos, "final_obs": last}
        return self._encoding.batch(observations), rewards, terminations, truncations, infos


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
