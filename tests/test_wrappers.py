"""Gymnasium wrappers on real environments: trains are the encoder's, events add up."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from advice import ignored
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from policies import Spaces
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from spikerl.encoding import ENCODERS
from spikerl.errors import SpikerlError
from spikerl.wrappers import (
    EncodeObservation,
    VectorEncodeObservation,
)

pytestmark = ignored()

OPTIONS: dict[str, dict[str, Any]] = {
    "poisson": {"scale": 2.0},
    "equidistant": {"scale": [1.0, 2.0, 0.5, 3.0]},
    "latency": {},
    "population": {"n_neurons": 4, "low": -3.0, "high": 3.0, "spikes": "poisson"},
    "constant": {},
}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_trains_are_the_encoder_s_own_and_repeat_with_the_seed(encoder: str) -> None:
    options = OPTIONS[encoder]
    env = EncodeObservation(gym.make("CartPole-v1"), encoder, 9, options)
    plain = gym.make("CartPole-v1")
    runs = []
    for _ in range(2):
        observation, _ = env.reset(seed=3)
        plain.reset(seed=3)
        trains = [observation]
        for action in (0, 1, 1, 0, 1):
            trains.append(env.step(action)[0])
        runs.append(np.stack(trains))
    np.testing.assert_array_equal(*runs)
    rng = np.random.default_rng([3, 0x5B1C])
    rows = [plain.reset(seed=3)[0], *(plain.step(a)[0] for a in (0, 1, 1, 0, 1))]
    for row, train in zip(rows, runs[0], strict=True):
        wanted = ENCODERS[encoder](**options).encode(row[None].astype(np.float64), 9, rng)
        np.testing.assert_allclose(train, wanted[:, 0], rtol=0, atol=1e-6)
        assert env.observation_space.contains(train)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "MountainCar-v0"])
def test_both_checkers_pass(encoder: str, env_id: str) -> None:
    options = {k: v for k, v in OPTIONS[encoder].items() if np.ndim(v) == 0}
    env = EncodeObservation(gym.make(env_id), encoder, 5, options)
    check_env(env, skip_render_check=True)
    sb3_check_env(env)


def test_the_wrapped_environment_is_made_again_from_its_spec() -> None:
    env = EncodeObservation(gym.make("CartPole-v1"), "population", 7, {"n_neurons": 3})
    assert env.spec is not None
    again = gym.make(env.spec)
    first, second = (e.reset(seed=1)[0] for e in (env, again))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(copy.deepcopy(env).reset(seed=1)[0], first)


def test_all_spaces_of_the_preprocessing_can_be_encoded() -> None:
    image = spaces.Box(0, 255, (4, 4, 1), np.uint8)
    entries = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})
    for space in (image, entries, spaces.Discrete(4), spaces.MultiBinary(3)):
        for encoder in ("constant", "poisson"):
            env = EncodeObservation(Spaces(space, spaces.Discrete(2)), encoder, 3)
            assert env.observation_space.contains(env.reset(seed=0)[0]), (space, encoder)


@pytest.mark.parametrize(
    "mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]
)
def test_vectors_of_environments_are_encoded_in_every_autoreset_mode(mode: AutoresetMode) -> None:
    def made() -> SyncVectorEnv:
        return SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 3, autoreset_mode=mode)

    plain, env = made(), VectorEncodeObservation(made(), "constant", 4)
    assert env.observation_space.shape == (3, 4, 4)
    rows, _ = plain.reset(seed=5)
    trains, _ = env.reset(seed=5)
    ended = 0
    for _ in range(60):
        np.testing.assert_array_equal(trains, np.repeat(rows[:, None], 4, axis=1))
        actions = np.ones(3, int)
        rows, _, over, cut, infos = plain.step(actions)
        trains, *_, ours = env.step(actions)
        done = over | cut
        ended += int(done.sum())
        if mode is AutoresetMode.SAME_STEP and done.any():
            i = int(np.flatnonzero(done)[0])
            np.testing.assert_array_equal(
                ours["final_obs"][i], np.repeat(infos["final_obs"][i][None], 4, axis=0)
            )
        if mode is AutoresetMode.DISABLED and done.any():
            rows, _ = plain.reset(options={"reset_mask": done})
            trains, _ = env.reset(options={"reset_mask": done})
    assert ended > 3


def test_last_observations_may_come_as_one_batch() -> None:
    ale = pytest.importorskip("ale_py.vector_env", reason="Atari needs ale_py")

    def made() -> Any:
        sizes = {"img_height": 20, "img_width": 20, "stack_num": 1}
        return ale.AtariVectorEnv(
            "breakout",
            num_envs=2,
            autoreset_mode=AutoresetMode.SAME_STEP,
            max_num_frames_per_episode=80,
            **sizes,
        )

    plain, env = made(), VectorEncodeObservation(made(), "constant", 2)
    plain.reset(seed=1)
    env.reset(seed=1)
    ended = 0
    for _ in range(60):
        *_, over, cut, infos = plain.step(np.ones(2, int))
        trains, *_, ours = env.step(np.ones(2, int))
        assert env.observation_space.contains(trains)
        for i in np.flatnonzero(over | cut):
            ended += 1
            wanted = infos["final_obs"][i].reshape(1, -1).astype(np.float32) / 255
            np.testing.assert_allclose(ours["final_obs"][i], wanted.repeat(2, axis=0), rtol=1e-6)
    assert ended > 2


class Numbered(gym.Env[Any, Any]):
    """Observations out of a space, whichever they are; an episode is 4 steps."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space = space

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.left = 4
        self.seen = self.observation_space.sample()
        return self.seen, {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        self.seen = self.observation_space.sample()
        return self.seen, 0.0, self.left == 0, False, {}


@pytest.mark.parametrize(
    ("space", "from_zero"),
    [
        (spaces.Discrete(4, start=2), lambda seen: np.eye(4)[seen - 2]),
        (
            spaces.MultiDiscrete([2, 3], start=[-1, 5]),
            lambda seen: np.concatenate([np.eye(2)[seen[0] + 1], np.eye(3)[seen[1] - 5]]),
        ),
        (
            spaces.Dict({"a": spaces.Box(0, 1, (2,)), "b": spaces.Discrete(3, start=7)}),
            lambda seen: np.concatenate([seen["a"], np.eye(3)[seen["b"] - 7]]),
        ),
    ],
)
def test_whole_numbers_are_counted_from_where_their_space_begins(
    space: spaces.Space[Any], from_zero: Any
) -> None:
    env = EncodeObservation(Numbered(space), "constant", sim_steps=3)
    train, _ = env.reset(seed=0)
    for _ in range(4):
        assert env.observation_space.contains(train)
        np.testing.assert_allclose(train, np.tile(from_zero(env.unwrapped.seen), (3, 1)))
        train = env.step(0)[0]
    many = VectorEncodeObservation(
        SyncVectorEnv([lambda: Numbered(space)] * 2, autoreset_mode=AutoresetMode.SAME_STEP),
        "constant",
        sim_steps=3,
    )
    trains, _ = many.reset(seed=[0, 1])
    for _ in range(5):
        assert many.observation_space.contains(trains)
        trains, *_, infos = many.step(np.zeros(2, int))
        assert all(env.observation_space.contains(last) for last in infos.get("final_obs", ()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "morse"}, "there are constant, poisson, equidistant, latency, population"),
        ({"sim_steps": 0}, "sim_steps must be a whole number >= 1, found 0"),
        ({"encoder_kwargs": [1]}, r"encoder_kwargs is \[1\]; wanted a mapping"),
        ({"encoder": ["poisson"]}, r"encoder is \['poisson'\]; there are constant"),
        ({"encoder_kwargs": {"size": 1}}, "encoder_kwargs of 'poisson'"),
        ({"encoder_kwargs": {"scale": -1.0}}, "scale must be finite and > 0"),
        ({"encoder_kwargs": {"size": 1}}, "there is no option size; it has scale, signed"),
        (
            {"encoder": "population", "encoder_kwargs": {"low": "a", "n_neurons": 2.5}},
            "(?s)low is 'a', wanted a number.*n_neurons must be a whole number >= 1, found 2.5",
        ),
        ({"encoder_kwargs": {"scale": [[1], [2, 3]]}}, "wanted a number, or one for each input"),
        ({"encoder_kwargs": {"signed": 1}}, "signed is 1, wanted True or False"),
        ({"encoder": "constant", "encoder_kwargs": {"scale": 1}}, "option scale; it has none"),
        ({"encoder_kwargs": {"scale": [1.0, 2.0]}}, r"another number of inputs.* give 4: found"),
        (
            {"encoder": "population", "encoder_kwargs": {"low": [-1.0, -2.0]}},
            r"another number of inputs, .*\(4,\).* give 4",
        ),
        (
            {"encoder": "population", "encoder_kwargs": {"sigma": [1.0, 2.0]}},
            "encoder_kwargs of 'population'",
        ),
    ],
)
def test_what_cannot_be_encoded_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpikerlError, match=message):
        EncodeObservation(gym.make("CartPole-v1"), **arguments)
