"""SB3 policies to convert, small and untrained: fidelity does not need a good source."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import sb3_contrib
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

RELU = {"activation_fn": torch.nn.ReLU}
OFF_POLICY = {"buffer_size": 100, "policy_kwargs": {"net_arch": [16, 16]}}

# name: algorithm, environment, arguments
KINDS: dict[str, tuple[type[BaseAlgorithm], str, dict[str, Any]]] = {
    "dqn": (sb3.DQN, "CartPole-v1", OFF_POLICY),
    "qrdqn": (
        sb3_contrib.QRDQN,
        "CartPole-v1",
        {"buffer_size": 100, "policy_kwargs": {"net_arch": [16, 16], "n_quantiles": 5}},
    ),
    "ppo": (sb3.PPO, "CartPole-v1", {"policy_kwargs": RELU, "n_steps": 64, "batch_size": 64}),
    "ppo box": (sb3.PPO, "Pendulum-v1", {"policy_kwargs": RELU, "n_steps": 64, "batch_size": 64}),
    "a2c": (sb3.A2C, "Acrobot-v1", {"policy_kwargs": RELU}),
    "trpo": (
        sb3_contrib.TRPO,
        "CartPole-v1",
        {"policy_kwargs": RELU, "n_steps": 64, "batch_size": 64},
    ),
    "sac": (sb3.SAC, "Pendulum-v1", OFF_POLICY),
    "sac gsde": (sb3.SAC, "Pendulum-v1", {**OFF_POLICY, "use_sde": True}),
    "tqc": (sb3_contrib.TQC, "Pendulum-v1", OFF_POLICY),
    "td3": (sb3.TD3, "Pendulum-v1", OFF_POLICY),
    "ddpg": (sb3.DDPG, "MountainCarContinuous-v0", OFF_POLICY),
    "ars box": (sb3_contrib.ARS, "Pendulum-v1", {"zero_policy": False}),
    "ars discrete": (sb3_contrib.ARS, "CartPole-v1", {"zero_policy": False}),
}


def model(kind: str, **changes: Any) -> BaseAlgorithm:
    """A model of a kind above, the same at every call."""
    algorithm, env, arguments = KINDS[kind]
    torch.set_num_threads(1)
    return algorithm("MlpPolicy", env, seed=0, device="cpu", **deepcopy({**arguments, **changes}))


class Spaces(gym.Env[Any, Any]):
    """An environment of any two spaces: random observations, episodes of ten steps."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation, action
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.steps += 1
        return self.observation_space.sample(), 0.0, self.steps >= 10, False, {}


def box(n: int, limit: float = 1.0) -> spaces.Box:
    """A Box of n numbers up to +-limit."""
    return spaces.Box(-limit, limit, (n,), np.float32)
