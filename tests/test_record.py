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
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from small_agents import catcher, pixels
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

import spikerl.envs  # noqa: F401 - registers Catch
from spikerl.agent import SpikingAgent
from spikerl.decoding import Categorical, Decoder, FinalPotential
from spikerl.encoding import ConstantCurrent
from spikerl.episode import About, EpisodeRecording
from spikerl.errors import FileFormatError, SpikerlError
from spikerl.hardware import HardwarePolicy
from spikerl.network import Dense, Recording, SpikingNetwork
from spikerl.preprocessing import from_space
from spikerl.reference import simulate
from spikerl.wrappers import RecordSpikes

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


def test_every_decision_is_in_the_file_as_the_reference_has_it(tmp_path: Path) -> None:
    with recorder() as policy:
        env = RecordSpikes(pole(), policy, tmp_path / "new" / "folder")
        told = play(env, policy, seed=4)
        assert env.saved == tmp_path / "new" / "folder" / "episode-00000.npz"
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


# --- frames --------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("size", [(301, 201), (50, 40), (600, 400)])
def test_frames_have_the_raster_at_their_right(size: tuple[int, int]) -> None:
    pytest.importorskip("matplotlib")
    with recorder() as policy:
        env = RecordSpikes(Screen(*size), policy)
        observation, _ = env.reset(seed=0)
        empty = env.render()
        height, width, _ = empty.shape
        assert (height % 2, width % 2) == (0, 0)
        assert height >= 200
        factor = -(-200 // size[0])
        grey = (empty == 70).all(axis=2)
        assert grey[: factor * size[0], : factor * size[1]].all()
        inks = []
        for _ in range(3):
            action, _ = policy.predict(observation)
            observation, *_ = env.step(action)
            frame = env.render()
            assert frame.shape == empty.shape
            assert frame.dtype == np.uint8
            np.testing.assert_array_equal(frame[:, : size[1]], empty[:, : size[1]])
            inks.append(int((frame != empty).any(axis=2).sum()))
        spikes = [int(layer.sum()) for layer in env.episode.spikes]
    assert min(spikes) > 0
    assert 0 < inks[0] < inks[1] < inks[2]


def test_a_spike_is_painted_where_its_neuron_and_step_are() -> None:
    pytest.importorskip("matplotlib")
    from spikerl.plots.panel import Panel, shrunk

    panel = Panel((4, 8), sim_steps=5)
    frame = np.full((400, 300, 3), 9, np.uint8)
    silent = (np.zeros((5, 4), bool), np.zeros((5, 8), bool))
    empty = panel.beside(frame, [silent])
    places = {}
    for layer, step, neuron in ((0, 0, 0), (0, 4, 0), (0, 0, 3), (1, 0, 0), (1, 0, 7)):
        spikes = copy.deepcopy(silent)
        spikes[layer][step, neuron] = True
        changed = (panel.beside(frame, [spikes]) != empty).any(axis=2)
        rows, columns = np.nonzero(changed)
        assert changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        places[layer, step, neuron] = (rows.mean(), columns.mean())
    assert places[0, 0, 0][0] == places[0, 4, 0][0] > places[0, 0, 3][0]  # neuron 0 is below
    assert places[0, 0, 0][1] == places[1, 0, 7][1] < places[0, 4, 0][1]  # time goes right
    assert places[0, 0, 0][0] < places[1, 0, 7][0] < places[1, 0, 0][0]  # layers go down
    # More neurons than pixels: means, and no spike is lost.
    wide = np.zeros((1000, 3))
    wide[501, 1] = 1
    small = shrunk(wide, (10, 3))
    assert small[:, 1].sum() == pytest.approx(0.01)
    np.testing.assert_array_equal(shrunk(np.eye(2), (4, 2)), np.eye(2).repeat(2, axis=0))
    with pytest.raises(SpikerlError, match=r"render\(\) gave float64 \(4, 4\)"):
        panel.beside(np.zeros((4, 4)), [])


def test_lists_of_frames_are_refused_and_other_modes_are_as_they_were() -> None:
    pytest.importorskip("pygame", reason="CartPole draws with pygame")
    with recorder() as policy:
        listing = pole(render_mode="rgb_array_list")
        with pytest.raises(SpikerlError, match="or pass beside=False"):
            RecordSpikes(listing, policy)
        env = RecordSpikes(listing, policy, beside=False)
        play(env, policy)
        assert isinstance(env.render(), list)
        plain = pole(render_mode="rgb_array")
        env = RecordSpikes(plain, policy, beside=False)
        env.reset(seed=0)
        np.testing.assert_array_equal(env.render(), plain.render())


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
