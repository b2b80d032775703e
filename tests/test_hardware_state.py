"""HardwarePolicy with a stateful agent: membranes, episode starts and the state that is passed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from small_agents import balancer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from spikerl.agent import SpikingAgent
from spikerl.decoding import Categorical, Decoder, FinalPotential
from spikerl.encoding import ConstantCurrent
from spikerl.errors import ShapeError, SpikerlError
from spikerl.hardware import HardwarePolicy
from spikerl.network import Dense, SpikingNetwork
from spikerl.preprocessing import from_space


def counter(**changes: Any) -> SpikingAgent:
    """Stateful; its value grows by the observation with every decision."""
    space = spaces.Box(-100, 100, (1,))
    network = SpikingNetwork((Dense([[1.0], [0.0]], [0.0, 4.5], spiking=False),))
    agent = SpikingAgent(
        network=network,
        preprocessing=from_space(space),
        encoder=ConstantCurrent(),
        decoder=Decoder(FinalPotential(), Categorical((2,))),
        sim_steps=1,
        observation_space=space,
        action_space=spaces.Discrete(2),
        stateful=True,
    )
    return replace(agent, **changes)


@pytest.fixture
def stateful() -> Iterator[HardwarePolicy]:
    with HardwarePolicy(counter(), "reference", n_envs=3) as policy:
        yield policy


ONES = np.ones((3, 1))


def test_membranes_are_carried_and_an_episode_start_resets_just_its_row(
    stateful: HardwarePolicy,
) -> None:
    assert stateful.values(ONES)[:, 0].tolist() == [1, 1, 1]
    assert stateful.values(2 * ONES)[:, 0].tolist() == [3, 3, 3]
    stateful.reset()
    _, state = stateful.predict(ONES, None, np.ones(3, bool))
    _, state = stateful.predict(ONES, state, np.array([False, True, False]))
    assert stateful.recording is not None
    assert stateful.recording.potential is not None
    assert stateful.recording.potential[:, 0].tolist() == [2, 1, 2]
    _, state = stateful.predict(ONES, state, np.zeros(3, bool))
    assert stateful.recording.potential[:, 0].tolist() == [3, 2, 3]


def test_no_state_starts_all_rows_anew(stateful: HardwarePolicy) -> None:
    for _ in range(2):
        stateful.predict(ONES)
        assert stateful.recording is not None
        assert stateful.recording.potential is not None
        assert stateful.recording.potential[:, 0].tolist() == [1, 1, 1]


def test_a_state_that_is_not_the_last_one_is_refused(stateful: HardwarePolicy) -> None:
    _, old = stateful.predict(ONES)
    _, new = stateful.predict(ONES, old)
    for wrong in (old, new[:2], "state", (new,)):
        with pytest.raises(SpikerlError, match="pass the latest state, or None to start anew"):
            stateful.predict(ONES, wrong)
    stateful.predict(ONES, new)


def test_the_state_given_out_does_not_change_later(stateful: HardwarePolicy) -> None:
    _, first = stateful.predict(ONES)
    stateful.predict(ONES, first)
    assert first.tolist() == [1, 1, 1]


@pytest.mark.parametrize("rows", [[1], np.array([False, True, False]), np.array([1])])
def test_rows_are_reset_by_hand(stateful: HardwarePolicy, rows: Any) -> None:
    stateful.values(ONES)
    stateful.reset(rows)
    assert stateful.values(ONES)[:, 0].tolist() == [2, 1, 2]


def test_resetting_no_rows_changes_nothing(stateful: HardwarePolicy) -> None:
    stateful.values(ONES)
    stateful.reset([])
    stateful.reset(np.zeros(3, bool))
    assert stateful.values(ONES)[:, 0].tolist() == [2, 2, 2]


def test_stateful_agents_keep_one_row_per_environment(stateful: HardwarePolicy) -> None:
    for seen in (np.ones(1), np.ones((2, 1)), np.ones((6, 1))):
        for method in (stateful.predict, stateful.values):
            with pytest.raises(ShapeError, match=r"found \d observations, n_envs=3; make the"):
                method(seen)
    for starts in (np.zeros(2, bool), ["a", "", ""], [0.0, 1.0, 0.0]):
        with pytest.raises(ShapeError, match=r"episode_start has .* wanted \(3,\) and bool"):
            stateful.predict(ONES, None, starts)
    for rows in ([5], [-1], ["a"]):
        with pytest.raises(ShapeError, match="rows must be a bool mask"):
            stateful.reset(rows)


def test_values_make_a_state_out_of_date(stateful: HardwarePolicy) -> None:
    _, state = stateful.predict(ONES)
    stateful.values(ONES)
    with pytest.raises(SpikerlError, match="pass the latest state"):
        stateful.predict(ONES, state)


def test_evaluate_policy_passes_the_state_through() -> None:
    """A stateful agent evaluated by SB3 lives as long as one whose state is carried by hand."""
    agent = balancer(stateful=True)
    env = make_vec_env("CartPole-v1", 2)
    env.seed(3)
    with HardwarePolicy(agent, "reference", n_envs=2) as policy:
        found, _ = evaluate_policy(
            policy,  # type: ignore[arg-type]
            env,
            n_eval_episodes=4,
            return_episode_rewards=True,
        )
    env.seed(3)
    seen, lengths, age = env.reset(), [], np.zeros(2)
    state, starts, episodes = None, np.ones(2, bool), np.zeros(2, int)
    with HardwarePolicy(agent, "reference", n_envs=2) as policy:
        while (episodes < 2).any():
            actions, state = policy.predict(seen, state, starts)  # type: ignore[arg-type]
            seen, _, starts, _ = env.step(actions)
            age += 1
            lengths += [float(n) for n in age[starts & (episodes < 2)]]
            episodes += starts
            age[starts] = 0
    env.close()
    assert found == lengths
