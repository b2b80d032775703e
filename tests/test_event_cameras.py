"""Event cameras: what they see of one environment and of many, and what they leave alone."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from advice import ignored
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper

from spikerl.errors import SpikerlError
from spikerl.wrappers import EventCamera, VectorEventCamera

pytestmark = ignored()


def rendered(env_id: str = "CartPole-v1") -> gym.Env[Any, Any]:
    return gym.make(env_id, render_mode="rgb_array")


def test_events_add_up_to_the_change_of_log_intensity() -> None:
    pytest.importorskip("pygame", reason="CartPole draws with pygame")
    env = EventCamera(rendered(), threshold=0.1, shape=(40, 60), max_events=100)
    events, _ = env.reset(seed=0)
    assert not events.any()
    start = env._sensor.seen(env.env.render()[None])[0]
    total = np.zeros((40, 60))
    for action in [1] * 8:
        events = env.step(action)[0]
        assert env.observation_space.contains(events)
        assert not (events[0] * events[1]).any()
        total += events[0] - events[1]
    now = env._sensor.seen(env.env.render()[None])[0]
    assert np.abs(total).sum() > 20
    assert np.abs(start + 0.1 * total - now).max() < 0.1
    events, _ = env.reset(seed=1)
    assert not events.any()


def test_events_beyond_the_most_come_later() -> None:
    class Flash(gym.Env[Any, Any]):
        observation_space = spaces.Box(0, 255, (2, 2), np.uint8)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return np.zeros((2, 2), np.uint8), {}

        def step(self, action: Any) -> Any:
            return np.full((2, 2), 20, np.uint8), 0.0, False, False, {}

    env = EventCamera(Flash(), threshold=1.0, shape=None, source="observation", max_events=2)
    env.reset(seed=0)
    found = [float(env.step(0)[0][0, 0, 0]) for _ in range(3)]
    assert found == [2.0, 1.0, 0.0]  # log(21) = 3.04
    check_env(env, skip_render_check=True)


def test_an_event_camera_passes_the_checkers_and_is_made_again() -> None:
    pytest.importorskip("pygame", reason="CartPole draws with pygame")
    env = EventCamera(rendered(), shape=(30, 40))
    check_env(env, skip_render_check=True)
    assert env.spec is not None
    again = gym.make(env.spec)
    for e in (env, again):
        e.reset(seed=2)
    np.testing.assert_array_equal(env.step(1)[0], again.step(1)[0])


class Walk(gym.Env[Any, Any]):
    """A random picture each step; episodes of 3, 4, 5, 3, ... steps."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as Gymnasium has it
    observation_space = spaces.Box(0, 255, (6, 5, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.episodes = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = 3 + self.episodes % 3
        self.episodes += 1
        self.picture = self.np_random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        return self.picture, {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        self.picture = self.np_random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        return self.picture, 1.0, self.left == 0, False, {}

    def render(self) -> Any:
        return self.picture


class OneBatch(VectorWrapper[Any, Any, Any, Any, Any]):
    """Last observations as one batch of all environments, as ALE's vectors have them."""

    def step(self, actions: Any) -> Any:
        observations, *rest, infos = self.env.step(actions)
        if "final_obs" in infos:
            last = observations.copy()
            for i in np.flatnonzero(infos["_final_obs"]):
                last[i] = infos["final_obs"][i]
            infos = {**infos, "final_obs": last}
        return observations, *rest, infos


MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


@pytest.mark.parametrize(
    ("mode", "source", "batch"),
    [
        *((mode, "observation", False) for mode in MODES),
        (AutoresetMode.SAME_STEP, "observation", True),
        *((mode, "render", False) for mode in MODES if mode is not AutoresetMode.SAME_STEP),
    ],
)
def test_a_camera_for_many_sees_what_a_camera_around_each_sees(
    mode: AutoresetMode, source: str, batch: bool
) -> None:
    # so few events at once that some are left for the next observation
    options = {"threshold": 0.3, "shape": (3, 5), "source": source, "max_events": 2}

    def made(*wrappers: Any) -> SyncVectorEnv:
        def one() -> gym.Env[Any, Any]:
            env: gym.Env[Any, Any] = Walk("rgb_array")
            for wrap in wrappers:
                env = wrap(env)
            return env

        return SyncVectorEnv([one] * 3, autoreset_mode=mode)

    wanted = made(lambda env: EventCamera(env, **options))
    many = OneBatch(made()) if batch else made()
    env = VectorEventCamera(many, **options)
    assert env.observation_space == wanted.observation_space
    assert env.single_observation_space == wanted.single_observation_space
    found, want = env.reset(seed=2)[0], wanted.reset(seed=2)[0]
    ended = events = 0
    for k in range(25):
        np.testing.assert_array_equal(found, want)
        assert env.observation_space.contains(found)
        events += int(found.sum())
        actions = np.zeros(3, int)
        found, _, over, _, ours = env.step(actions)
        want, *_, theirs = wanted.step(actions)
        ended += int(over.sum())
        assert ("final_obs" in ours) == ("final_obs" in theirs)
        for i in np.flatnonzero(ours.get("_final_obs", [])):
            assert ours["final_obs"][i].any()
            np.testing.assert_array_equal(ours["final_obs"][i], theirs["final_obs"][i])
        if mode is AutoresetMode.DISABLED:
            over[k % 3] |= k % 5 == 4  # also one that goes on
            if over.any():
                found, _ = env.reset(options={"reset_mask": over.copy()})
                want, _ = wanted.reset(options={"reset_mask": over.copy()})
    assert ended > 9
    assert events > 100


def test_frames_of_rendered_vectors_become_events() -> None:
    pytest.importorskip("pygame", reason="CartPole draws with pygame")
    options = {"shape": (40, 60)}
    plain = gym.make_vec(
        "CartPole-v1",
        2,
        "sync",
        wrappers=[lambda env: EventCamera(env, **options)],
        render_mode="rgb_array",
    )
    for kind in ("sync", "async"):
        env = VectorEventCamera(
            gym.make_vec("CartPole-v1", 2, kind, render_mode="rgb_array"), **options
        )
        env.reset(seed=1)
        plain.reset(seed=1)
        for _ in range(15):
            actions = np.ones(2, int)
            np.testing.assert_array_equal(env.step(actions)[0], plain.step(actions)[0])
        env.close()


def watched(many: bool, seed: int | None = None, camera: bool = True) -> Any:
    """A Walk, or three, whose frames are looked at in their own size; seeded before, or not."""
    env: Any = SyncVectorEnv([lambda: Walk("rgb_array")] * 3) if many else Walk("rgb_array")
    if seed is not None:
        env.reset(seed=seed)
    if not camera:
        return env
    return (VectorEventCamera if many else EventCamera)(env, shape=None, max_events=100)


@pytest.mark.parametrize("many", [False, True])
def test_a_camera_that_asks_for_the_size_of_frames_seeds_nothing(many: bool) -> None:
    pictures = []
    for _ in range(2):
        env = watched(many)
        assert env.observation_space.shape[-2:] == (6, 5)
        env.reset()
        pictures.append(np.array(env.unwrapped.render() if not many else env.env.render()))
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize("many", [False, True])
def test_the_states_of_seeded_episodes_are_those_without_a_camera(many: bool) -> None:
    def states(env: Any, seed: int | None) -> list[Any]:
        inner = env if type(env) in (Walk, SyncVectorEnv) else env.env
        env.reset(seed=seed)
        found = [np.array(inner.render())]
        for _ in range(2):
            env.step(np.zeros(3, int) if many else 0)
            found.append(np.array(inner.render()))
        return found

    for before, seed in ((None, 5), (5, 5), (5, None)):
        plain = states(watched(many, before, camera=False), seed)
        np.testing.assert_array_equal(states(watched(many, before), seed), plain)


def test_frames_that_are_never_drawn_are_refused() -> None:
    makers = [lambda: Walk("rgb_array")] * 2
    vector = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(SpikerlError, match=r"(?s)threshold must be > 0.*SAME_STEP.*NEXT_STEP"):
        VectorEventCamera(vector, threshold=-1.0)
    with pytest.raises(SpikerlError, match=r"frames of \(6, 5\) cannot be averaged to \(84, 84\)"):
        VectorEventCamera(vector, source="observation").reset(seed=0)
    assert VectorEventCamera(vector, source="observation", shape=None).reset()[0].shape == (
        *(2, 2, 6, 5),
    )


def test_what_an_event_camera_cannot_see_is_refused_with_every_reason() -> None:
    with pytest.raises(SpikerlError, match=r"(?s)threshold must be > 0.*render_mode='rgb_array'"):
        EventCamera(gym.make("CartPole-v1"), threshold=0.0)
    with pytest.raises(SpikerlError, match="are no images"):
        EventCamera(gym.make("CartPole-v1"), source="observation")
