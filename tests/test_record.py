"""RecordSpikes on real environments: what is kept is what the policy's neurons did, and bounded."""

from __future__ import annotations

import copy
import gc
import pickle
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from recorders import Screen, T, play, pole, pole_agent, recorder
from small_agents import catcher, pixels
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

import spikerl.envs  # noqa: F401 - registers Catch
from spikerl.episode import About, EpisodeRecording
from spikerl.errors import FileFormatError, SpikerlError
from spikerl.hardware import HardwarePolicy
from spikerl.network import Recording
from spikerl.reference import simulate
from spikerl.wrappers import RecordSpikes


def test_every_decision_is_in_the_file_as_the_reference_has_it(tmp_path: Path) -> None:
    with recorder() as policy:
        env = RecordSpikes(pole(), policy, tmp_path / "new" / "folder")
        told = play(env, policy, seed=4)
        assert env.folder == tmp_path / "new" / "folder"
        assert env.saved == env.folder / "episode-00000.npz"
        found = EpisodeRecording.load(env.saved)
    agent = policy.agent
    rows = agent.preprocessing(np.stack([observation for observation, _ in told]))
    drive = agent.encoder.encode(rows, T, np.random.default_rng(0))
    # row by row, as it was decided: sums of a batch may be rounded in another order
    want = Recording.joined(
        [simulate(agent.network, drive[:, i : i + 1]) for i in range(len(rows))]
    )
    assert want.spikes is not None
    assert sum(layer.sum() for layer in want.spikes) > 50
    for layer, spikes in zip(found.spikes, want.spikes, strict=True):
        np.testing.assert_array_equal(layer, spikes.swapaxes(0, 1))
    for potential, v in zip(found.potentials, want.potentials, strict=True):
        np.testing.assert_array_equal(potential, v)
    np.testing.assert_array_equal(found.values, agent.decoder.values(want))
    np.testing.assert_array_equal(found.actions, [action for _, action in told])
    np.testing.assert_array_equal(found.steps, np.arange(len(told)))
    np.testing.assert_array_equal(found.rewards, np.ones(len(told)))
    rates = [layer.mean(axis=(1, 2)) for layer in found.spikes]
    np.testing.assert_array_equal(found.rates, np.transpose(rates))
    powers = np.exp(found.values)
    wanted = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.probabilities, wanted, rtol=1e-12)
    assert found.about == About(
        environment="CartPole-v1",
        backend="reference",
        sim_steps=T,
        dt_ms=0.5,
        seed=4,
        meaning="logits",
        choices=(2,),
        n_decisions=len(told),
        n_steps=len(told),
        total_reward=float(len(told)),
        ended="terminated",
    )


def test_the_last_decisions_are_kept_and_their_places_in_the_episode() -> None:
    with recorder() as policy:
        whole = RecordSpikes(pole(), policy, last=None)
        env = RecordSpikes(whole, policy, last=3)
        n = len(play(env, policy))
        kept, everything = env.episode, whole.episode
    assert len(everything) == n > 3 == len(kept)
    assert kept.about.n_decisions == n
    assert kept.about.total_reward == n
    np.testing.assert_array_equal(kept.steps, np.arange(n)[-3:])
    for a, b in zip(kept.spikes, everything.spikes, strict=True):
        np.testing.assert_array_equal(a, b[-3:])
    np.testing.assert_array_equal(kept.values, everything.values[-3:])


def test_a_long_episode_takes_no_more_memory_than_a_short_one() -> None:
    with recorder() as policy:
        env = RecordSpikes(Screen(), policy, last=20, beside=False)
        observation, _ = env.reset(seed=0)

        def go(steps: int) -> int:
            nonlocal observation
            for _ in range(steps):
                action, _ = policy.predict(observation)
                observation, *_ = env.step(action)
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            short = go(100)
            grown = go(400) - short
        finally:
            tracemalloc.stop()
        assert len(env.episode) == 20
        assert env.episode.about.n_decisions == 500
    assert grown < 20_000  # bytes; 400 decisions more would be 400,000


def test_actions_without_a_decision_have_no_spikes_and_their_reward_goes_to_the_last() -> None:
    with recorder() as policy:
        env = RecordSpikes(pole(), policy)
        observation, _ = env.reset(seed=0)
        policy.predict(observation)
        env.step(1)
        env.step(0)  # nobody asked the policy
        env.step(1)
        policy.predict(observation)
        env.step(0)
        found = env.episode
        assert found.steps.tolist() == [0, 3]
        assert found.rewards.tolist() == [3.0, 1.0]
        assert found.actions.tolist() == [1, 0]
        policy.predict(observation)  # for another episode
        env.reset(seed=1)
        env.step(0)
        assert len(env.episode) == 0
        assert env.episode.spikes[0].shape == (0, T, 9)


def test_files_are_numbered_on_and_given_up_episodes_are_saved(tmp_path: Path) -> None:
    with recorder() as policy:
        env = RecordSpikes(pole(), policy, tmp_path)
        play(env, policy, seed=1)
        observation, _ = env.reset(seed=2)
        env.step(policy.predict(observation)[0])
        env.reset(seed=3)  # gives the second up
        env.close()  # without a decision in the third
        env = RecordSpikes(pole(max_episode_steps=3), policy, tmp_path)
        play(env, policy, seed=5)
        env.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"episode-0000{i}.npz" for i in range(3)]
    about = [EpisodeRecording.load(tmp_path / name).about for name in names]
    assert [a.ended for a in about] == ["terminated", "unfinished", "truncated"]
    assert [a.seed for a in about] == [1, 2, 5]
    assert about[1].n_decisions == 1


def test_a_file_is_whole_or_as_it_was_before(tmp_path: Path, monkeypatch: Any) -> None:
    with recorder() as policy:
        env = RecordSpikes(pole(), policy)
        play(env, policy)
    path = tmp_path / "episode.npz"
    path.write_bytes(b"before")

    def full(*arguments: Any, **more: Any) -> None:
        arguments[0].write(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", full)
        with pytest.raises(SpikerlError, match="cannot be written: No space left"):
            env.episode.save(path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    env.episode.save(path)
    whole = path.read_bytes()
    assert EpisodeRecording.load(path).about == env.episode.about
    for damaged in (b"", b"no zip", whole[: len(whole) // 2], whole.replace(b"about", b"abput")):
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match=r"episode\.npz cannot be loaded"):
            EpisodeRecording.load(path)
    with pytest.raises(FileFormatError, match="there is no such file"):
        EpisodeRecording.load(tmp_path / "nowhere.npz")


def test_each_environment_of_a_vector_records_its_row(tmp_path: Path) -> None:
    with recorder(n_envs=2) as policy:
        vector = DummyVecEnv(
            [
                lambda row=row: RecordSpikes(pole(), policy, tmp_path / str(row), row=row)
                for row in (0, 1)
            ]
        )
        vector.seed(3)
        with pytest.warns(UserWarning, match="Monitor"):
            _, lengths = evaluate_policy(
                policy, vector, n_eval_episodes=4, return_episode_rewards=True
            )
        vector.close()
    ended = []
    for row in (0, 1):
        for path in sorted((tmp_path / str(row)).iterdir()):
            found = EpisodeRecording.load(path)
            if found.about.ended != "unfinished":
                ended.append(len(found))
            agent = policy.agent
            wanted = agent.decoder.action(found.values, True, np.random.default_rng())
            np.testing.assert_array_equal(found.actions, wanted)
    assert Counter(lengths) <= Counter(ended)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_an_autoreset_begins_a_new_recording(mode: AutoresetMode, tmp_path: Path) -> None:
    with recorder() as policy:
        makers = [lambda: RecordSpikes(pole(), policy, tmp_path)]
        vector = SyncVectorEnv(makers, autoreset_mode=mode)
        observations, _ = vector.reset(seed=0)
        ended = lost = steps = 0
        while ended < 3:
            actions, _ = policy.predict(observations)
            observations, _, terminations, _, _ = vector.step(actions)
            steps += 1
            ended += int(terminations[0])
        lost = ended - 1 if mode is AutoresetMode.NEXT_STEP else 0  # decided on a last observation
        vector.close()
    found = [EpisodeRecording.load(path) for path in sorted(tmp_path.iterdir())]
    assert [episode.about.ended for episode in found] == ["terminated"] * 3
    assert sum(len(episode) for episode in found) == steps - lost
    assert all(len(episode) == episode.about.n_steps for episode in found)


# The checkers would rather see environments without wrappers.
@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
@pytest.mark.filterwarnings("ignore:.*value is (-)?infinity")
def test_both_checkers_pass_and_a_spec_makes_it_again_in_this_process(tmp_path: Path) -> None:
    with recorder() as policy:
        env = RecordSpikes(pole(), policy, tmp_path, last=7)
        check_env(env, skip_render_check=True)
        sb3_check_env(env)
        assert list(tmp_path.iterdir()) == []  # the checkers' actions were nobody's decisions
        outer = gym.wrappers.TimeLimit(env, 2)
        assert outer.spec is not None
        for again in (gym.make(outer.spec), copy.deepcopy(outer)):
            play(again, policy)
            assert again.get_wrapper_attr("policy") is policy
            assert len(again.get_wrapper_attr("episode")) == 2
            again.close()
        for one in (env, outer):
            with pytest.raises(SpikerlError, match=r"a policy, which JSON cannot: .*without"):
                one.spec.to_json()
        assert again.unwrapped.spec.to_json() == pole().unwrapped.spec.to_json()
        with pytest.raises(SpikerlError, match="cannot leave its process"):
            pickle.dumps(outer.spec)
        assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
def test_the_checkers_pass_with_a_raster_beside_the_frames() -> None:
    pytest.importorskip("matplotlib")
    with HardwarePolicy(catcher(), "reference", record_spikes=True) as policy:
        env = RecordSpikes(gym.make("spikerl/Catch-v0", render_mode="rgb_array"), policy)
        check_env(env)
        sb3_check_env(env)
        play(env, policy)
        assert len(env.episode) == 20


def test_what_cannot_be_recorded_is_refused_with_every_reason(tmp_path: Path) -> None:
    message = r"(?s)last must be .* found 0.*row must be .* found -1.*policy is str"
    with pytest.raises(SpikerlError, match=message):
        RecordSpikes(pole(), "agent.spk", last=0, row=-1)  # type: ignore[arg-type]
    with (
        HardwarePolicy(pole_agent(), "reference") as policy,
        pytest.raises(SpikerlError, match="make it with record_spikes=True"),
    ):
        RecordSpikes(pole(), policy)
    with recorder() as policy:
        env = RecordSpikes(pole(), policy, row=1)
        observation, _ = env.reset(seed=0)
        action, _ = policy.predict(observation)
        with pytest.raises(SpikerlError, match="row is 1, the policy decided for 1 environments"):
            env.step(action)
        (tmp_path / "file").write_text("")
        with pytest.raises(SpikerlError, match="cannot be made"):
            RecordSpikes(pole(), policy, tmp_path / "file")


def test_counts_without_spikes_are_refused() -> None:
    agent = pixels()
    with HardwarePolicy(agent, "reference", record_spikes=True) as policy:

        class Pixels(gym.Env[Any, Any]):
            observation_space, action_space = agent.observation_space, agent.action_space

            def reset(self, *, seed: Any = None, options: Any = None) -> Any:
                return self.observation_space.sample(), {}

            def step(self, action: Any) -> Any:
                return self.observation_space.sample(), 0.0, False, False, {}

        env = RecordSpikes(Pixels(), policy)
        observation, _ = env.reset()
        action, _ = policy.predict(observation)
        env.step(action)
        assert env.episode.about.choices == (2, 3)
        assert env.episode.actions.shape == (1, 2)
        assert [layer.shape[2] for layer in env.episode.spikes] == [
            layer.n_out for layer in agent.network.spiking_layers
        ]
        policy.predict(observation)
        assert policy.recording is not None
        object.__setattr__(policy.recording, "spikes", None)  # as a chip that only counts
        with pytest.raises(SpikerlError, match="gives no single spikes, only counts"):
            env.step(action)
