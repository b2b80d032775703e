"""A policy that records its spikes, and episodes of it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from spikerl.agent import SpikingAgent
from spikerl.decoding import Categorical, Decoder, FinalPotential
from spikerl.encoding import ConstantCurrent
from spikerl.hardware import HardwarePolicy
from spikerl.network import Dense, SpikingNetwork
from spikerl.preprocessing import from_space

T = 6


def pole_agent(seed: int = 0, sampling: Any = "softmax") -> SpikingAgent:
    """A random network that balances nothing, with silent and busy neurons in two layers."""
    draw = np.random.default_rng(seed)
    env = gym.make("CartPole-v1")
    layers = (
        Dense(draw.normal(size=(9, 4)) * 4, draw.normal(size=9) * 0.2),
        Dense(draw.normal(size=(5, 9)), draw.normal(size=5) * 0.2),
        Dense(draw.normal(size=(2, 5)), spiking=False),
    )
    return SpikingAgent(
        network=SpikingNetwork(layers, dt_ms=0.5),
        preprocessing=from_space(env.observation_space),
        encoder=ConstantCurrent(),
        decoder=Decoder(FinalPotential(), Categorical((2,), sampling=sampling)),
        sim_steps=T,
        observation_space=env.observation_space,
        action_space=env.action_space,
    )


def pole(**options: Any) -> gym.Env[Any, Any]:
    return gym.make("CartPole-v1", **options)


def recorder(**options: Any) -> HardwarePolicy:
    return HardwarePolicy(pole_agent(), "reference", record_spikes=True, seed=0, **options)


def play(env: gym.Env[Any, Any], policy: HardwarePolicy, seed: int = 0) -> list[Any]:
    """One episode; the observations that were decided on, and the actions."""
    observation, _ = env.reset(seed=seed)
    told, over = [], False
    while not over:
        action, _ = policy.predict(observation)
        told.append((observation, action))
        observation, _, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
    return told


class Screen(gym.Env[Any, Any]):
    """CartPole's spaces and frames of one grey, of any size."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as Gymnasium has it
    render_mode = "rgb_array"
    action_space = spaces.Discrete(2)

    def __init__(self, height: int = 301, width: int = 201) -> None:
        self.observation_space = pole().observation_space
        self.size = (height, width)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.full(4, 0.1, np.float32), 1.0, False, False, {}

    def render(self) -> Any:
        return np.full((*self.size, 3), 70, np.uint8)
