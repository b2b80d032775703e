"""Loihi's emulator does what its effective network says, spike for spike."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spikerl
from spikerl import backends
from spikerl.backends.loihi import BoardBackend, EmulatorBackend, FloatBackend
from spikerl.backends.loihi_session import EmulatorSession
from spikerl.bench import random_network
from spikerl.errors import BackendError, ShapeError, UnsupportedNetwork
from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, Recording, SpikingNetwork
from spikerl.reference import simulate
from spikerl.testing import parametrize_with_checks

pytest.importorskip("nengo_loihi")
ZOO = Path(__file__).parent.parent / "zoo" / "agents" / "dqn" / "CartPole-v1_1"
Z: dict[str, Any] = {"reset": "zero", "delay_steps": 1}


def network(net: str, first: str = "zero") -> SpikingNetwork:
    layers: list[Any] = [
        replace(layer, **Z) if layer.spiking else layer for layer in random_network(net).layers
    ]
    layers[0] = replace(layers[0], reset=first)
    return SpikingNetwork(tuple(layers))


def assert_equal(got: Recording, want: Recording, error: float) -> None:
    assert got.spikes is not None
    assert want.spikes is not None
    for a, b in zip(got.spikes, want.spikes, strict=True):
        assert np.array_equal(a, b)
    for v, w in zip(got.potentials, want.potentials, strict=True):
        assert v is not None
        assert np.abs(v - w).max() <= error


def runs_as_its_network(
    backend: EmulatorBackend, tested: SpikingNetwork, drive: Any, error: float, **options: Any
) -> Recording:
    """The session's recording, equal to the reference on its effective network."""
    with backend.compile(tested, batch_size=drive.shape[1], **options) as session:
        got = session.run(drive, record_spikes=True)
        assert_equal(got, simulate(session.network, drive), error)
    return got


@parametrize_with_checks([EmulatorBackend("chip"), FloatBackend("chip")])
def test_the_chip_alone_keeps_the_contract(backend: Any, check: Any) -> None:
    check(backend)


@pytest.mark.parametrize("first", ["subtract", "zero"])
@pytest.mark.parametrize("net", ["4-16-16-2", "8-64-64-4", "5-40-30-20-3"])
def test_every_spike_of_the_integers_is_the_effective_networks(net: str, first: str) -> None:
    tested = network(net, first)
    drive = np.broadcast_to(
        np.random.default_rng(0).normal(size=(1, 10, tested.n_in)), (100, 10, tested.n_in)
    )
    got = runs_as_its_network(EmulatorBackend(), tested, drive, 1e-10)
    assert all(counts.sum() > 400 for counts in got.counts)


def test_floats_are_the_networks_own_to_float32() -> None:
    tested = network("8-64-64-4", "subtract")
    drive = np.random.default_rng(1).normal(size=(100, 4, tested.n_in))
    runs_as_its_network(FloatBackend(), tested, drive, 1e-4)
    with FloatBackend().compile(tested) as session:
        for ours, asked in zip(session.network.neuron_layers, tested.neuron_layers, strict=True):
            assert np.abs(ours.weight - asked.weight).max() < 1e-6  # type: ignore[attr-defined]


def test_the_effective_network_is_what_the_emulator_holds() -> None:
    """Read back from the blocks that were built: weights, biases, thresholds and the floor."""
    tested = network("6-30-25-20-3")
    with EmulatorBackend().compile(tested, block_shapes={1: 10}) as session:
        assert isinstance(session, EmulatorSession)
        assert session._chip is not None
        for k, (layer, blocks) in enumerate(
            zip(session.plan.chip, session._chip.blocks, strict=True)
        ):
            effective: Any = session.network.layers[layer.layer]
            unit = layer.numbers.unit
            assert unit is not None
            assert len(blocks) == (3 if k == 0 else 1)
            sources = [session._chip.entry] if k == 0 else session._chip.blocks[k - 1]
            places = [np.arange(30)] if k == 0 else session.plan.chip[k - 1].blocks
            for neurons, block in zip(layer.blocks, blocks, strict=True):
                weight = np.zeros((len(neurons), effective.n_in))
                for source, place in zip(sources, places, strict=True):
                    for axon in source.axons:
                        if axon.target not in block.synapses:
                            continue
                        for sender, target in enumerate(axon.compartment_map):
                            if target >= 0:
                                w, i = axon.target.axon_weights_indices(target)
                                weight[i, place[sender]] += w
                cells = block.compartment
                assert np.allclose(weight * unit, effective.weight[neurons], rtol=1e-12, atol=0)
                assert np.allclose(cells.bias * unit, effective.bias[neurons], rtol=1e-12, atol=0)
                assert np.all((cells.vth + 0.5) * unit == effective.v_threshold[neurons])
                assert cells.vmin * unit == effective.v_min


def test_weights_are_off_by_at_most_half_a_step_of_their_eight_bits() -> None:
    tested = network("8-64-64-4")
    made = EmulatorBackend().plan(tested).network.layers[1]
    asked: Any = tested.layers[1]
    largest = np.abs(asked.weight).max()
    assert np.abs(made.weight - asked.weight).max() <= 0.5001 * largest / 127  # type: ignore[union-attr]
    assert np.abs(made.v_threshold - 1).max() < 0.002  # type: ignore[union-attr]
    assert np.abs(made.bias - asked.bias).max() < 1e-3  # type: ignore[union-attr]


def test_multiples_of_a_power_of_two_are_kept_exactly() -> None:
    weight = np.random.default_rng(2).integers(-64, 65, (8, 6)) / 64
    tested = SpikingNetwork((Dense(np.eye(6), **Z), Dense(weight, np.arange(8) / 8, **Z)))
    made: Any = EmulatorBackend().plan(tested).network.layers[1]
    assert np.array_equal(made.weight, weight)
    assert np.array_equal(made.bias, np.arange(8) / 8)


def test_short_mantissas_are_used_where_many_equal_weights_add_up() -> None:
    tested = SpikingNetwork((Dense(np.eye(900), **Z), Dense(np.ones((1, 900)) / 4, **Z)))
    drive = np.zeros((3, 1, 900))
    drive[0] = 1
    got = runs_as_its_network(EmulatorBackend(), tested, drive, 0.0)
    assert got.counts[1].item() == 1
    made: Any = EmulatorBackend().plan(tested).network.readout
    assert np.array_equal(made.weight, np.full((1, 900), 0.25))


def test_a_spike_of_the_host_reaches_the_chip_one_step_later_and_the_next_layer_another() -> None:
    one = Dense([[1.0]], **Z)
    tested = SpikingNetwork((one, one, one, Dense([[1.0]], spiking=False)))
    drive = np.zeros((6, 1, 1))
    drive[0] = 1
    got = runs_as_its_network(EmulatorBackend(), tested, drive, 0.0)
    assert got.spikes is not None
    assert [int(np.argmax(s[:, 0, 0])) for s in got.spikes] == [0, 1, 2]
    assert all(s.sum() == 1 for s in got.spikes)
    assert got.potential is not None
    assert got.potential.item() == 1.0


def test_recurrent_and_resting_neurons_run_on_the_chip() -> None:
    rng = np.random.default_rng(3)
    hidden = Dense(
        rng.normal(0.1, 0.4, (20, 12)),
        rng.normal(0.05, 0.05, 20),
        recurrent=rng.normal(0, 0.1, (20, 20)),
        refractory_steps=3,
        v_init=rng.uniform(-0.5, 0.5, 20),
        **Z,
    )
    tested = SpikingNetwork(
        (Dense(rng.normal(0, 1, (12, 4)), **Z), hidden, Dense(np.ones((1, 20)), spiking=False))
    )
    drive = rng.normal(size=(80, 5, 4))
    for backend in (EmulatorBackend(), EmulatorBackend("host")):
        got = runs_as_its_network(backend, tested, drive, 1e-10, block_shapes={1: 7})
        assert got.counts[1].sum() > 100


def test_maps_run_on_the_chip_in_blocks_of_rows_columns_and_channels() -> None:
    rng = np.random.default_rng(4)
    first = Conv2d(rng.normal(0.1, 0.4, (3, 1, 3, 3)), (1, 8, 8), **Z)
    pool = AvgPool2d(first.output_shape, (2, 2), (1, 1))
    second = Conv2d(
        rng.normal(0.1, 0.3, (4, 3, 2, 2)), pool.output_shape, rng.normal(0, 0.1, 4), **Z
    )
    flat = Flatten(second.output_shape)
    tested = SpikingNetwork(
        (first, pool, second, flat, Dense(rng.normal(size=(3, flat.n_out)), spiking=False))
    )
    drive = rng.uniform(0, 1, (40, 2, 64))
    for shape, cores in ((None, 1), ((2, 2, 4), 2 * 2 * 1), (30, 3)):
        options = {} if shape is None else {"block_shapes": {2: shape}}
        assert len(EmulatorBackend().plan(tested, **options).resources.cores) == cores
        got = runs_as_its_network(EmulatorBackend(), tested, drive, 1e-10, **options)
        assert got.counts[1].sum() > 50


@pytest.mark.parametrize("net", ["8-64-64-4", "8-400-300-4", "4-50-40-30-2"])
def test_a_plan_knows_before_any_run_what_nengo_loihi_counts_afterwards(net: str) -> None:
    tested = network(net)
    planned = EmulatorBackend().plan(tested).resources
    with EmulatorBackend().compile(tested) as session:
        assert isinstance(session, EmulatorSession)
        assert session.resources().cores == planned.cores
        assert session._chip is not None
        blocks = [block for layer in session._chip.blocks for block in layer]
        for core, block in zip(planned.cores, blocks, strict=True):
            counted = [used for used, _ in block.utilization().values()]
            assert counted == [
                core.use[name]
                for name in ("compartments", "input axons", "output axons", "synapse bits")
            ]
    assert f"{len(blocks)} cores" in str(planned)
    worst = planned.worst
    assert worst is not None
    assert f"{worst.fullest[1]:.1%} of its" in str(planned)
    assert planned.total("compartments") + planned.host == sum(
        layer.n_out for layer in tested.neuron_layers
    )


def test_what_does_not_fit_is_refused_with_numbers() -> None:
    wide = SpikingNetwork((Dense(np.full((4200, 1), 0.5), **Z), Dense(np.ones((2, 4200)), **Z)))
    with pytest.raises(UnsupportedNetwork, match="4200 input axons, at most 4096 fit"):
        EmulatorBackend().compile(wide)
    tested = network("8-512-512-4")
    with pytest.raises(UnsupportedNetwork, match=r"512 of its 512 neurons needs 2359296 synapse"):
        EmulatorBackend().compile(tested, block_shapes={1: 512})
    spread = SpikingNetwork((Dense(np.eye(2), **Z), Dense([[1.0, 100.0]], v_threshold=2e5, **Z)))
    with pytest.raises(UnsupportedNetwork, match=r"thresholds of .* fit beside these weights"):
        EmulatorBackend().compile(spread)
    weight = np.random.default_rng(9).uniform(0.5, 1, (1, 900))
    loud = SpikingNetwork((Dense(np.ones((900, 1)), **Z), Dense(weight, **Z)))
    with pytest.raises(UnsupportedNetwork, match=r"add up to \d+, at most 2097151 fit"):
        EmulatorBackend().compile(loud)
    many = replace(tested.layers[1], v_threshold=np.linspace(0.5, 1, 512))
    uneven = SpikingNetwork((tested.layers[0], many, tested.layers[2]))
    cores = EmulatorBackend().plan(uneven).resources.cores
    assert len(cores) > 1
    assert max(core.use["thresholds"] for core in cores) <= 7
    with pytest.raises(UnsupportedNetwork, match="needs 128 thresholds, at most 7 fit"):
        EmulatorBackend().compile(uneven, block_shapes={1: 128})


def test_wrong_options_are_refused() -> None:
    tested = network("4-16-16-2")
    for shapes, message in (
        ({0: 8}, r"block_shapes names layers \[0\]; on the chip are \[1\]"),
        ({1: 17}, "block shape 17, wanted a number of neurons from 1 to 16"),
        ({1: (4, 4)}, r"block shape \(4, 4\)"),
    ):
        with pytest.raises(UnsupportedNetwork, match=message):
            EmulatorBackend().compile(tested, block_shapes=shapes)
    with pytest.raises(BackendError, match="membrane is 'flat', wanted one of signed, positive"):
        EmulatorBackend().compile(tested, membrane="flat")
    with pytest.raises(BackendError, match="first_layer is 'cloud'"):
        EmulatorBackend("cloud")
    with (
        EmulatorBackend("chip").compile(network("4-16-16-2")) as session,
        pytest.raises(ShapeError, match="the drive must be 0 and 1"),
    ):
        session.run(np.full((2, 1, 4), 0.5))


def test_only_the_first_layer_may_reset_by_subtraction() -> None:
    tested = network("4-16-16-2", "subtract")
    assert EmulatorBackend().problems(tested) == []
    assert len(EmulatorBackend("chip").problems(tested)) == 1
    both = SpikingNetwork(
        tuple(replace(x, reset="subtract") if x.spiking else x for x in tested.layers)
    )
    (problem,) = EmulatorBackend().problems(both)
    assert problem == "layer 1: reset='subtract' is not supported, only zero"


def test_a_positive_membrane_forgets_inhibition_and_its_network_says_so() -> None:
    tested = SpikingNetwork((Dense(np.eye(2), **Z), Dense([[0.75, -1.5]], **Z)))
    drive = np.array([[[0, 1]], [[1, 0]], [[1, 0]], [[1, 0]], [[0, 0]]], dtype=float)
    for backend in (EmulatorBackend(), FloatBackend()):
        signed = runs_as_its_network(backend, tested, drive, 1e-10)
        floored = runs_as_its_network(backend, tested, drive, 1e-10, membrane="positive")
        assert signed.counts[1].item() == 0
        assert floored.counts[1].item() == 1
        made = backend.plan(tested, membrane="positive")
        assert made.network.readout.v_min == 0
        below = SpikingNetwork((tested.layers[0], replace(tested.readout, v_init=-0.5)))
        with pytest.raises(UnsupportedNetwork, match="layer 1: v_init of -"):
            backend.compile(below, membrane="positive")


def test_a_reset_is_as_good_as_building_anew() -> None:
    tested = network("8-64-64-4", "subtract")
    rng = np.random.default_rng(5)
    for kind in (EmulatorBackend, FloatBackend):
        with kind().compile(tested, batch_size=2) as used:
            for _ in range(5):
                used.run(rng.normal(size=(37, 2, 8)))
            used.reset()
            drive = rng.normal(size=(60, 2, 8))
            again = used.run(drive, record_spikes=True)
        with kind().compile(tested, batch_size=2) as fresh:
            assert_equal(again, fresh.run(drive, record_spikes=True), 0.0)


def test_a_thousand_decisions_add_no_memory() -> None:
    drive = np.ones((4, 1, 4))
    with EmulatorBackend().compile(network("4-16-16-2")) as session:

        def decide(times: int) -> int:
            for _ in range(times):
                session.reset()
                session.run(drive, record_spikes=True)
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            before = decide(300)
            assert decide(1000) - before < 4000  # 4 bytes a decision: not even a number
        finally:
            tracemalloc.stop()


def test_rate_scales_are_part_of_the_effective_network() -> None:
    tested = network("8-64-64-4")
    drive = np.broadcast_to(np.random.default_rng(6).normal(size=(1, 20, 8)), (200, 20, 8))
    plain = runs_as_its_network(EmulatorBackend(), tested, drive, 1e-10)
    slow = runs_as_its_network(EmulatorBackend(), tested, drive, 1e-9, rate_scales=[0.5, 0.25])
    for k, factor in enumerate((0.5, 0.25)):
        assert slow.counts[k].sum() == pytest.approx(plain.counts[k].sum() * factor, rel=0.25)
    # what the spikes stand for is the same: the read-outs agree as far as rates can tell
    assert plain.potential is not None
    assert slow.potential is not None
    assert np.corrcoef(plain.potential.ravel(), slow.potential.ravel())[0, 1] > 0.95


def test_rate_scales_that_mean_nothing_are_refused() -> None:
    tested = network("4-16-16-2")
    for scales in ([1.0], [1.0, 0.0], [1.0, np.nan], [1, 1, 1]):
        with pytest.raises(ShapeError, match="wanted 2, one > 0 for each spiking layer"):
            EmulatorBackend().compile(tested, rate_scales=scales)
    counted = SpikingNetwork(tested.layers[:2])
    with pytest.raises(ShapeError, match="the last layer's spikes are the answer"):
        EmulatorBackend().compile(counted, rate_scales=[1.0, 0.5])


def test_an_agent_converted_for_the_chip_decides_there_as_its_network_does() -> None:
    agent = spikerl.convert(ZOO, target="loihi:emulator", sim_steps=32, n_calibration=1000)
    observations = np.random.default_rng(7).uniform(-0.2, 0.2, (12, 4)).astype(np.float32)
    with spikerl.HardwarePolicy(agent, "loihi:emulator", n_envs=4) as policy:
        values = policy.values(observations)
        effective = replace(agent, network=policy._session.network)
    with spikerl.HardwarePolicy(effective, "cpu", n_envs=4) as policy:
        assert np.abs(policy.values(observations) - values).max() < 1e-9


def test_a_board_needs_nxsdk_and_says_so() -> None:
    tested = network("4-16-16-2")
    state = backends.available()["loihi"]
    assert not state.usable
    assert "NxSDK is not installed" in str(state)
    with pytest.raises(BackendError, match=r"NxSDK is not installed.*'loihi:emulator' runs"):
        backends.get("loihi").compile(tested)
    started = SpikingNetwork(
        (tested.layers[0], replace(tested.layers[1], v_init=0.5), tested.layers[2])
    )
    (problem,) = BoardBackend().problems(started)
    assert "layer 1: v_init is not 0" in problem


def test_a_board_is_driven_as_the_emulator_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """nengo-loihi's emulator stands in for its hardware interface: they have the same methods."""
    from nengo_loihi import hardware
    from nengo_loihi.emulator import EmulatorInterface

    class Board(EmulatorInterface):  # type: ignore[misc]
        def __init__(self, model: Any, use_snips: bool, seed: int, n_chips: int) -> None:
            assert not use_snips
            assert n_chips >= 2
            with np.errstate(invalid="ignore"):
                super().__init__(model, seed=seed)

    monkeypatch.setattr(hardware, "HardwareInterface", Board)
    monkeypatch.setattr("spikerl.backends.loihi_board.missing", lambda: "")
    tested = network("8-40-30-20-3", "subtract")
    drive = np.random.default_rng(8).normal(size=(50, 3, 8))
    options: Any = {"batch_size": 3, "block_shapes": {1: 12, 2: 9}}
    with BoardBackend().compile(tested, **options) as board:
        first, second = (board.run(drive, record_spikes=True) for _ in range(2))
        want = simulate(board.network, drive)
    assert want.counts[2].sum() > 50
    for got in (first, second):
        for a, b in zip(got.spikes or (), want.spikes or (), strict=True):
            assert np.array_equal(a, b)
        assert got.potential is not None
        assert want.potential is not None
        assert np.abs(got.potential - want.potential).max() < 1e-12


def test_another_nengo_loihi_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import nengo_loihi

    monkeypatch.setattr(nengo_loihi, "__version__", "1.2.0")
    with pytest.raises(BackendError, match=r"found nengo-loihi 1\.2\.0, wanted 1\.1\.0"):
        EmulatorBackend().compile(network("4-16-16-2"))
