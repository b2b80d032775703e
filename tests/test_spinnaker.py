"""The SpiNNaker back end on a module that records its calls and computes as the chips do."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_spynnaker import ONE, FakeSpynnaker, Population

from spikerl.backends import spinnaker_config as settings
from spikerl.backends.spinnaker import SpinnakerBackend, SpinnakerSession, open_session
from spikerl.backends.spinnaker_plan import (
    MAX_STEPS,
    READOUT_INPUT,
    SPIKING_INPUT,
    effective,
    plan,
)
from spikerl.bench import random_network
from spikerl.errors import BackendError, SessionClosed, UnsupportedNetwork
from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, SpikingNetwork
from spikerl.reference import simulate

ZOO = Path(__file__).parent.parent / "zoo" / "agents" / "dqn" / "CartPole-v1_1"
BOARD = settings.Board("10.0.0.1", "here.cfg", {"Machine": {"machine_name": "10.0.0.1"}})


def sixteenths(rng: np.random.Generator, *shape: int, low: int = -12, high: int = 12) -> Any:
    return rng.integers(low, high + 1, shape) / 16


def dense(rng: np.random.Generator, n_out: int, n_in: int, **fields: Any) -> Dense:
    fields = {"reset": "zero", "delay_steps": 1, **fields}
    return Dense(sixteenths(rng, n_out, n_in), bias=sixteenths(rng, n_out, high=16), **fields)


def small(seed: int = 0, **fields: Any) -> SpikingNetwork:
    rng = np.random.default_rng(seed)
    return SpikingNetwork(
        (
            dense(rng, 9, 4, v_threshold=sixteenths(rng, 9, low=8, high=20), **fields),
            dense(rng, 7, 9, v_init=0.25, **fields),
            Dense(sixteenths(rng, 3, 7), bias=sixteenths(rng, 3), spiking=False),
        )
    )


def recurrent() -> SpikingNetwork:
    rng = np.random.default_rng(1)
    loops = [sixteenths(rng, n, n, low=-6, high=4) for n in (9, 7)]
    first, second, last = small(2).layers
    layers = [replace(x, recurrent=u) for x, u in zip((first, second), loops, strict=True)]
    return SpikingNetwork((*layers, last))


def convolutional() -> SpikingNetwork:
    rng = np.random.default_rng(3)
    fields: dict[str, Any] = {"reset": "zero", "delay_steps": 1}
    one = Conv2d(
        sixteenths(rng, 3, 2, 2, 2), (2, 5, 6), bias=sixteenths(rng, 3), padding=(1, 0), **fields
    )
    pool = AvgPool2d(one.output_shape, (2, 2))
    two = Conv2d(sixteenths(rng, 4, 3, 2, 1), pool.output_shape, **fields)
    return SpikingNetwork(
        (one, pool, two, Flatten(two.output_shape), dense(rng, 5, two.n_out, spiking=True))
    )


def real_valued() -> SpikingNetwork:
    return SpikingNetwork(
        tuple(
            replace(layer, reset="zero", delay_steps=int(layer.spiking))
            for layer in random_network("8-64-64-4").layers
        )
    )


def constant(network: SpikingNetwork, rows: int, steps: int = 60, seed: int = 5) -> Any:
    x = sixteenths(np.random.default_rng(seed), rows, network.n_in, low=-16, high=24)
    return np.broadcast_to(x, (steps, rows, network.n_in))


def opened(network: SpikingNetwork, sim: FakeSpynnaker, rows: int = 1) -> SpinnakerSession:
    return open_session(network, rows, BOARD, lambda: sim)


# --- the network on the chip --------------------------------------------------------------------


@pytest.mark.parametrize(
    "network",
    [small(), small(4, refractory_steps=2), recurrent(), convolutional()],
    ids=["dense", "refractory", "recurrent", "convolutional"],
)
def test_the_chips_arithmetic_gives_the_spikes_of_the_reference(network: SpikingNetwork) -> None:
    drive = constant(network, 3)
    with opened(network, FakeSpynnaker(), rows=4) as session:
        got, want = session.run(drive, record_spikes=True), simulate(session.network, drive)
        again = session.run(drive)
    ideal = simulate(network, drive)
    assert got.spikes is not None
    assert want.spikes is not None
    assert ideal.spikes is not None
    assert all(spikes.sum() > 20 for spikes in want.spikes)
    for ours, theirs, asked in zip(got.spikes, want.spikes, ideal.spikes, strict=True):
        assert np.array_equal(ours, theirs)
        assert np.array_equal(theirs, asked)  # sixteenths need no rounding
    for ours, once_more in zip(got.counts, again.counts, strict=True):
        assert np.array_equal(ours, once_more)
    if not network.readout.spiking:
        assert np.array_equal(got.potential, want.potential)
    assert got.potentials[0] is None


def test_rounding_of_real_numbers_changes_few_spikes() -> None:
    network = real_valued()
    rng = np.random.default_rng(0)
    drive = np.broadcast_to(rng.standard_normal((5, 8)), (100, 5, 8))
    with opened(network, FakeSpynnaker(), rows=5) as session:
        got, want = session.run(drive), simulate(session.network, drive)
    for ours, theirs in zip(got.counts, want.counts, strict=True):
        assert theirs.sum() > 1000
        assert np.abs(ours - theirs).sum() <= 0.02 * theirs.sum()  # a spike may come a step later
    assert np.array_equal(got.potential.argmax(axis=1), want.potential.argmax(axis=1))


def test_the_calls_and_their_order_are_what_spynnaker_needs() -> None:
    sim, network = FakeSpynnaker(), small()
    planned = plan(network)
    session = opened(network, sim, rows=2)
    session.run(constant(network, 2, steps=10))
    session.run(constant(network, 2, steps=20, seed=6))
    session.close()
    names = [call[0] for call in sim.calls]
    built = ["setup", "Population", *["Population", "Projection", "Projection"] * 2]
    assert names[: len(built)] == built
    assert sim.calls[0] == (
        "setup",
        {"timestep": 1.0, "min_delay": 1.0, "time_scale_factor": None},
    )
    assert [call[1:] for call in sim.calls if call[0] == "Population"] == [
        ("layer 0", 18, "IF_curr_delta"),
        ("layer 1", 14, "IF_curr_delta"),
        ("layer 2", 6, "IFTruncDelta"),
    ]
    weight = network.layers[1].weight
    assert [call[1:] for call in sim.calls if call[0] == "Projection"][:2] == [
        ("layer 0", "layer 1", "excitatory", 2 * (weight > 0).sum()),
        ("layer 0", "layer 1", "inhibitory", 2 * (weight < 0).sum()),
    ]
    assert [call[1:] for call in sim.calls if call[0] == "record"] == [
        ("layer 0", ["spikes"]),
        ("layer 1", ["spikes"]),
        ("layer 2", ["v"]),
    ]
    decision = ["set", "run", "get_data", "get_data", "get_data"]
    assert names[len(built) + 3 :] == [*decision, "reset", *decision, "reset", *decision, "end"]
    assert [call[1] for call in sim.calls if call[0] == "run"][1:] == [11.0, 21.0]
    sent = [call[2]["i_offset"] for call in sim.calls if call[0] == "set"][-1]
    x = constant(network, 2, seed=6)[0]
    wanted = network.layers[0].apply(x) * planned.layers[0].scale
    assert np.array_equal(sent, wanted.reshape(-1))


def test_parameters_are_in_the_chips_units() -> None:
    sim, network = FakeSpynnaker(), small()
    with opened(network, sim):
        first, second, last = (p.model.values for p in sim.populations)
    planned = plan(network)
    assert (first["tau_m"], first["cm"], first["v_rest"], first["v_reset"]) == (
        32768.0,
        2.0,
        -0.25,
        0.0,
    )
    assert np.array_equal(
        first["v_thresh"] / planned.layers[0].scale, network.layers[0].v_threshold
    )
    assert np.array_equal(second["i_offset"] / planned.layers[1].scale, network.layers[1].bias)
    assert np.array_equal(sim.populations[1].initial / planned.layers[1].scale, np.full(7, 0.25))
    assert (last["tau_m"], last["cm"]) == (1.0, 1.0)
    assert last["v_thresh"] > MAX_STEPS * READOUT_INPUT
    assert last["v_reset"] < -MAX_STEPS * READOUT_INPUT


def test_no_weight_reaches_a_projection_with_its_sign_and_none_is_lost() -> None:
    for network in (small(), recurrent(), convolutional(), real_valued()):
        planned = plan(network)
        made = effective(planned)
        for layer, original in zip(made.neuron_layers[1:], network.neuron_layers[1:], strict=True):
            assert (np.sign(layer.weight) == np.sign(original.weight)).mean() > 0.99
        for here in planned.layers:
            for projection in here.projections:
                assert all((c.weights > 0).all() for _, _, c in projection.signs)


def test_all_senders_at_once_overflow_nothing() -> None:
    rng = np.random.default_rng(7)
    weight = rng.uniform(0.5, 40.0, (6, 200))
    network = SpikingNetwork(
        (
            Dense(np.ones((200, 1)), reset="zero", delay_steps=1),
            Dense(np.concatenate([weight, -weight]), reset="zero", delay_steps=1),
            Dense(rng.uniform(-9, 9, (2, 12)), bias=[50.0, -70.0], spiking=False),
        )
    )
    drive = np.full((300, 1, 1), 5.0)
    with opened(network, FakeSpynnaker()) as session:
        got, want = session.run(drive), simulate(session.network, drive)
    assert got.counts[0].min() == 300
    assert np.array_equal(got.counts[1], want.counts[1])
    gap = np.abs(got.potential - want.potential)
    assert gap.max() < 1e-6 * np.abs(want.potential).max()


def test_currents_beyond_every_range_give_the_spikes_they_should() -> None:
    network = recurrent()
    x = np.array([[3e7, -1e9, 2e8, 5e6], [-4e8, 1e6, 1e3, -2e4]])
    drive = np.broadcast_to(x, (40, 2, 4))
    with opened(network, FakeSpynnaker(), rows=2) as session:
        got, want = session.run(drive, record_spikes=True), simulate(session.network, drive)
    assert got.spikes is not None
    assert want.spikes is not None
    assert {0, 40} <= set(want.counts[0].ravel().tolist())
    assert all(np.array_equal(a, b) for a, b in zip(got.spikes, want.spikes, strict=True))


def test_a_neuron_that_hears_far_more_than_its_threshold_does_not_fire_at_rest() -> None:
    network = SpikingNetwork(
        (
            Dense(np.eye(2), reset="zero", delay_steps=1),
            Dense([[4e5, 4e5], [0.5, 0.25]], reset="zero", delay_steps=1),
        )
    )
    with opened(network, FakeSpynnaker()) as session:
        assert not session.run(np.zeros((20, 1, 2))).counts[1].any()
        counts = session.run(np.ones((21, 1, 2))).counts[1]
    assert counts.tolist() == [[20, 10]]


def test_inputs_stay_in_the_range_their_model_has() -> None:
    for network in (small(), recurrent(), convolutional(), real_valued()):
        for here in plan(network).layers:
            room = SPIKING_INPUT if here.layer.spiking else READOUT_INPUT
            assert max(here.sums) <= room
            assert (np.log2(here.scale) == np.round(np.log2(here.scale))).all()


# --- what is refused ----------------------------------------------------------------------------


def test_what_the_board_cannot_do_is_refused_with_every_reason() -> None:
    network = SpikingNetwork(
        (
            Dense(np.eye(2), decay=0.5, refractory_steps=70_000),
            Dense(np.eye(2), reset="zero", delay_steps=2, v_threshold=1e6),
            Dense(np.eye(2), spiking=False, v_min=-1.0),
        )
    )
    with pytest.raises(UnsupportedNetwork) as caught:
        SpinnakerBackend().compile(network)
    text = str(caught.value)
    for reason in (
        "layer 0: reset='subtract'",
        "layer 0: decay < 1",
        "layer 0: refractory_steps is 70000, 16.15 fixed point holds at most 65536",
        "layer 1: delay_steps must be at most 1",
        "layer 1: 2 neurons, neuron 0 the first, have weights too small beside their threshold",
        "v_min is not supported",
        "delay_steps must be at least 1",
    ):
        assert reason in text


def test_a_drive_that_changes_is_refused_with_the_encoder_to_use() -> None:
    network = small()
    drive = np.zeros((4, 1, 4))
    drive[2] = 1.0
    with opened(network, FakeSpynnaker()) as session:
        with pytest.raises(BackendError, match=r"changes from step to step.*encoder='constant'"):
            session.run(drive)
        with pytest.raises(BackendError, match=f"found {MAX_STEPS + 1} steps"):
            session.run(np.zeros((MAX_STEPS + 1, 1, 4)))
        session.run(np.zeros((3, 1, 4)))


def test_unknown_options_are_named() -> None:
    with pytest.raises(BackendError, match="no option speed; it has config, time_scale_factor"):
        SpinnakerBackend().compile(small(), speed=2)


class OtherGain(FakeSpynnaker):
    """Chips whose exp rounds to the nearest: the input counts half."""

    def run(self, ms: float) -> None:
        for population in self.populations:
            start = population.start

            def slower(start: Any = start, population: Population = population) -> None:
                start()
                population.decay = np.where(population.decay == ONE - 2, ONE - 1, population.decay)

            population.start = slower  # type: ignore[method-assign]
        super().run(ms)


def test_a_board_that_computes_something_else_fails_the_self_test(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="failed its self-test: the first layer fired"):
        opened(small(), OtherGain())
    opened(small(), FakeSpynnaker()).close()  # and gave its place back


# --- sessions -----------------------------------------------------------------------------------


def test_a_second_session_is_refused_while_the_first_goes_on() -> None:
    with opened(small(), FakeSpynnaker()) as session:
        with pytest.raises(BackendError, match="one simulator per process"):
            opened(small(), FakeSpynnaker())
        session.run(constant(small(), 1))
    opened(small(), FakeSpynnaker()).close()


def test_closing_ends_once_and_removes_the_files() -> None:
    sim = FakeSpynnaker()
    session = opened(small(), sim)
    folder = session._files.path
    assert (folder / ".spynnaker.cfg").is_file()
    session.close()
    session.close()
    assert not folder.exists()
    assert [call[0] for call in sim.calls].count("end") == 1
    with pytest.raises(SessionClosed):
        session.run(constant(small(), 1))


def test_a_board_that_does_not_answer_is_named() -> None:
    with pytest.raises(
        BackendError,
        match=r"on the board 10\.0\.0\.1 \(from here\.cfg\): OSError: no answer; check",
    ):
        opened(small(), FakeSpynnaker(fail="no answer"))
    opened(small(), FakeSpynnaker()).close()


def test_a_failure_later_closes_the_session() -> None:
    sim = FakeSpynnaker()
    session = opened(small(), sim)
    sim.fail = "cable out"
    with pytest.raises(BackendError, match="cable out"):
        session.run(constant(small(), 1))
    assert session.closed


def test_a_board_without_data_is_an_error_and_not_a_decision() -> None:
    with pytest.raises(BackendError, match="may name a virtual board"):
        opened(small(), FakeSpynnaker(virtual=True))


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with opened(small(), FakeSpynnaker()) as session:
        session.run(constant(small(), 1))
    assert capfd.readouterr().out == ""


def test_recordings_of_earlier_decisions_are_removed() -> None:
    with opened(small(), FakeSpynnaker()) as session:
        folder = session._files.path / "reports" / "now" / "run_1"
        folder.mkdir(parents=True)
        for i, name in enumerate(("data", "data1", "data2")):
            file = folder / f"{name}.sqlite3"
            file.touch()
            os.utime(file, (i, i))
        (folder / "ds.sqlite3").touch()
        session.run(constant(small(), 1))
        assert sorted(f.name for f in folder.iterdir()) == ["data2.sqlite3", "ds.sqlite3"]
