"""VectorRecordSpikes: in every autoreset mode it keeps what a RecordSpikes around each keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordVideo
from recorders import Screen, pole, recorder

from spikerl.episode import EpisodeRecording
from spikerl.errors import SpikerlError
from spikerl.wrappers import RecordSpikes, VectorRecordSpikes

N = 3


def assert_same(one: EpisodeRecording, other: EpisodeRecording) -> None:
    assert one.about == other.about
    assert len(one) == len(other)
    for name in ("steps", "values", "actions", "rewards"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("spikes", "potentials"):
        for a, b in zip(getattr(one, name), getattr(other, name), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", [*AutoresetMode])
def test_it_keeps_what_one_around_each_environment_keeps(
    mode: AutoresetMode, tmp_path: Path
) -> None:
    with recorder(n_envs=N) as policy:
        makers = [
            lambda i=i: RecordSpikes(pole(), policy, tmp_path / "each" / f"row-{i}", row=i, last=9)
            for i in range(N)
        ]
        inner = SyncVectorEnv(makers, autoreset_mode=mode)
        env = VectorRecordSpikes(inner, policy, tmp_path / "all", last=9)
        observations, _ = env.reset(seed=5)
        ended = np.zeros(N, dtype=int)
        while ended.min() < 3:
            actions, _ = policy.predict(observations)
            observations, _, terminations, truncations, _ = env.step(actions)
            over = terminations | truncations
            ended += over
            if mode is AutoresetMode.DISABLED and over.any():
                observations, _ = env.reset(seed=[70, 80, 90], options={"reset_mask": over})
            if mode is not AutoresetMode.SAME_STEP:  # there the inner ones have begun anew
                for held, one in zip(env.episodes, inner.envs, strict=True):
                    if mode is AutoresetMode.DISABLED or held.about.ended == "unfinished":
                        assert_same(held, one.get_wrapper_attr("episode"))
        env.close()
    files = sorted(path.relative_to(tmp_path / "each") for path in tmp_path.glob("each/*/*.npz"))
    assert files == sorted(path.relative_to(tmp_path / "all") for path in tmp_path.glob("all/*/*"))
    assert min(len(list((tmp_path / "all" / f"row-{i}").iterdir())) for i in range(N)) >= 3
    told = []
    for file in files:
        one, other = (EpisodeRecording.load(tmp_path / f / file) for f in ("all", "each"))
        assert_same(one, other)
        told.append((file.parts[0], one.about.seed))
    later = {AutoresetMode.DISABLED: [70, 80, 90]}.get(mode, [None] * N)
    for i in range(N):
        assert [s for name, s in told if name == f"row-{i}"][:2] == [5 + i, later[i]]
    assert env.saved == tuple(
        max((tmp_path / "all" / f"row-{i}").iterdir(), key=lambda path: path.name) for i in range(N)
    )


def test_actions_nobody_decided_are_not_kept_and_another_batch_is_refused(tmp_path: Path) -> None:
    with recorder(n_envs=2) as policy:
        env = VectorRecordSpikes(SyncVectorEnv([pole] * N), policy, tmp_path)
        observations, _ = env.reset(seed=0)
        policy.predict(observations[:2])
        env.reset(seed=0)
        env.step(np.zeros(N, dtype=int))  # of nobody
        assert [len(episode) for episode in env.episodes] == [0] * N
        assert [episode.about.n_steps for episode in env.episodes] == [1] * N
        policy.predict(observations[:2])
        with pytest.raises(SpikerlError, match=r"decided for 2 .* there are 3: make .* n_envs=3"):
            env.step(np.zeros(N, dtype=int))
        env.close()
    assert not list(tmp_path.glob("*/*"))


def test_what_cannot_be_recorded_is_refused_with_every_reason() -> None:
    envs = SyncVectorEnv([pole])
    with pytest.raises(SpikerlError, match=r"(?s)last must be .* found 0.*policy is str"):
        VectorRecordSpikes(envs, "agent.spk", last=0)  # type: ignore[arg-type]
    with recorder() as policy:
        policy.records_spikes = False
        with pytest.raises(SpikerlError, match="make it with record_spikes=True"):
            VectorRecordSpikes(envs, policy)


def test_a_video_has_each_frame_with_its_raster(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("moviepy", reason="videos are written with moviepy")
    with recorder(n_envs=2) as policy:
        env = VectorRecordSpikes(SyncVectorEnv([lambda: Screen(200, 200)] * 2), policy)
        single = RecordSpikes(Screen(200, 200), policy, row=1)
        film = RecordVideo(env, str(tmp_path / "film"), video_length=3, fps=10)
        observations, _ = film.reset(seed=0)
        single.reset(seed=0)
        for _ in range(3):
            actions, _ = policy.predict(np.add(observations, [[0.0], [0.5]]))
            single.step(actions[1])
            observations, *_ = film.step(actions)
        frames: Any = env.render()
        assert len(frames) == 2
        np.testing.assert_array_equal(frames[1], single.render())
        assert not np.array_equal(frames[0], frames[1])  # the same frame, other spikes
        film.close()
    assert [path.suffix for path in (tmp_path / "film").iterdir()] == [".mp4"]


def test_rows_of_one_generator_have_no_seed_and_every_vector_says_its_environment() -> None:
    with recorder(n_envs=2) as policy:
        for kind, seeds in (("vector_entry_point", [None, None]), ("async", [5, 6])):
            env = VectorRecordSpikes(
                gym.make_vec("CartPole-v1", 2, vectorization_mode=kind), policy
            )
            observations, _ = env.reset(seed=5)
            env.step(policy.predict(observations)[0])
            about = [episode.about for episode in env.episodes]
            assert [a.seed for a in about] == seeds
            for i, seed in enumerate(seeds):  # the environment a seed speaks of is this one
                alone, _ = pole().reset(seed=5 + i)
                assert np.allclose(alone, observations[i]) == (seed is not None)
            assert [a.environment for a in about] == ["CartPole-v1"] * 2
            env.close()
        by_hand = AsyncVectorEnv([pole] * 2)
        env = VectorRecordSpikes(by_hand, policy)
        assert env.episodes[0].about.environment == "CartPole-v1"
        env.close()
