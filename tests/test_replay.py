"""Observations from a replay buffer, where there is no environment to collect others in."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN

import spikerl
from spikerl import HardwarePolicy


class Rooms(gym.Env[Any, Any]):
    """Six rooms in a row; nobody has registered them."""

    action_space = spaces.Discrete(2)

    def __init__(self, kind: str) -> None:
        room = spaces.Discrete(6)
        self.kind = kind
        self.observation_space: spaces.Space[Any] = (
            room
            if kind == "number"
            else spaces.Dict({"room": room, "light": spaces.Box(0.0, 1.0, (2,), np.float32)})
        )

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.room = int(self.np_random.integers(6))
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        self.room = int(np.clip(self.room + (1 if action else -1), 0, 5))
        return self.seen(), float(self.room == 5), self.room == 5, False, {}

    def seen(self) -> Any:
        if self.kind == "number":
            return self.room
        return {"room": self.room, "light": self.np_random.random(2).astype(np.float32)}


@pytest.mark.parametrize("kind", ["number", "entry"])
def test_numbers_of_a_discrete_space_come_back_as_they_were(kind: str) -> None:
    policy = "MlpPolicy" if kind == "number" else "MultiInputPolicy"
    model = DQN(policy, Rooms(kind), learning_starts=20, buffer_size=400, seed=0, device="cpu")
    model.learn(400)
    agent = spikerl.convert(model, sim_steps=8)
    assert agent.provenance["observations"] == "from the replay buffer"
    with HardwarePolicy(agent) as deployed:
        if kind == "number":
            seen: Any = np.arange(6)
        else:
            seen = {"room": np.arange(6), "light": np.full((6, 2), 0.5, np.float32)}
        actions, _ = deployed.predict(seen)
    assert actions.shape == (6,)
