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
from spikerl.metrics import (
    action_error,
    agreement,
    error_unit,
    fan_outs,
    firing_rates,
    percent_error,
    synaptic_operations,
)
from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, Recording, SpikingNetwork
from spikerl.operations import Tally
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


# --- synaptic operations --------------------------------------------------------------------------


def counted(*counts: Any) -> Recording:
    arrays = tuple(np.atleast_2d(np.asarray(c, dtype=np.int64)) for c in counts)
    return Recording(arrays, (), sim_steps=4)


def test_every_spike_costs_its_weights_that_are_not_zero() -> None:
    hidden = Dense(np.ones((3, 2)), np.zeros(3))
    # neuron 0 reaches one of the two outputs, neuron 1 both, neuron 2 none
    out = Dense(np.array([[1.0, 2.0, 0.0], [0.0, -1.0, 0.0]]), np.zeros(2), spiking=False)
    network = SpikingNetwork((hidden, out))
    assert [fan.tolist() for fan in fan_outs(network)] == [[1, 2, 0]]
    assert synaptic_operations(counted([4, 3, 2]), network) == 4 * 1 + 3 * 2
    # two decisions: the mean of 10 and of 1
    assert synaptic_operations(counted([[4, 3, 2], [1, 0, 4]]), network) == 5.5


def test_recurrent_weights_and_a_spiking_output_count() -> None:
    recurrent = np.array([[0.0, 1.0], [0.0, 1.0]])  # row: who hears; column: who sends
    hidden = Dense(np.ones((2, 1)), np.zeros(2), recurrent=recurrent)
    network = SpikingNetwork((hidden, Dense(np.ones((3, 2)), np.zeros(3))))
    assert [fan.tolist() for fan in fan_outs(network)] == [[3, 5], [0, 0, 0]]
    # nobody hears the output's spikes
    assert synaptic_operations(counted([1, 2], [9, 9, 9]), network) == 3 + 2 * 5


def test_a_spike_in_a_map_reaches_the_windows_it_lies_in() -> None:
    # one 3 x 3 map; a 2 x 2 kernel of one zero, two output channels: windows at 4 places
    kernel = np.array([[[[1.0, 1.0], [1.0, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    network = SpikingNetwork(
        (
            Conv2d(np.ones((1, 1, 1, 1)), (1, 3, 3), np.zeros(1)),
            Conv2d(kernel, (1, 3, 3), np.zeros(2)),
            Flatten((2, 2, 2)),
            Dense(np.ones((1, 8)), np.zeros(1), spiking=False),
        )
    )
    # the second channel: in 1, 2 or 4 windows; the first: one less wherever a window has the place
    # at its lower right, the place without weight
    full = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    corner = np.array([[0, 0, 0], [0, 1, 1], [0, 1, 1]])
    first, second = fan_outs(network)
    assert first.reshape(3, 3).tolist() == (2 * full - corner).tolist()
    assert second.tolist() == [1] * 8
    spikes = np.zeros(9, dtype=int)
    spikes[[0, 4]] = 1, 3
    assert synaptic_operations(counted(spikes, [1, 0, 0, 0, 0, 0, 0, 2]), network) == 2 + 3 * 7 + 3


def test_pooling_is_part_of_the_way_to_the_next_neurons() -> None:
    network = SpikingNetwork(
        (
            Conv2d(np.ones((1, 1, 1, 1)), (1, 4, 5), np.zeros(1)),
            AvgPool2d((1, 4, 5), (2, 2), (2, 2)),
            Flatten((1, 2, 2)),
            Dense(np.ones((3, 4)), np.zeros(3), spiking=False),
        )
    )
    (fan,) = fan_outs(network)
    # every place is in one window of three synapses; the last column is in none
    assert fan.reshape(4, 5).tolist() == [[3, 3, 3, 3, 0]] * 4


def test_the_fan_out_is_what_a_layer_of_ones_adds_up() -> None:
    network = pixels().network
    (fan, _) = fan_outs(network)
    # one spike of each neuron in turn, through weights of one: the sum over all targets
    rest = Dense(np.ones((5, 24)), np.zeros(5), v_threshold=1e9, spiking=False)
    ones = SpikingNetwork((AvgPool2d((3, 5, 6), (2, 3), (1, 3)), Flatten((3, 4, 2)), rest))
    potential = simulate(ones, np.eye(90)[None]).potential
    assert potential is not None
    assert fan.tolist() == np.rint(potential.sum(axis=1) * 6).tolist()


def test_a_network_without_hidden_layers_has_no_synaptic_operations() -> None:
    network = SpikingNetwork((Dense(np.ones((2, 3)), np.zeros(2), spiking=False),))
    assert fan_outs(network) == ()
    assert synaptic_operations(counted(), network) == 0.0


def test_a_recording_of_another_network_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"recording has \[3\] .* network \[8\]"):
        synaptic_operations(counted([1, 2, 3]), pole().network)


def test_a_tally_is_the_mean_over_decisions() -> None:
    network = pole().network
    parts = [np.random.default_rng(i).integers(4, size=(i, 8)) for i in (1, 3)]
    tally = Tally()
    assert (tally.rates, tally.synaptic_operations(network)) == ((), 0.0)
    for part in parts:
        tally.add(counted(part))
    whole = counted(np.concatenate(parts))
    assert tally.decisions == 4
    assert tally.rates == pytest.approx(firing_rates(whole))
    operations = tally.synaptic_operations(network)
    assert operations == pytest.approx(synaptic_operations(whole, network))
