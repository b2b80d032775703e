"""HardwarePolicy: SB3's predict() on a back end, in every kind of loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from small_agents import AGENTS, arm, balancer, observations, pixels, pole, racer, thrower, walker
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from spikerl import backends
from spikerl.backends.base import Capabilities, Session, capability_problems, require_runnable
from spikerl.decoding import Categorical, Decoder, FinalPotential
from spikerl.encoding import PoissonSpikes
from spikerl.errors import (
    BackendError,
    ConversionWarning,
    FileFormatError,
    SessionClosed,
    ShapeError,
    SpikerlError,
    UnsupportedNetwork,
)
from spikerl.hardware import HardwarePolicy
from spikerl.metrics import agreement
from spikerl.network import Dense, SpikingNetwork
from spikerl.preprocessing import Normalize, from_space
from spikerl.reference import simulate


def policy_of(agent: Any, **options: Any) -> HardwarePolicy:
    return HardwarePolicy(agent, "reference", seed=options.pop("seed", 0), **options)


def one_of(batch: Any, i: int) -> Any:
    if isinstance(batch, dict):
        return {key: array[i] for key, array in batch.items()}
    return batch[i]


# --- shapes and values -------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_single_observations_and_batches_have_the_actions_of_sb3(name: str) -> None:
    agent = replace(AGENTS[name](), stateful=False)
    seen = observations(agent)
    with policy_of(agent, n_envs=6) as policy:
        batch, state = policy.predict(seen)
    assert state is None
    assert batch.shape == (6, *agent.action_space.shape)  # type: ignore[misc]
    assert batch.dtype == agent.action_space.dtype
    if not isinstance(agent.encoder, PoissonSpikes):  # else every row draws its own spikes
        with policy_of(agent) as policy:
            for i, action in enumerate(batch):
                single, _ = policy.predict(one_of(seen, i))
                assert isinstance(single, np.ndarray)
                assert single.shape == agent.action_space.shape
                assert np.array_equal(single, action)
    if name != "racer":  # its space begins at -1; like SB3's, the actions begin at 0
        assert all(agent.action_space.contains(action) for action in batch)


def test_the_decision_is_the_networks_on_the_preprocessed_observation() -> None:
    agent = pole()
    seen = observations(agent, 3)
    rows = agent.preprocessing(seen)
    result = simulate(agent.network, np.broadcast_to(rows, (16, *rows.shape)))
    with policy_of(agent, n_envs=3) as policy:
        assert np.array_equal(policy.values(seen), result.potential / 16)
        assert np.array_equal(policy.predict(seen)[0], result.potential.argmax(axis=1))


def test_vec_normalize_statistics_travel_with_the_agent() -> None:
    """Raw observations here, normalised ones for the bare network: the same values to float32."""
    env = VecNormalize(make_vec_env("CartPole-v1", 4, seed=0), clip_obs=2.0)
    env.reset()
    for _ in range(50):
        env.step(np.array([0, 1, 0, 1]))
    env.training = False
    raw = np.asarray(env.get_original_obs())
    assert not isinstance(env.obs_rms, dict)
    normal = Normalize(env.obs_rms.mean, env.obs_rms.var, env.epsilon, env.clip_obs)
    with policy_of(balancer(), n_envs=4) as bare:
        wanted = bare.values(np.asarray(env.normalize_obs(raw)))
    space = env.observation_space
    with policy_of(
        balancer(preprocessing=from_space(space, normalize={None: normal})), n_envs=4
    ) as policy:
        assert np.array_equal(policy.values(raw), wanted)
    env.close()


def test_observations_may_come_normalised() -> None:
    """evaluate_policy in an environment that VecNormalize has been put around."""
    agent = pole()
    seen = observations(agent, 6)
    with (
        policy_of(agent, n_envs=6) as raw,
        policy_of(agent, n_envs=6, observations="normalized") as policy,
    ):
        normal = agent.preprocessing.normalized(seen)
        assert np.array_equal(policy.values(normal), raw.values(seen))
        assert np.array_equal(policy.predict(normal)[0], raw.predict(seen)[0])
        assert not np.array_equal(policy.values(seen), raw.values(seen))
        model = Keeping()
        agreement(policy, model, normal)
    assert np.array_equal(model.seen, normal)
    with pytest.raises(SpikerlError, match="not normalised; pass them raw"):
        policy_of(balancer(), observations="normalized")
    with pytest.raises(SpikerlError, match="wanted 'raw' or 'normalized'"):
        policy_of(agent, observations="norm")


class Keeping:
    """A source policy that keeps what it saw."""

    seen: Any = None

    def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[Any, None]:
        self.seen = observation
        return np.zeros(len(observation), np.int64), None


def test_an_agent_may_be_a_path(tmp_path: Path) -> None:
    balancer().save(tmp_path / "agent.spk")
    for path in (tmp_path / "agent.spk", str(tmp_path / "agent.spk")):
        with policy_of(path) as policy:
            assert policy.predict(np.zeros(4))[0] == 0
    with pytest.raises(FileFormatError, match="there is no such file"):
        policy_of(tmp_path / "missing")


def test_the_default_back_end_decides_as_the_reference() -> None:
    seen = observations(pole(), 20)
    with HardwarePolicy(pole(), n_envs=20) as policy, policy_of(pole(), n_envs=20) as reference:
        assert policy.backend.name == "cpu"
        assert np.array_equal(policy.predict(seen)[0], reference.predict(seen)[0])


# --- loops -------------------------------------------------------------------------------------


def test_it_balances_cart_pole_in_a_plain_gymnasium_loop() -> None:
    env = gymnasium.make("CartPole-v1")
    with policy_of(balancer()) as policy:
        observation, _ = env.reset(seed=0)
        total, over = 0.0, False
        while not over:
            action, _ = policy.predict(observation)
            observation, reward, terminated, truncated, _ = env.step(action.item())
            total, over = total + float(reward), terminated or truncated
    env.close()
    assert total == 500


@pytest.mark.parametrize("carries", [False, True])
def test_it_runs_in_sb3s_evaluate_policy(carries: bool) -> None:
    env = make_vec_env("CartPole-v1", 2, seed=0)
    with policy_of(balancer(stateful=carries), n_envs=2) as policy:
        reward, _ = evaluate_policy(policy, env, n_eval_episodes=2)  # type: ignore[arg-type]
    env.close()
    assert reward == 500 if not carries else reward > 8


def test_actions_fit_environments_of_every_kind() -> None:
    for agent in (pixels(), arm(), walker(), thrower()):
        with policy_of(agent) as policy:
            action, _ = policy.predict(one_of(observations(agent, 1), 0))
            assert agent.action_space.contains(action)


# --- chance ------------------------------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("make", [pole, pixels, arm, racer, thrower])
def test_the_same_seed_gives_the_same_actions(make: Any, deterministic: bool) -> None:
    agent, runs = make(), []
    seen = observations(agent, 40)
    for seed in (7, 7, 8):
        with policy_of(agent, n_envs=40, seed=seed) as policy:
            runs.append([policy.predict(seen, deterministic=deterministic)[0] for _ in range(3)])
    assert np.array_equal(runs[0], runs[1])
    random = not deterministic or isinstance(agent.encoder, PoissonSpikes)
    assert np.array_equal(runs[0], runs[2]) != random


def test_sampled_actions_follow_the_softmax_of_the_values() -> None:
    agent = balancer(decoder=Decoder(FinalPotential(), Categorical((2,), sampling="softmax")))
    seen = np.tile(np.float32([0, 0, 0.1, 0]), (20_000, 1))
    with policy_of(agent, n_envs=20_000) as policy:
        values = policy.values(seen)[0]
        drawn, _ = policy.predict(seen, deterministic=False)
    wanted = 1 / (1 + np.exp(values[0] - values[1]))
    assert abs(drawn.mean() - wanted) < 5 * np.sqrt(0.25 / 20_000)


# --- batches and recordings --------------------------------------------------------------------


def test_batches_larger_than_n_envs_are_taken_in_pieces() -> None:
    agent = pole()
    seen = observations(agent, 11)
    with policy_of(agent, n_envs=4) as small, policy_of(agent, n_envs=11) as large:
        assert np.array_equal(small.predict(seen)[0], large.predict(seen)[0])
        assert small.recording is not None
        assert large.recording is not None
        assert small.recording.counts[0].shape == (11, 8)
        assert np.array_equal(small.recording.counts[0], large.recording.counts[0])
        assert np.array_equal(small.recording.potentials[1], large.recording.potentials[1])  # type: ignore[arg-type]


def test_the_recording_is_that_of_the_last_decision() -> None:
    agent = pole()
    seen = observations(agent, 5)
    with policy_of(agent, n_envs=2, record_spikes=True) as policy:
        assert policy.recording is None
        policy.predict(seen[0])
        policy.predict(seen)
        recording = policy.recording
    assert recording is not None
    rows = agent.preprocessing(seen)
    wanted = simulate(agent.network, np.broadcast_to(rows, (16, *rows.shape)))
    assert recording.sim_steps == 16
    assert recording.spikes is not None
    assert np.array_equal(recording.spikes[0], wanted.spikes[0])  # type: ignore[index]
    assert np.array_equal(recording.counts[0], wanted.counts[0])


def test_spikes_are_recorded_only_when_asked_for_or_needed() -> None:
    for agent, needed in ((pole(), False), (racer(), True)):
        with policy_of(agent) as policy:
            policy.predict(one_of(observations(agent), 0))
            assert policy.recording is not None
            assert (policy.recording.spikes is not None) == needed


def test_stateless_decisions_do_not_depend_on_those_before() -> None:
    agent = pole()
    seen = observations(agent, 5)
    with policy_of(agent) as policy:
        alone = [policy.values(one) for one in seen]
        again = [policy.values(one) for one in seen[::-1]][::-1]
    assert np.array_equal(alone, again)


def test_sim_steps_may_differ_from_the_agents_own() -> None:
    with policy_of(pole(), sim_steps=3) as policy:
        policy.predict(np.zeros(4))
        assert policy.recording is not None
        assert policy.recording.sim_steps == 3


def fitted(**changes: Any) -> Any:
    return replace(pole(), provenance={"recipe": {"penalty": 0.01}}, **changes)


@pytest.mark.parametrize("agent", [fitted(), racer()], ids=["fitted", "first spike"])
def test_a_read_out_made_for_some_steps_warns_at_others(agent: Any) -> None:
    policy_of(agent, sim_steps=agent.sim_steps).close()
    with pytest.warns(ConversionWarning, match=f"made for {agent.sim_steps} steps: at 100 its"):
        policy_of(agent, sim_steps=100).close()


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observation", "reason"),
    [
        (np.zeros(3), r"has shape \(3,\), wanted \(4,\) for one or \(n, 4\) for a batch"),
        (np.array(["a"] * 4), "wanted numbers"),
        (np.ma.masked_array(np.zeros(4), [0, 0, 1, 0]), "is a masked array"),
        (np.array([0, 0, np.nan, 0]), "NaN or infinite"),
        (np.array([[0, 0, np.inf, 0]]), "NaN or infinite"),
        ((np.zeros(4), {}), "the observation is a tuple"),
        ({"a": np.zeros(4)}, "is dict, wanted an array"),
    ],
)
def test_observations_that_cannot_be_are_refused(observation: Any, reason: str) -> None:
    with policy_of(balancer()) as policy:
        for method in (policy.predict, policy.values):
            with pytest.raises(ShapeError, match=reason):
                method(observation)
        assert policy.predict(np.zeros(4))[0].shape == ()  # the policy is still in order


@pytest.mark.parametrize("sim_steps", [0, -3, 1.5, True])
def test_a_number_of_steps_below_one_is_refused(sim_steps: Any) -> None:
    with pytest.raises(SpikerlError, match="sim_steps must be a whole number >= 1"):
        policy_of(balancer(), sim_steps=sim_steps)


def test_a_closed_policy_says_so() -> None:
    policy = policy_of(balancer())
    with policy:
        pass
    policy.close()
    calls = (policy.predict, policy.values, policy.reset, lambda _: policy.__enter__())
    for call in calls:
        with pytest.raises(SessionClosed, match="this policy is closed; make a new HardwarePolicy"):
            call(np.zeros(4))


def test_an_unknown_back_end_is_refused_with_those_that_exist() -> None:
    with pytest.raises(BackendError, match="there is no back end 'brain'") as caught:
        HardwarePolicy(balancer(), "brain")
    for name in backends.available():
        assert f"- {name}: " in str(caught.value)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(BackendError, match="has no option volts"):
        policy_of(balancer(), volts=3)
    with pytest.raises(SpikerlError, match="isolation is 'thread', wanted 'process' or None"):
        policy_of(balancer(), isolation="thread")


class Tiny:
    """A back end that can do next to nothing."""

    name = "tiny"
    capabilities = Capabilities(
        resets=frozenset({"zero"}), decay=False, bias=False, limits={"neurons": 3, "inputs": 2}
    )

    def problems(self, network: SpikingNetwork) -> list[str]:
        return capability_problems(self.capabilities, network)

    def compile(
        self,
        network: SpikingNetwork,
        *,
        batch_size: int = 1,
        seed: int | None = None,
        **options: Any,
    ) -> Session:
        require_runnable(self, network, batch_size)
        raise AssertionError("not reached")


def test_a_network_that_does_not_fit_is_refused_with_all_reasons_at_once() -> None:
    network = SpikingNetwork(
        (Dense(np.ones((4, 4)), np.ones(4), decay=0.5), balancer().network.layers[0])
    )
    with pytest.raises(UnsupportedNetwork) as caught:
        Tiny().compile(network, batch_size=0)
    assert caught.value.problems == (
        "layer 0: reset='subtract' is not supported, only zero",
        "layer 0: decay < 1 is not supported",
        "layer 0: biases are not supported",
        "6 neurons in all, at most 3 fit",
        "4 inputs, at most 2 fit",
        "batch_size must be a whole number >= 1, found 0",
    )
    assert str(caught.value).startswith("back end 'tiny' cannot run this network:\n  - layer 0: ")


def test_sampling_is_refused_where_the_noise_is_unknown() -> None:
    from spikerl.decoding import Gaussian

    space = thrower().action_space
    assert isinstance(space, spaces.Box)
    head = Gaussian(space.low, space.high, noise="unknown")
    agent = replace(thrower(), decoder=Decoder(FinalPotential(), head))
    with policy_of(agent) as policy:
        assert policy.predict(np.zeros(2))[0].shape == (1, 2)
        with pytest.raises(SpikerlError, match="explored with noise"):
            policy.predict(np.zeros(2), deterministic=False)


@pytest.mark.parametrize("n_envs", [0, -1, 1.5, True, "a"])
def test_a_number_of_environments_below_one_is_refused(n_envs: Any) -> None:
    for agent in (balancer(), balancer(stateful=True)):
        with pytest.raises(SpikerlError, match="n_envs must be a whole number >= 1"):
            policy_of(agent, n_envs=n_envs)


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_a_seed_that_is_no_seed_is_refused(seed: Any) -> None:
    with pytest.raises(SpikerlError, match="seed must be None or a whole number >= 0"):
        policy_of(pole(), seed=seed)


def test_a_back_end_is_a_name_or_a_backend() -> None:
    with pytest.raises(SpikerlError, match="wanted a name or a Backend"):
        HardwarePolicy(pole(), None)  # type: ignore[arg-type]
