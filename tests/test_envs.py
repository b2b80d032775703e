"""The environments that spikerl registers: what they show, and that they are as Gymnasium's."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
from advice import ignored
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from spikerl.encoding import EquidistantSpikes
from spikerl.envs import IDS, Catch
from spikerl.errors import SpikerlError
from spikerl.wrappers import KeepEntries

pytestmark = ignored("It seems that your observation .* is an image")


@pytest.mark.parametrize("env_id", IDS)
def test_both_checkers_pass_and_specs_survive_json(env_id: str) -> None:
    env = gym.make(env_id)
    check_env(env, skip_render_check="Catch" not in env_id)
    sb3_check_env(env)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
    for e in (env, again):
        e.action_space.seed(0)
        e.reset(seed=3)
    for _ in range(12):
        action = env.action_space.sample()
        for a, b in zip(env.step(action), again.step(action), strict=True):
            np.testing.assert_array_equal(a, b)


def test_names_come_with_the_module_and_clash_with_nobody_s() -> None:
    assert all(name.startswith("spikerl/") for name in IDS)
    assert set(IDS) <= set(gym.registry)
    light = (
        "import sys, spikerl\n"
        "assert 'gymnasium' not in sys.modules\n"
        "import importlib\n"
        "importlib.import_module('spikerl.envs')\n"  # what rl-zoo does with --gym-packages
        "import gymnasium\n"
        f"assert set({IDS!r}) <= set(gymnasium.registry)\n"
        "assert not {'torch', 'stable_baselines3', 'matplotlib', 'pygame'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", light], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_conversion_knows_the_names_without_being_told() -> None:
    code = (
        "import gymnasium\n"
        "from spikerl.conversion.environments import todays_id\n"
        "assert 'spikerl/Catch-v0' not in gymnasium.registry\n"
        "assert todays_id('spikerl/Catch-v0') == 'spikerl/Catch-v0'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "kept"), [("CartPole", [0, 2]), ("Pendulum", [0, 1])])
def test_without_velocities_the_rest_is_as_before(name: str, kept: list[int]) -> None:
    env, plain = gym.make(f"spikerl/{name}NoVel-v1"), gym.make(f"{name}-v1")
    env.action_space.seed(1)
    found, want = env.reset(seed=1)[0], plain.reset(seed=1)[0]
    steps, over = 0, False
    while not over:
        np.testing.assert_array_equal(found, want[kept])
        assert env.observation_space.contains(found)
        action = env.action_space.sample()
        found, *ours = env.step(action)
        want, *theirs = plain.step(action)
        assert ours == theirs
        steps += 1
        over = bool(ours[1] or ours[2])
    assert steps == 200 or name == "CartPole"
    assert env.spec is not None
    assert plain.spec is not None
    assert env.spec.max_episode_steps == plain.spec.max_episode_steps
    assert env.spec.reward_threshold == plain.spec.reward_threshold


@pytest.mark.parametrize("name", ["CartPole", "Pendulum"])
def test_spike_coded_observations_stand_for_the_numbers(name: str) -> None:
    env, plain = gym.make(f"spikerl/{name}Spikes-v1"), gym.make(f"{name}-v1")
    encoder: Any = env.get_wrapper_attr("_encoding").encoder
    assert isinstance(encoder, EquidistantSpikes)
    n = len(encoder.scale)
    train, row = env.reset(seed=1)[0], plain.reset(seed=1)[0]
    for _ in range(8):
        assert train.shape == (16, 2 * n)
        assert set(np.unique(train)) <= {0.0, 1.0}
        decoded = (train[:, :n] - train[:, n:]).mean(axis=0) * encoder.scale
        clipped = np.clip(row, -encoder.scale, encoder.scale)
        assert np.abs(decoded - clipped).max() <= (encoder.scale / 32 + 1e-6).max()
        action = env.action_space.sample()
        train, row = env.step(action)[0], plain.step(action)[0]


@pytest.mark.parametrize(
    ("entries", "message"), [([], "wanted some of 0 to 3"), ([0, 4], "wanted some of 0 to 3")]
)
def test_entries_that_are_not_there_are_refused(entries: list[int], message: str) -> None:
    with pytest.raises(SpikerlError, match=message):
        KeepEntries(gym.make("CartPole-v1"), entries)
    with pytest.raises(SpikerlError, match="entries are kept of a Box"):
        KeepEntries(gym.make("spikerl/Catch-v0"), [0])


# --- Catch ---------------------------------------------------------------------------------------


def follow(observation: np.ndarray) -> int:
    """Towards the ball, from the pixels alone."""
    board = observation[..., 0] > 0
    ball = np.flatnonzero(board[:80].any(axis=0))
    paddle = np.flatnonzero(board[80:].any(axis=0))
    away = ball.mean() - paddle.mean()
    return 1 if abs(away) < 2 else 2 if away > 0 else 0


def caught(env: gym.Env[Any, Any], seed: int, act: Any) -> float:
    observation, _ = env.reset(seed=seed)
    for k in range(20):
        observation, reward, terminated, truncated, _ = env.step(act(observation))
        assert not truncated
        assert terminated == (k == 19)
        assert reward == 0 or k == 19
    return float(reward)


def test_who_follows_the_ball_catches_it_and_who_stays_mostly_does_not() -> None:
    env = gym.make("spikerl/Catch-v0")
    assert [caught(env, seed, follow) for seed in range(200)] == [1.0] * 200
    still = [caught(env, seed, lambda _: 1) for seed in range(200)]
    # Of 81 places the ball may land in, 15 meet the paddle.
    assert np.mean(np.array(still) == 1.0) == pytest.approx(15 / 81, abs=0.09)


def test_the_ball_moves_as_it_says_and_bounces() -> None:
    env = Catch(drift=3)
    bounces = 0
    for seed in range(40):
        env.reset(seed=seed)
        lefts = [env.ball[0]]
        for k in range(20):
            env.step(1)
            assert env.ball[1] == 4 * (k + 1)
            assert 0 <= env.ball[0] <= 80
            lefts.append(env.ball[0])
        moves = np.diff(lefts)
        assert np.abs(moves).max() <= 3
        bounces += int((np.abs(np.diff(np.sign(moves))) == 2).any())
    assert bounces > 5
    straight = Catch(drift=0)
    straight.reset(seed=1)
    place = straight.ball[0]
    straight.step(0)
    assert straight.ball[0] == place


def test_pictures_show_ball_and_paddle_and_frames_show_the_same_in_colour() -> None:
    env = gym.make("spikerl/Catch-v0", render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        observation, *_ = env.step(0)
    left, top = env.unwrapped.ball  # type: ignore[attr-defined]
    want = np.zeros((84, 84), bool)
    want[top : top + 4, left : left + 4] = True
    want[80:, 36 - 12 : 36] = True
    np.testing.assert_array_equal(observation[..., 0], want * np.uint8(255))
    frame: Any = env.render()
    assert frame.shape == (336, 336, 3)
    np.testing.assert_array_equal((frame != 255).any(axis=2)[::4, ::4], want)
    assert gym.make("spikerl/Catch-v0").unwrapped.render() is None


def test_events_are_the_pixels_that_changed() -> None:
    env, plain = gym.make("spikerl/CatchEvents-v0"), gym.make("spikerl/Catch-v0")
    events, before = env.reset(seed=5)[0], plain.reset(seed=5)[0]
    assert not events.any()
    for action in [0, 2, 1] * 6:
        events, now = env.step(action)[0], plain.step(action)[0]
        change = now[..., 0].astype(int) - before[..., 0]
        np.testing.assert_array_equal(events[0], change > 0)
        np.testing.assert_array_equal(events[1], change < 0)
        assert events.any()
        before = now


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drift": 4}, "drift is 4; wanted 0 to 3"),
        ({"drift": True}, "drift is True"),
        ({"render_mode": "human"}, "Catch has 'rgb_array' only"),
    ],
)
def test_a_game_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpikerlError, match=message):
        Catch(**arguments)


def test_sb3_s_convolutions_take_the_pictures_and_the_events() -> None:
    for name, kwargs in (("Catch", {}), ("CatchEvents", {"normalize_images": False})):
        settings: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "seed": 0}
        env = gym.make(f"spikerl/{name}-v0")
        model = sb3.PPO("CnnPolicy", env, device="cpu", policy_kwargs=kwargs, **settings)
        before = [p.detach().clone() for p in model.policy.parameters()]
        model.learn(16)
        pairs = zip(before, model.policy.parameters(), strict=True)
        assert any(not bool((a == b).all()) for a, b in pairs)
