"""Policies that see images: SB3's NatureCNN, channels first and last."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
from gymnasium import spaces
from policies import Spaces

import spikerl
from spikerl import metrics
from spikerl.conversion.environments import vectorised
from spikerl.conversion.observations import collected
from spikerl.conversion.sources import open_source
from spikerl.errors import ConversionError
from spikerl.network import Conv2d
from spikerl.preprocessing import from_space

LAST, FIRST = (36, 40, 2), (2, 36, 40)
OPTIONS = {"vecnormalize": None, "algo": None}


def source(kind: str, shape: tuple[int, ...]) -> Any:
    env = Spaces(spaces.Box(0, 255, shape, np.uint8), spaces.Discrete(3))
    if kind == "dqn":
        return sb3.DQN("CnnPolicy", env, buffer_size=10, seed=0, device="cpu")
    return sb3.PPO("CnnPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu")


def frames(n: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *shape)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["dqn", "ppo"])
@pytest.mark.parametrize("shape", [LAST, FIRST], ids=["channels last", "channels first"])
def test_a_nature_cnn_is_converted_layer_by_layer(kind: str, shape: tuple[int, ...]) -> None:
    model, seen = source(kind, shape), frames(150, shape)
    agent = spikerl.convert(model, observations=seen, sim_steps=64)
    assert sum(isinstance(layer, Conv2d) for layer in agent.network.layers) == 3
    assert agent.report is not None
    assert agent.report.value_error is not None
    assert agent.report.value_error < 0.3
    with spikerl.HardwarePolicy(agent) as policy:
        assert metrics.agreement(policy, model, seen[:40]).value > 0.8
        single, _ = policy.predict(seen[0])
        assert single == policy.predict(seen[:1])[0][0]


def test_channels_may_come_first_or_last() -> None:
    preprocessing = from_space(spaces.Box(0, 255, FIRST, np.uint8))
    seen = frames(3, LAST)
    first = np.moveaxis(seen, -1, 1)
    assert np.array_equal(preprocessing(seen), preprocessing(first))
    assert np.array_equal(preprocessing(seen[0]), preprocessing(first[0]))
    assert np.array_equal(
        preprocessing(seen), first.reshape(3, -1).astype(np.float32) / np.float32(255)
    )
    with pytest.raises(spikerl.errors.ShapeError, match="has shape"):
        preprocessing(frames(3, (40, 36, 2)))


def test_images_are_collected_as_the_environment_gives_them() -> None:
    origin = open_source(source("dqn", LAST), None, OPTIONS)
    env = lambda: Spaces(spaces.Box(0, 255, LAST, np.uint8), spaces.Discrete(3))  # noqa: E731
    sets = collected(origin.stack, origin.preprocessing, env, 20, 0)
    assert np.shape(sets.calibration) == (20, *LAST)
    small = lambda: Spaces(spaces.Box(0, 255, (36, 36, 2), np.uint8), spaces.Discrete(3))  # noqa: E731
    with pytest.raises(ConversionError, match="observations have shape"):
        collected(origin.stack, origin.preprocessing, small, 20, 0)
    assert vectorised(env, 1)[0].observation_space.shape == LAST


def test_spike_trains_are_for_vectors() -> None:
    with pytest.raises(ConversionError, match="images go in as constant current"):
        spikerl.convert(source("dqn", FIRST), observations=frames(60, FIRST), encoder="poisson")
