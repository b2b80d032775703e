"""What a decision takes: counted by hand, and as NeuroBench counts it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_agents import AGENTS, observations, pixels

from spikerl.errors import ShapeError, SpikerlError
from spikerl.hardware import HardwarePolicy
from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, SpikingNetwork
from spikerl.operations import (
    Tally,
    activation_sparsity,
    connection_sparsity,
    dense_macs,
    footprint,
    input_fan_out,
    operations,
    synaptic_operations,
)
from spikerl.reference import simulate

# Input 0 reaches both hidden neurons, input 1 the second; hidden 0 reaches one of two outputs.
SMALL = SpikingNetwork(
    (
        Dense([[0.5, 0.0], [0.25, 1.0]], [0.25, 0.0]),
        Dense([[1.0, 1.0], [0.0, 1.0]], decay=0.5, spiking=False),
    )
)


def held(value: Any, steps: int) -> np.ndarray:
    """A current that is constant in time, as the encoder hands it over."""
    rows = np.asarray(value, dtype=np.float64)
    return np.broadcast_to(rows, (steps, *rows.shape))


def test_a_constant_current_is_multiplied_at_every_step_and_need_be_only_once() -> None:
    drive = held([[0.5, 0.0], [0.5, 0.25]], 4)
    recording = simulate(SMALL, drive)
    found = operations(recording, SMALL, drive)
    assert (found.dense, found.updates, found.leaks) == (4 * 8, 4 * 4, 4 * 2)
    assert (found.effective_macs, found.input_macs) == (4 * (2 + 3) / 2, (2 + 3) / 2)
    # row 0: neuron 0 gets 0.5 a step (steps 2 and 4), neuron 1 0.125; row 1: neuron 1 0.375 (3)
    assert [counts.tolist() for counts in recording.counts] == [[[2, 0], [2, 1]]]
    assert found.spikes == 2.5
    assert found.effective_acs == (2 * 1 + 2 * 1 + 1 * 2) / 2


def test_a_current_that_varies_is_multiplied_whenever_it_is_not_zero() -> None:
    drive = np.zeros((4, 1, 2))
    drive[1, 0] = 0.5, 0.5
    drive[3, 0, 1] = 0.25
    found = operations(simulate(SMALL, drive), SMALL, drive)
    assert (found.effective_macs, found.input_macs) == (3 + 1, 3 + 1)


def test_spikes_that_come_in_are_accumulated() -> None:
    drive = np.zeros((4, 1, 2))
    drive[:, 0, 0] = 1, 0, -1, 0
    drive[:, 0, 1] = 0, 1, 0, 0
    recording = simulate(SMALL, drive)
    found = operations(recording, SMALL, drive)
    assert (found.effective_macs, found.input_macs) == (0, 0)
    assert found.effective_acs == 2 * 2 + 1 + synaptic_operations(recording, SMALL)


def test_a_network_where_all_speak_at_every_step_takes_all_there_are() -> None:
    network = SpikingNetwork(
        (
            Conv2d(np.ones((2, 1, 2, 2)), (1, 4, 4), padding=(1, 1), v_threshold=0.5),
            AvgPool2d((2, 5, 5), (2, 2), (2, 2)),
            Flatten((2, 2, 2)),
            Dense(np.ones((3, 8)), recurrent=np.ones((3, 3)), v_threshold=0.1),
            Dense(np.ones((1, 3)), spiking=False),
        )
    )
    drive = np.ones((5, 1, 16))
    recording = simulate(network, drive)
    assert [counts.min() for counts in recording.counts] == [5, 5]
    found = operations(recording, network, drive)
    assert found.effective_macs == 0
    assert found.effective_acs == found.dense
    # every input lies in 4 windows of 2 channels; pooling sees 16 of 25 places of each channel
    assert found.dense == 5 * (16 * 4 * 2 + 2 * 16 * 3 + 3 * 3 + 3)
    assert activation_sparsity(recording) == 0.0


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2)])
def test_a_convolution_has_as_many_synapses_as_there_are(stride: Any, padding: Any) -> None:
    conv = Conv2d(np.ones((2, 3, 3, 4)), (3, 7, 9), stride=stride, padding=padding, spiking=False)
    fan = input_fan_out(SpikingNetwork((conv,)))
    assert dense_macs([conv]) == fan.sum()


def test_a_plain_network_multiplies_once_and_its_poolings_cost_nothing() -> None:
    network = pixels().network
    shapes = [layer.weight.size for layer in network.layers if isinstance(layer, Dense)]
    (conv,) = [layer for layer in network.layers if isinstance(layer, Conv2d)]
    one = SpikingNetwork((replace(conv, weight=np.ones_like(conv.weight), spiking=False),))
    assert dense_macs(network.layers) == sum(shapes) + int(input_fan_out(one).sum())
    assert dense_macs(SMALL.layers) == 8


def test_sparsity_of_activations_is_over_all_layers_at_once() -> None:
    wide, narrow = Dense(np.ones((6, 1))), Dense(np.ones((2, 6)), v_threshold=100.0)
    network = SpikingNetwork((wide, narrow, Dense(np.ones((1, 2)), spiking=False)))
    recording = simulate(network, np.ones((3, 2, 1)))
    assert [counts.mean() for counts in recording.counts] == [3, 0]
    assert activation_sparsity(recording) == pytest.approx(1 - 6 / 8)
    tally = Tally()
    tally.add(recording)
    assert tally.activation_sparsity() == pytest.approx(activation_sparsity(recording))


def test_sparsity_of_connections_counts_recurrent_weights() -> None:
    assert connection_sparsity(SMALL) == 2 / 8
    loop = Dense(np.ones((2, 2)), recurrent=np.eye(2), spiking=True)
    assert connection_sparsity(SpikingNetwork((loop,))) == 2 / 8


def test_the_footprint_is_every_number_and_the_state() -> None:
    weights, biases, parameters, potentials = 8, 4, 6, 4
    assert footprint(SMALL) == 4 * (weights + biases + parameters + potentials)
    assert footprint(SMALL, weight_bits=9) == 9 + 4 * (biases + parameters + potentials)
    rich = Dense(
        np.ones((3, 2)),
        recurrent=np.ones((3, 3)),
        decay=[0.5, 0.25, 1.0],
        delay_steps=2,
        refractory_steps=4,
        current_decay=0.5,
        adaptation=0.25,
        adaptation_decay=0.5,
    )
    numbers = 6 + 3 + 9 + (3 + 1 + 1) + (1 + 1 + 1) + 3 * 3  # the last: v, current, threshold
    assert footprint(SpikingNetwork((rich,))) == 4 * numbers + 3 * (2 + 1)


def test_a_tally_is_the_mean_over_all_decisions() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 2))
    parts = [held(rows[:1], 8), held(rows[1:], 8)]
    tally = Tally()
    for drive in parts:
        tally.add(simulate(SMALL, drive), drive)
    whole = operations(simulate(SMALL, held(rows, 8)), SMALL, held(rows, 8))
    assert tally.operations(SMALL) == whole


@pytest.mark.parametrize("name", AGENTS)
def test_a_policy_hands_out_what_entered_the_network(name: str) -> None:
    agent = AGENTS[name]()
    n_envs = 4 if agent.stateful else 3  # the rest of a batch goes in pieces
    with HardwarePolicy(agent, "reference", n_envs=n_envs, seed=0) as policy:
        assert policy.drive is None
        policy.predict(observations(agent, 4))
        assert policy.drive is not None
        assert policy.recording is not None
        assert policy.drive.shape == (agent.sim_steps, 4, agent.network.n_in)
        if not agent.stateful:
            again = simulate(agent.network, policy.drive)
            for ours, theirs in zip(policy.recording.counts, again.counts, strict=True):
                assert np.array_equal(ours, theirs)
        found = operations(policy.recording, agent.network, policy.drive)
        assert found.effective_acs + found.effective_macs <= found.dense


def test_drives_of_another_network_or_none_are_refused() -> None:
    recording = simulate(SMALL, np.ones((2, 1, 2)))
    with pytest.raises(ShapeError, match="the drive has 3 inputs, the network 2"):
        operations(recording, SMALL, np.ones((2, 1, 3)))
    tally = Tally()
    with pytest.raises(SpikerlError, match="no decision"):
        tally.activation_sparsity()
    tally.add(recording, np.ones((2, 1, 2)))
    tally.add(recording)  # one that was not seen makes the rest worthless
    tally.add(recording, np.ones((2, 1, 2)))
    with pytest.raises(SpikerlError, match="give add"):
        tally.operations(SMALL)
    assert tally.decisions == 3


# --- as NeuroBench does it ------------------------------------------------------------------------


@pytest.fixture
def neurobench() -> Any:
    pytest.importorskip("snntorch")
    pytest.importorskip("neurobench")
    from neurobench.metrics import static, workload

    return static, workload


def test_neurobench_counts_the_same(neurobench: Any) -> None:
    static, workload = neurobench
    import snntorch
    import torch
    from neurobench.models import SNNTorchModel

    from spikerl.importers import from_snntorch

    torch.manual_seed(0)
    leaky = {"beta": 0.5, "init_hidden": True}
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 10),
        snntorch.Leaky(**leaky),
        torch.nn.Linear(10, 7),
        snntorch.Leaky(**leaky),
        torch.nn.Linear(7, 2),
        snntorch.Leaky(**leaky, output=True),
    )
    with torch.no_grad():
        for layer in net[::2]:
            layer.weight.mul_(8)
            layer.weight[torch.rand_like(layer.weight) < 0.25] = 0
        net[4].weight.abs_()  # so that the last ones fire
    network = from_snntorch(net)
    rng = np.random.default_rng(0)
    for spikes in (False, True):
        rows = rng.normal(size=(5, 3)).astype(np.float32)
        drive = held(rows, 20) if not spikes else (rng.random((20, 5, 3)) < 0.4).astype(float)
        recording = simulate(network, drive)
        assert all(counts.any() for counts in recording.counts)
        ours = operations(recording, network, drive)

        model = SNNTorchModel(net)
        model.register_hooks()
        data = torch.as_tensor(np.ascontiguousarray(drive), dtype=torch.float32).transpose(0, 1)
        out = model(data)
        assert out.sum() == recording.counts[-1].sum()  # the same spikes
        theirs = workload.SynapticOperations()(model, out, (data, None))
        # their reset in the next step is a recurrent weight here, which they do not count
        loops = [layer.recurrent_weight for layer in network.neuron_layers]
        extra = sum(
            float((counts @ (loop != 0).sum(axis=0)).mean())
            for counts, loop in zip(recording.counts, loops, strict=True)
            if loop is not None
        )
        more = 20 * sum(loop.size for loop in loops if loop is not None)
        assert ours.effective_macs == pytest.approx(theirs["Effective_MACs"])
        assert ours.effective_acs - extra == pytest.approx(theirs["Effective_ACs"])
        assert ours.dense - more == pytest.approx(theirs["Dense"])
        assert ours.effective_macs == 0 if spikes else ours.effective_macs > 0
        sparsity = workload.ActivationSparsity()(model, out, (data, None))
        assert activation_sparsity(recording) == pytest.approx(sparsity)
        model.cleanup_hooks()
    plain = SpikingNetwork(tuple(replace(layer, recurrent=None) for layer in network.neuron_layers))
    wanted = static.ConnectionSparsity()(model)
    assert connection_sparsity(plain) == pytest.approx(wanted, abs=1e-4)
    numbers = static.Footprint()(SNNTorchModel(torch.nn.Sequential(*net[::2])))
    beside = 4 * sum(
        layer.n_out + layer.decay.size + layer.v_threshold.size + layer.v_init.size
        for layer in plain.neuron_layers
    )
    assert footprint(plain) - beside == numbers
