"""Frames of a real Atari game through a NatureCNN, as SB3 and rl-zoo set them up."""

from __future__ import annotations

import numpy as np
import pytest
import stable_baselines3 as sb3
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

import spikerl
from spikerl.conversion.environments import maker, todays_id
from spikerl.conversion.frames import StackFrames

pytest.importorskip("ale_py")
pytest.importorskip("cv2")
GAME = "PongNoFrameskip-v4"
ZOO = ("stable_baselines3.common.atari_wrappers.AtariWrapper",)
STACK = {"spikerl.conversion.frames.StackFrames": {"n_stack": 4}}


def test_a_game_is_known_without_an_import_of_its_package() -> None:
    assert todays_id(GAME) == GAME
    env = maker(GAME, {}, (*ZOO, STACK))()
    assert env.observation_space.shape == (84, 84, 4)
    env.close()


def test_a_q_network_sees_in_spikes_what_it_saw_in_numbers() -> None:
    """Weights are random: this is about the arithmetic of real frames, not about playing."""
    env = VecFrameStack(make_atari_env(GAME, 1, seed=0), 4)
    model = sb3.DQN("CnnPolicy", env, buffer_size=10, seed=0, device="cpu")
    env.close()
    make_env = lambda: StackFrames(AtariWrapper(maker(GAME, {}, ())()), 4)  # noqa: E731
    single = make_env()
    observation, _ = single.reset(seed=1)
    single.action_space.seed(0)
    frames = [observation] + [single.step(single.action_space.sample())[0] for _ in range(99)]
    single.close()
    assert np.unique(frames).size > 5  # a game, not a blank screen
    agent = spikerl.convert(model, observations=np.stack(frames[:90]), sim_steps=16)
    assert agent.report is not None
    assert agent.report.value_error is not None
    assert agent.report.value_error < 0.2
    frames = frames[90:]
    with spikerl.HardwarePolicy(agent) as policy:
        values = policy.values(np.stack(frames))
        theirs = model.q_net(model.policy.obs_to_tensor(np.stack(frames))[0]).detach().numpy()
    spread = theirs.std(axis=0).max() + np.ptp(theirs, axis=1).mean()
    assert np.abs(values - theirs).max() < 0.4 * spread
