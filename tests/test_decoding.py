"""Decoders: recordings to values [B, n], values to actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from spikerl.decoding import (
    Binary,
    Categorical,
    Decoder,
    FinalPotential,
    FirstSpike,
    Gaussian,
    ResidualPotential,
    SpikeCount,
)
from spikerl.errors import SpikerlError
from spikerl.network import Dense, Recording, SpikingNetwork
from spikerl.reference import simulate

SPIKING = SpikingNetwork((Dense(np.ones((4, 2))),))
READOUT = SpikingNetwork((Dense(np.ones((4, 2)), spiking=False),))


def recording(
    counts: Any = None, potential: Any = None, spikes: Any = None, sim_steps: int = 4
) -> Recording:
    return Recording(
        counts=() if counts is None else (np.array(counts, dtype=np.int64),),
        potentials=(None if potential is None else np.array(potential, dtype=np.float64),),
        spikes=None if spikes is None else (np.array(spikes, dtype=bool),),
        sim_steps=sim_steps,
    )


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- reads -------------------------------------------------------------------------------------


def test_the_final_potential_is_the_mean_input() -> None:
    got = FinalPotential(v_init=1.0, scale=[2.0, 1.0], offset=0.5).values(
        recording(potential=[[9.0, -7.0]])
    )
    assert got.tolist() == [[4.5, -1.5]]
    total = FinalPotential(v_init=1.0, average=False).values(recording(potential=[[9.0, -7.0]]))
    assert total.tolist() == [[8.0, -8.0]]


def test_residual_potentials_give_what_a_neuron_received_without_rounding() -> None:
    random = rng(3)
    weight, bias = random.normal(size=(6, 3)), random.normal(size=6) * 0.3
    layer = Dense(weight, bias, v_threshold=1.5, v_init=0.4)
    read = ResidualPotential(random.normal(size=(2, 6)), [0.5, -1.0], 1.5, 0.4)
    rows = random.normal(size=(50, 3)) * 0.4
    drive = np.broadcast_to(rows, (5, 50, 3))
    found = read.values(simulate(SpikingNetwork((layer,)), drive))
    received = (rows @ weight.T + bias) / 1.5
    for kind in (received < 0, (received > 0) & (received < 0.1), received > 1):
        assert kind.any()
    np.testing.assert_allclose(
        found, np.clip(received, 0, 1) @ read.weight.T + read.bias, rtol=0, atol=1e-12
    )


def test_residual_potentials_are_refused_where_they_mean_nothing() -> None:
    read = ResidualPotential(np.ones((2, 4)), np.zeros(2))
    leaky = SpikingNetwork((Dense(np.ones((4, 2)), decay=0.9, reset="zero"),))
    assert read.problems(SPIKING) == []
    assert "found a read-out" in read.problems(READOUT)[0]
    assert "do not add up" in read.problems(leaky)[0]
    assert "wanted (2, 4)" in ResidualPotential(np.ones((2, 3)), np.zeros(2)).problems(SPIKING)[0]
    with pytest.raises(SpikerlError, match="does not record potentials"):
        read.values(recording(counts=[[1, 0, 0, 0]]))


def test_the_final_potential_of_a_simulated_read_out_is_w_x_plus_b() -> None:
    network = SpikingNetwork((Dense([[1.0, -0.5]], [0.25], v_init=3.0, spiking=False),))
    drive = np.broadcast_to([[[0.5, 2.0]]], (8, 1, 2))
    assert FinalPotential(v_init=3.0).values(simulate(network, drive)).tolist() == [[-0.25]]


def test_spike_counts_undo_scale_and_offset_so_that_negative_values_come_out() -> None:
    got = SpikeCount(scale=2.0, offset=-1.0).values(recording(counts=[[0, 1, 2, 4]]))
    assert got.tolist() == [[-1.0, -0.5, 0.0, 1.0]]


def test_signed_spike_counts_are_the_difference_of_pairs() -> None:
    read = SpikeCount(scale=10.0, signed=True)
    assert read.values(recording(counts=[[4, 0, 1, 3]])).tolist() == [[7.5, -7.5]]
    assert read.n_values(SPIKING) == 2


def test_an_offset_in_the_bias_comes_back_out_of_the_counts() -> None:
    """Values -1..1 are lifted by 1 and halved by the network, and restored by the decoder."""
    wanted = np.array([[-1.0, -0.5, 0.25, 1.0]])
    network = SpikingNetwork((Dense(np.diag(np.full(4, 0.5)), np.full(4, 0.5)),))
    result = simulate(network, np.broadcast_to(wanted, (64, 1, 4)))
    assert np.abs(SpikeCount(2.0, -1.0).values(result) - wanted).max() <= 2 / 64


def test_the_first_spike_counts_the_more_the_earlier() -> None:
    spikes = np.zeros((4, 1, 3), bool)
    spikes[0, 0, 0] = spikes[2, 0, 1] = spikes[3, 0, 1] = True
    assert FirstSpike().values(recording(spikes=spikes)).tolist() == [[1.0, 0.5, 0.0]]


def test_reads_name_what_the_network_or_recording_lacks() -> None:
    assert FinalPotential().problems(READOUT) == []
    assert SpikeCount().problems(SPIKING) == []
    assert "the last layer is spiking" in FinalPotential().problems(SPIKING)[0]
    assert "needs a last layer that spikes" in SpikeCount().problems(READOUT)[0]
    assert "needs a last layer that spikes" in FirstSpike().problems(READOUT)[0]
    odd = SpikingNetwork((Dense(np.ones((3, 2))),))
    assert "needs pairs, the last layer has 3" in SpikeCount(signed=True).problems(odd)[0]
    with pytest.raises(SpikerlError, match="does not record potentials"):
        FinalPotential().values(recording())
    with pytest.raises(SpikerlError, match="record_spikes=True"):
        FirstSpike().values(recording(counts=[[1]]))


def test_a_decoder_says_how_many_values_are_missing() -> None:
    decoder = Decoder(FinalPotential(), Categorical((3,)))
    assert decoder.problems(READOUT) == ["the network gives 4 values, the action head wants 3"]
    assert Decoder(FinalPotential(), Categorical((4,))).problems(READOUT) == []


# --- heads -------------------------------------------------------------------------------------


def test_the_best_action_is_chosen_and_ties_go_to_the_first() -> None:
    head = Categorical((3,))
    got = head.action(np.array([[0.0, 2.0, 1.0], [1.0, 1.0, 0.0]]), True, rng())
    assert got.tolist() == [1, 0]
    assert got.dtype == np.int64


def test_several_choices_are_taken_apart() -> None:
    head = Categorical((2, 3), multi=True)
    got = head.action(np.array([[0.0, 1.0, 5.0, 6.0, 4.0]]), True, rng())
    assert got.tolist() == [[1, 1]]
    assert head.n_values == 5
    assert Categorical((3,), multi=True).action(np.eye(3)[2:], True, rng()).tolist() == [[2]]


def test_softmax_sampling_draws_from_the_softmax() -> None:
    logits = np.array([0.0, 1.0, 2.0])
    drawn = Categorical((3,), sampling="softmax").action(np.tile(logits, (40_000, 1)), False, rng())
    wanted = np.exp(logits) / np.exp(logits).sum()
    found = np.bincount(drawn, minlength=3) / len(drawn)
    assert np.abs(found - wanted).max() < 5 * np.sqrt(0.25 / len(drawn))


def test_epsilon_sampling_is_greedy_but_for_epsilon() -> None:
    head = Categorical((4,), sampling="epsilon", epsilon=0.2)
    drawn = head.action(np.tile([0.0, 0.0, 9.0, 0.0], (40_000, 1)), False, rng())
    found = np.bincount(drawn, minlength=4) / len(drawn)
    assert np.abs(found - [0.05, 0.05, 0.85, 0.05]).max() < 5 * np.sqrt(0.25 / len(drawn))


def test_epsilon_explores_all_choices_of_a_row_together() -> None:
    head = Categorical((3, 3), multi=True, sampling="epsilon", epsilon=0.3)
    drawn = head.action(np.tile([0.0, 9.0, 0.0, 0.0, 9.0, 0.0], (20_000, 1)), False, rng())
    changed = drawn != 1
    assert abs(changed.any(axis=1).mean() - 0.3 * 8 / 9) < 5 * np.sqrt(0.25 / len(drawn))


@pytest.mark.parametrize("sampling", ["none", "softmax", "epsilon"])
def test_deterministic_choices_need_no_chance(sampling: Any) -> None:
    head = Categorical((2,), sampling=sampling, epsilon=1.0)
    assert head.action(np.tile([0.1, 0.0], (50, 1)), True, rng()).sum() == 0


def test_bits_are_set_where_the_logit_is_positive() -> None:
    got = Binary(3).action(np.array([[0.0, 0.1, -0.1]]), True, rng())
    assert got.tolist() == [[0, 1, 0]]
    assert got.dtype == np.int8
    drawn = Binary(1).action(np.full((40_000, 1), 1.0), False, rng())
    assert abs(drawn.mean() - 1 / (1 + np.exp(-1))) < 5 * np.sqrt(0.25 / 40_000)


LOW, HIGH = np.float32([-1.0, 0.0]), np.float32([1.0, 4.0])


def test_means_are_clipped_to_the_box() -> None:
    got = Gaussian(LOW, HIGH).action(np.array([[-3.0, 1.0], [0.5, 9.0]]), True, rng())
    assert got.tolist() == [[-1.0, 1.0], [0.5, 4.0]]


def test_squashed_means_are_unscaled_to_the_box() -> None:
    got = Gaussian(LOW, HIGH, squash="tanh").action(np.array([[0.0, 0.0], [99, -99]]), True, rng())
    assert got.tolist() == [[0.0, 2.0], [1.0, 0.0]]


def test_the_mean_is_limited_before_it_is_squashed() -> None:
    got = Gaussian(LOW, HIGH, squash="tanh", mean_limit=2.0).action(
        np.array([[50.0, 0.0]]), True, rng()
    )
    assert got[0, 0] == np.tanh(2.0)


def test_actions_take_the_shape_of_the_box() -> None:
    space = spaces.Box(-1, 1, (2, 3))
    got = Gaussian(space.low, space.high).action(np.zeros((5, 6)), True, rng())
    assert got.shape == (5, 2, 3)


def test_infinite_bounds_do_not_clip() -> None:
    head = Gaussian(np.full(1, -np.inf), np.full(1, np.inf))
    assert head.action(np.array([[1e9]]), True, rng()).tolist() == [[1e9]]


def test_fixed_noise_has_the_standard_deviation_given() -> None:
    head = Gaussian(
        np.full(2, -np.inf), np.full(2, np.inf), noise="fixed", log_std=np.log([0.5, 3])
    )
    drawn = head.action(np.tile([1.0, -1.0], (40_000, 1)), False, rng())
    assert np.allclose(drawn.std(axis=0), [0.5, 3.0], rtol=0.03)
    assert np.allclose(drawn.mean(axis=0), [1.0, -1.0], atol=0.1)
    assert head.action(np.array([[1.0, -1.0]]), True, rng()).tolist() == [[1.0, -1.0]]


def test_read_noise_comes_from_the_second_half_of_the_values() -> None:
    head = Gaussian(np.full(1, -np.inf), np.full(1, np.inf), noise="read")
    assert head.n_values == 2
    drawn = head.action(np.tile([0.0, np.log(2.0)], (40_000, 1)), False, rng())
    assert np.isclose(drawn.std(), 2.0, rtol=0.03)
    clipped = head.action(np.tile([0.0, 99.0], (40_000, 1)), False, rng())
    assert np.isclose(clipped.std(), np.exp(2.0), rtol=0.03)


def test_unknown_noise_is_refused_with_the_way_out() -> None:
    head = Gaussian(LOW, HIGH, noise="unknown")
    assert head.action(np.zeros((1, 2)), True, rng()).tolist() == [[0.0, 0.0]]
    with pytest.raises(SpikerlError, match=r"gSDE.*call predict\(\.\.\., deterministic=True\)"):
        head.action(np.zeros((1, 2)), False, rng())


def test_without_noise_sampling_is_the_mean() -> None:
    got = Gaussian(LOW, HIGH).action(np.array([[0.25, 1.0]]), False, rng())
    assert got.tolist() == [[0.25, 1.0]]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Categorical(()), "nvec is"),
        (lambda: Categorical((0,)), "nvec is"),
        (lambda: Categorical((2, 2)), "multi is False"),
        (lambda: Categorical((2,), sampling="some"), "sampling is 'some', wanted one of none"),  # type: ignore[arg-type]
        (lambda: Categorical((2,), epsilon=1.5), r"epsilon must be in \[0, 1\]"),
        (lambda: Gaussian(LOW, HIGH[:1]), "one shape"),
        (lambda: Gaussian(HIGH, LOW), "low below high"),
        (lambda: Gaussian(LOW, HIGH, squash="none"), "squash is 'none'"),  # type: ignore[arg-type]
        (lambda: Gaussian(LOW, HIGH * np.inf, squash="tanh"), "finite low and high|low below"),
        (lambda: Gaussian(LOW, HIGH, noise="fixed"), "log_std is given exactly when"),
        (lambda: Gaussian(LOW, HIGH, noise="fixed", log_std=[1.0, 2, 3]), "log_std has shape"),
        (lambda: Gaussian(LOW, HIGH, mean_limit=0.0), "mean_limit must be > 0"),
    ],
)
def test_heads_that_cannot_be_are_refused(make: Any, reason: str) -> None:
    with np.errstate(invalid="ignore"), pytest.raises(SpikerlError, match=reason):
        make()
