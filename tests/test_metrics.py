"""Agreement, action error and firing rates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from small_agents import arm, observations, pixels, pole, thrower, walker

from spikerl.agent import SpikingAgent
from spikerl.errors import ShapeError, SpikerlError
from spikerl.hardware import HardwarePolicy
from spikerl.metrics import action_error, agreement, error_unit, firing_rates, percent_error
from spikerl.network import Dense, SpikingNetwork
from spikerl.reference import simulate


class Model:
    """A source policy with SB3's predict that answers what it is told and keeps what it saw."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.seen = answer, None

    def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[Any, None]:
        assert deterministic
        self.seen = observation
        return self.answer, None


def policy_of(agent: SpikingAgent) -> HardwarePolicy:
    return HardwarePolicy(agent, "reference", n_envs=4, seed=0)


def test_agreement_is_the_share_of_equal_actions() -> None:
    seen = observations(pole(), 50)
    with policy_of(pole()) as policy:
        actions, _ = policy.predict(seen)
        assert agreement(policy, Model(actions), seen).value == 1.0
        actions[:10] = 1 - actions[:10]
        estimate = agreement(policy, Model(actions), seen)
        grouped = agreement(policy, Model(actions), seen, episodes=np.repeat(np.arange(5), 10))
    assert estimate.value == 0.8
    assert estimate.n == 50
    assert estimate.low < 0.8 < estimate.high
    assert (grouped.low, grouped.high) == (0.4, 1.0)


def test_all_of_several_choices_must_be_equal() -> None:
    seen = observations(pixels(), 4)
    with policy_of(pixels()) as policy:
        actions, _ = policy.predict(seen)
        actions[0, 0] = 1 - actions[0, 0]
        # the encoder is random, so that only a fresh policy repeats itself
    with policy_of(pixels()) as policy:
        assert agreement(policy, Model(actions), seen).value == 0.75


def test_the_model_sees_normalised_observations() -> None:
    seen, model = observations(pole(), 5), Model(np.zeros(5, int))
    with policy_of(pole()) as policy:
        agreement(policy, model, seen)
    assert np.array_equal(model.seen, pole().preprocessing.normalized(seen))
    assert not np.array_equal(model.seen, seen)


def test_the_action_error_is_in_percent_of_the_range() -> None:
    seen = observations(arm(), 6)
    with policy_of(arm()) as policy:
        actions, _ = policy.predict(seen)
        exact = action_error(policy, Model(actions), seen)
        off = action_error(policy, Model(actions + np.float32([0.2, 0.0])), seen)
    assert exact.value == exact.low == exact.high == 0.0
    assert off.value == pytest.approx(5.0, rel=1e-5)  # 0.2 of 2 in one of two numbers


def test_percent_error_by_hand() -> None:
    space = spaces.Box(np.float32([[0, -1]]), np.float32([[4, 1]]))
    theirs = np.array([[[1.0, 0.0]], [[3.0, -1.0]]])
    ours = theirs + np.array([[[1.0, 0.0]], [[-2.0, 2.0]]])
    assert percent_error(ours, theirs, space).tolist() == [12.5, 75.0]


def test_an_action_without_bounds_is_measured_by_its_spread() -> None:
    space = spaces.Box(np.float32([-np.inf, 0.0, 3.0]), np.float32([1.0, 2.0, 3.0]))
    theirs = np.array([[-4.0, 1.0, 3.0], [4.0, 1.0, 3.0]])  # standard deviation 4, range 2, none
    ours = theirs + np.array([[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
    assert percent_error(ours, theirs, space).tolist() == [pytest.approx(50 / 3), 0.0]
    assert "standard deviation" in error_unit(space)
    assert error_unit(spaces.Box(-1, 1, (2,))) == "the range"


def test_a_range_beyond_float32_is_still_a_range() -> None:
    space = spaces.Box(np.float32([-3e38]), np.float32([3e38]))
    assert np.isfinite(percent_error(np.ones((2, 1)), np.zeros((2, 1)), space)).all()


def test_each_measure_names_the_other_for_the_other_kind_of_actions() -> None:
    with policy_of(pole()) as policy, pytest.raises(SpikerlError, match="use metrics"):
        action_error(policy, Model(None), observations(pole()))
    with policy_of(thrower()) as policy, pytest.raises(SpikerlError, match="use metrics"):
        agreement(policy, Model(None), observations(thrower()))


def test_a_single_observation_is_refused() -> None:
    with policy_of(pole()) as policy, pytest.raises(ShapeError, match="wanted a batch"):
        agreement(policy, Model(None), np.zeros(4))


def test_stateful_agents_are_refused() -> None:
    agent = replace(pole(), stateful=True)
    assert walker().stateful
    with policy_of(agent) as policy, pytest.raises(SpikerlError, match="closed loop"):
        agreement(policy, Model(None), observations(agent, 4))


def test_firing_rates_are_spikes_per_neuron_and_step() -> None:
    network = SpikingNetwork(
        (Dense([[1.0], [0.5]]), Dense([[0.5, 0.5]]), Dense([[1.0]], spiking=False))
    )
    assert firing_rates(simulate(network, np.ones((8, 3, 1)))) == (0.75, 0.75)
