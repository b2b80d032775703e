"""Small training runs of SB3 whose log can be looked at."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from policies import model
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv

OBSERVATIONS = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
QUICK: dict[str, Any] = {"observations": OBSERVATIONS, "sim_steps": 8, "episodes": 2}
SWING = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
OFF = {"learning_starts": 20, "buffer_size": 500}


class Rows(KVWriter):
    """Keeps every row that a logger writes."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, Any]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        self.rows.append((step, dict(key_values)))

    def close(self) -> None:
        pass

    def of(self, key: str) -> list[tuple[int, float]]:
        return [(step, row[key]) for step, row in self.rows if key in row]


def learn(source: BaseAlgorithm, callback: BaseCallback | None, steps: int) -> Rows:
    rows = Rows()
    source.set_logger(Logger(None, [rows]))
    source.learn(steps, callback=callback)
    return rows


class Unregistered(gym.Env[Any, Any]):
    """No spec, so no copy can be made: CartPole's spaces, chance, ten steps worth 1.5 each."""

    observation_space = gym.make("CartPole-v1").observation_space
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.normal(size=4).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        observation = self.np_random.normal(size=4).astype(np.float32)
        return observation, 1.5, self.steps == 10, False, {}


def unregistered(kind: str, **arguments: Any) -> BaseAlgorithm:
    source = model(kind, **arguments)
    source.set_env(DummyVecEnv([Unregistered]))
    return source
