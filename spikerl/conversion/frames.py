"""StackFrames: the last observations as one, for single environments. Imports SB3."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations


class StackFrames(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """What SB3's VecFrameStack does, around one environment and by SB3's own code.

    Frames are joined along the channels of images and the last axis of anything else; before the
    first n_stack there are zeros.
    n_stack:        observations side by side.
    channels_order: "first" or "last"; None: as the space looks. A dict for Dict observations.
    """

    def __init__(self, env: gym.Env[Any, Any], n_stack: int, channels_order: Any = None) -> None:
        gym.utils.RecordConstructorArgs.__init__(
            self, n_stack=n_stack, channels_order=channels_order
        )
        gym.Wrapper.__init__(self, env)
        self._stacked = StackedObservations(1, n_stack, env.observation_space, channels_order)  # type: ignore[arg-type]
        self.observation_space = self._stacked.stacked_observation_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """The first observation after zeros."""
        observation, info = self.env.reset(seed=seed, options=options)
        return _only(self._stacked.reset(_batch(observation))), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The newest observations."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        # An episode that ends is begun anew by reset(), not here.
        stacked, _ = self._stacked.update(_batch(observation), np.array([False]), [{}])
        return _only(stacked), reward, terminated, truncated, info


def _batch(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: np.asarray(value)[None] for key, value in observation.items()}
    return np.asarray(observation)[None]


def _only(stacked: Any) -> Any:
    if isinstance(stacked, dict):
        return {key: value[0].copy() for key, value in stacked.items()}
    return stacked[0].copy()
