"""The arbiter against traces worked out by hand, rule by rule, and against torch's layers."""

import numpy as np
import pytest
import torch

from spikerl.errors import ShapeError
from spikerl.network import AvgPool2d, Conv2d, Dense, SpikingNetwork
from spikerl.reference import as_drive, initial_state, simulate


def trace(layers, drive):
    """Spike trains of all layers as text, and all final potentials, of one row."""
    drive = np.asarray(drive, dtype=float)
    recording = simulate(SpikingNetwork(layers), drive.reshape(len(drive), 1, -1))
    trains = [
        ["".join(str(int(s)) for s in train) for train in spikes[:, 0].T]
        for spikes in recording.spikes
    ]
    return trains, [potential[0].tolist() for potential in recording.potentials]


def one(**fields):
    return Dense(**{"weight": [[1.0]], **fields})


def test_reset_by_subtraction_keeps_the_remainder():
    # v: 3/4 | 6/4 fires, 1/2 | 5/4 fires, 1/4 | 1 fires, 0 | 3/4
    assert trace([one(reset="subtract")], [0.75] * 5) == ([["01110"]], [[0.75]])


def test_reset_to_zero_discards_the_remainder():
    assert trace([one(reset="zero")], [0.75] * 5) == ([["01010"]], [[0.75]])


def test_the_threshold_is_inclusive_and_subtracted_as_it_is():
    # v: 1/2 fires, 0 | 3/4 fires, 1/4 | 1/4 + 2 fires, 7/4 | 7/4 fires, 5/4
    found = trace([one(v_threshold=0.5)], [0.5, 0.75, 2.0, 0.0])
    assert found == ([["1111"]], [[1.25]])


def test_the_leak_acts_before_the_input_and_on_the_start():
    # v: 1/4 + 1/2 | 3/8 + 1/2 | 7/16 + 5/8 fires, 1/16
    found = trace([one(decay=0.5, v_init=0.5)], [0.5, 0.5, 0.625])
    assert found == ([["001"]], [[0.0625]])


def test_decay_threshold_and_start_may_differ_between_neurons():
    layer = Dense(
        weight=[[1.0], [1.0]], decay=[1.0, 0.5], v_threshold=[2.0, 0.5], v_init=[1.0, 0.0]
    )
    # neuron 0: 3/2 | 2 fires, 0.  neuron 1: 1/2 fires, 0 | 1/2 fires, 0.
    assert trace([layer], [0.5, 0.5]) == ([["01", "11"]], [[0.0, 0.0]])


@pytest.mark.parametrize(("delay", "second"), [(0, "0100"), (1, "0010"), (2, "0001")])
def test_a_spike_arrives_delay_steps_later(delay, second):
    layers = [one(delay_steps=delay), one()]
    trains, _ = trace(layers, [0.5, 0.5, 0.0, 0.0])
    assert trains == [["0100"], [second]]


def test_the_bias_acts_from_the_first_step_whatever_the_delay():
    # layer 1: 1/4 | 1/2 | 3/4 + spike of step 2
    layers = [one(delay_steps=1), one(bias=[0.25], spiking=False)]
    assert trace(layers, [0.0, 1.0, 0.0]) == ([["010"]], [[0.0], [1.75]])


def test_a_refractory_neuron_is_held_without_leak_input_or_spike():
    # v: 3/2 fires, 1/2 | held | held | 1/4 + 3/4 fires, 0 | held
    found = trace([one(refractory_steps=2, decay=0.5)], [1.5, 5.0, -5.0, 0.75, 9.0])
    assert found == ([["10010"]], [[0.0]])


def test_the_floor_acts_before_the_threshold():
    # v: -2 becomes -1/2 | 0 | 1 fires, 0
    assert trace([one(v_min=-0.5)], [-2.0, 0.5, 1.0]) == ([["001"]], [[0.0]])


def test_without_a_floor_inhibition_is_remembered():
    assert trace([one()], [-2.0, 0.5, 1.0]) == ([["000"]], [[-0.5]])


@pytest.mark.parametrize(("delay", "echo"), [(0, "0100"), (1, "0100"), (2, "0010")])
def test_recurrent_spikes_arrive_one_step_later_at_the_earliest(delay, echo):
    layer = Dense(weight=[[1.0], [0.0]], recurrent=[[0.0, 0.0], [1.0, 0.0]], delay_steps=delay)
    assert trace([layer], [1.0, 0.0, 0.0, 0.0])[0] == [["1000", echo]]


def test_a_readout_never_fires_and_sums_what_it_hears():
    layers = [one(), one(weight=[[3.0]], bias=[0.5], spiking=False, v_init=1.0)]
    # 1 + 1/2 | + 1/2 + 3 | + 1/2 + 3
    assert trace(layers, [0.5, 0.5, 1.0]) == ([["011"]], [[0.0], [8.5]])


def test_state_goes_on_where_the_last_call_ended():
    network = SpikingNetwork([one(delay_steps=2, refractory_steps=1, decay=0.5), one()])
    drive = np.array([1.0, 0.5, 1.5, 0.25, 0.0, 2.0, 0.0, 0.0]).reshape(8, 1, 1)
    whole = simulate(network, drive)
    state = initial_state(network, 1)
    parts = [simulate(network, part, state) for part in np.split(drive, [1, 4])]
    for k in range(2):
        joined = np.concatenate([part.spikes[k] for part in parts])
        assert np.array_equal(joined, whole.spikes[k])
        assert np.array_equal(parts[-1].potentials[k], whole.potentials[k])
        assert np.array_equal(sum(part.counts[k] for part in parts), whole.counts[k])
    assert whole.counts[1].sum() > 0


@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (1, 3)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2)])
def test_convolution_is_that_of_torch(stride, padding):
    rng = np.random.default_rng(0)
    weight, bias = rng.integers(-8, 9, (4, 3, 2, 3)) / 8, rng.integers(-8, 9, 4) / 8
    maps = rng.integers(-8, 9, (5, 3, 6, 7)) / 8
    layer = Conv2d(weight=weight, bias=bias, input_shape=(3, 6, 7), stride=stride, padding=padding)
    wanted = torch.nn.functional.conv2d(
        *(torch.tensor(a) for a in (maps, weight, bias)), stride=stride, padding=padding
    )
    assert layer.output_shape == tuple(wanted.shape[1:])
    assert np.array_equal(layer.apply(maps.reshape(5, -1)), wanted.flatten(1).numpy())


@pytest.mark.parametrize("stride", [None, (1, 1), (2, 3)])
def test_average_pooling_is_that_of_torch(stride):
    maps = np.random.default_rng(0).integers(0, 9, (5, 3, 6, 7)) / 8
    layer = AvgPool2d((3, 6, 7), (2, 4), stride)
    wanted = torch.nn.functional.avg_pool2d(torch.tensor(maps), (2, 4), stride)
    assert layer.output_shape == tuple(wanted.shape[1:])
    assert np.array_equal(layer.apply(maps.reshape(5, -1)), wanted.flatten(1).numpy())


@pytest.mark.parametrize(
    ("drive", "said"),
    [
        (np.zeros((2, 1, 3)), "shape (2, 1, 3), wanted [T, B, 1]"),
        (np.zeros((2, 1)), "shape (2, 1), wanted [T, B, 1]"),
        (np.zeros((0, 1, 1)), "T and B must be at least 1"),
        (np.zeros((1, 0, 1)), "T and B must be at least 1"),
        (np.full((1, 1, 1), np.nan), "NaN or infinite"),
        (np.array([[["a"]]]), "wanted numbers"),
        (np.zeros((1, 1, 1), complex), "wanted numbers"),
    ],
)
def test_a_drive_that_does_not_fit_is_refused_with_what_was_wanted(drive, said):
    with pytest.raises(ShapeError) as caught:
        simulate(SpikingNetwork([one()]), drive)
    assert said in str(caught.value)


def test_a_state_of_other_rows_is_refused():
    network = SpikingNetwork([one()])
    with pytest.raises(ShapeError, match="the state has 2 rows, the drive has 3"):
        simulate(network, np.zeros((1, 3, 1)), initial_state(network, 2))


def test_a_broadcast_drive_stays_broadcast_and_integers_become_floats():
    network = SpikingNetwork([one()])
    drive = as_drive(np.broadcast_to(np.ones((1, 2, 1), np.float32), (50, 2, 1)), network)
    assert drive.dtype == np.float64
    assert drive.strides[0] == 0
    assert as_drive(np.ones((2, 1, 1), int), network).dtype == np.float64
