"""StackFrames does to one environment what SB3's VecFrameStack does to many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import yaml
from gymnasium import spaces
from policies import Spaces
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

import spikerl
from spikerl.conversion.frames import StackFrames
from spikerl.errors import SpikerlError

BOX = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (6, 5, 2), np.uint8)
FIRST = spaces.Box(0, 255, (2, 6, 5), np.uint8)
SPACES = {
    "vector": BOX,
    "image": IMAGE,
    "channels first": FIRST,
    "dict": spaces.Dict({"camera": FIRST, "arm": BOX}),
}


def make(space: spaces.Space[Any]) -> gym.Env[Any, Any]:
    space.seed(3)  # observations are drawn from it
    return Spaces(space, spaces.Discrete(2))


def same(ours: Any, theirs: Any) -> None:
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key][0])
    else:
        np.testing.assert_array_equal(ours, theirs[0])


@pytest.mark.parametrize("name", SPACES)
def test_frames_are_those_of_the_vectorised_stack(name: str) -> None:
    space = SPACES[name]
    ours, theirs = StackFrames(make(space), 3), VecFrameStack(DummyVecEnv([lambda: make(space)]), 3)
    assert ours.observation_space == theirs.observation_space
    space.seed(3)
    first = ours.reset(seed=0)[0]
    seen = [first] + [ours.step(0)[0] for _ in range(3)]
    space.seed(3)
    theirs.seed(0)
    same(first, theirs.reset())
    for mine in seen[1:]:
        same(mine, theirs.step(np.zeros(1, np.int64))[0])


def test_it_passes_the_checker_and_comes_again_from_its_spec() -> None:
    env = StackFrames(gym.make("CartPole-v1"), 4)
    check_env(env, warn=False)
    again = gym.make(env.spec)
    np.testing.assert_array_equal(again.reset(seed=5)[0], env.reset(seed=5)[0])
    assert not again.reset()[0][:12].any()  # zeros before the first frame


def test_the_stack_around_a_models_environments_is_put_around_the_new_one() -> None:
    env = VecFrameStack(make_vec_env("CartPole-v1", 2), 3)
    model = sb3.PPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu")
    agent = spikerl.convert(model, n_calibration=100, sim_steps=8)
    assert agent.observation_space.shape == (12,)
    inside = VecFrameStack(VecNormalize(make_vec_env("CartPole-v1", 2)), 3)
    model = sb3.PPO("MlpPolicy", inside, n_steps=8, batch_size=8, seed=0, device="cpu")
    with pytest.raises(SpikerlError, match=r"statistics have shape \(4,\)"):
        spikerl.convert(model, n_calibration=100, sim_steps=8)


def test_the_frame_stack_of_an_rl_zoo_run_is_applied(tmp_path: Path) -> None:
    env = VecFrameStack(make_vec_env("CartPole-v1", 1), 2)
    model = sb3.A2C("MlpPolicy", env, n_steps=8, seed=0, device="cpu")
    folder = tmp_path / "a2c" / "CartPole-v1_1"
    (folder / "CartPole-v1").mkdir(parents=True)
    model.save(folder / "CartPole-v1.zip")
    (folder / "CartPole-v1" / "config.yml").write_text(yaml.dump({"frame_stack": 2}))
    agent = spikerl.convert(folder, n_calibration=100, sim_steps=8)
    assert agent.network.n_in == 8
    assert agent.provenance["environment"] == "CartPole-v1"
