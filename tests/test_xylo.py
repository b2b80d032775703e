"""The back end "xylo": a network on a simulated chip, in whole numbers."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spikerl
from spikerl import backends
from spikerl.backends.xylo import XyloBackend
from spikerl.backends.xylo_chip import AUDIO_3
from spikerl.backends.xylo_dry_run import run
from spikerl.backends.xylo_host import sent
from spikerl.backends.xylo_plan import plan
from spikerl.errors import BackendError, UnsupportedNetwork
from spikerl.network import Dense, FloatArray, SpikingNetwork
from spikerl.reference import simulate

pytest.importorskip("xylosim", reason="xylosim is not installed")


def network(seed: int = 0, *, spiking: bool = False, loop: bool = False) -> SpikingNetwork:
    """4-24-24-3, in which few neurons are driven to more than a spike per step."""
    rng = np.random.default_rng(seed)
    layers, before = [], 4
    for after in (24, 24):
        layers.append(
            Dense(
                rng.normal(0, 0.6 / np.sqrt(before), (after, before)),
                rng.normal(0.02, 0.05, after),
                recurrent=rng.normal(0, 0.05, (after, after)) if loop and before == 24 else None,
                v_threshold=rng.uniform(0.8, 1.2, after),
                v_init=rng.uniform(0.0, 0.5, after),
                delay_steps=2,
            )
        )
        before = after
    weight = rng.normal(0, 0.3, (3, 24))
    last: dict[str, Any] = {"spiking": False, "v_init": [0.5, -1.0, 0.0]}
    if spiking:
        last = {"v_init": 0.5, "delay_steps": 2}
    return SpikingNetwork((*layers, Dense(weight, [0.1, 0.2, 0.3], **last)))


def drive(seed: int = 1, steps: int = 80, rows: int = 3) -> FloatArray:
    return np.random.default_rng(seed).normal(0, 1, (1, rows, 4)).repeat(steps, axis=0)


NETWORKS = {
    "read-out": network(),
    "spiking outputs": network(1, spiking=True),
    "recurrent": network(2, loop=True),
    "without a start": SpikingNetwork(
        (Dense(np.eye(4) / 3, delay_steps=2), Dense(np.ones((2, 4)) / 3, spiking=False))
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("backend", ["xylo", "xylo:audio3"])
def test_a_session_reads_what_the_integer_model_computes(name: str, backend: str) -> None:
    net = NETWORKS[name]
    with backends.get(backend).compile(net, batch_size=3) as session:
        gc.collect()  # synapses that nobody holds would be gone, and the core with them
        for seed in range(3):
            session.reset()
            found = session.run(drive(seed))
            _, wanted = run(session.plan, drive(seed))
            assert found.counts[0].sum() > 60
            for a, b in zip(found.counts, wanted.counts, strict=True):
                np.testing.assert_array_equal(a, b)
            for a, b in zip(found.potentials, wanted.potentials, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_effective_network_is_near_to_what_the_chip_does(name: str) -> None:
    with backends.get("xylo").compile(NETWORKS[name], batch_size=3) as session:
        found, wanted = session.run(drive()), simulate(session.network, drive())
    for a, b in zip(found.counts, wanted.counts, strict=True):
        assert np.abs(a - b).mean() / 80 < 0.02
        assert b.mean() / 80 > 0.02
    if not session.network.readout.spiking:
        spread = wanted.potential.std()
        assert np.abs(found.potential - wanted.potential).mean() < 0.15 * spread


def test_a_read_out_that_counts_past_16_bits_loses_nothing() -> None:
    """80 steps drive the outputs through their range many times, both ways."""
    steady = Dense(np.eye(4), delay_steps=2, v_threshold=1.0)
    net = SpikingNetwork((steady, Dense([[50.0, 0, 0, 0], [-50.0, 0, 0, 0]], spiking=False)))
    with backends.get("xylo").compile(net) as session:
        found = session.run(np.ones((400, 1, 4)))
        scale = session.plan.scales[-1][0]
    fired = found.counts[0][0, 0]
    assert 390 <= fired <= 400
    assert 50 * fired * scale > 4 * 2**15
    np.testing.assert_allclose(found.potential, [[50.0 * fired, -50.0 * fired]], atol=150)


def test_weights_are_held_to_nine_bits_and_read_outs_to_fifteen() -> None:
    net = network()
    held = plan(net).effective
    for k, (layer, there) in enumerate(zip(net.layers, held.layers, strict=True)):
        largest = np.abs(layer.weight).max(axis=1, keepdims=True)
        errors = np.abs(there.weight - layer.weight) / largest
        assert errors.max() <= (1 / 254 if k < 2 else 1 / 2**14)
        assert errors.max() > 2**-18


def test_a_drive_is_sent_to_within_half_an_event() -> None:
    net = network()
    planned = plan(net)
    current = np.random.default_rng(3).normal(0, 1.5, (50, 2, 4))
    events, owed = sent(planned, current, np.zeros((2, 4)), np.ones(2, dtype=bool))
    assert events.min() >= 0
    assert (events[0, :, -1] == planned.events).all()
    assert not events[1:, :, -1].any()
    added = np.cumsum(events[:, :, :4] - events[:, :, 4:8], axis=0) * planned.units
    assert np.abs(added - np.cumsum(current, axis=0)).max() <= planned.units.max() / 2 + 1e-9
    np.testing.assert_allclose(
        added[-1] + owed * planned.units, current.sum(axis=0), rtol=0, atol=1e-9
    )


def test_a_drive_beyond_fifteen_events_is_refused_and_changes_nothing() -> None:
    with backends.get("xylo").compile(network(), batch_size=3) as session:
        before = session.run(drive())
        session.reset()
        with pytest.raises(
            BackendError, match=r"input 0 reaches 20 in a step, .* 15 events of 1: pass"
        ):
            session.run(np.full((5, 3, 4), 20.0))
        np.testing.assert_array_equal(session.run(drive()).potential, before.potential)
    for event in (0, -1.0, float("nan"), True, "1"):
        with pytest.raises(BackendError, match="event is"):
            backends.get("xylo").compile(network(), event=event)


def test_a_larger_event_sends_larger_numbers() -> None:
    net = SpikingNetwork((Dense(4.0 * np.eye(2), delay_steps=2), Dense(np.eye(2), spiking=False)))
    assert plan(net).units.tolist() == [0.25, 0.25]  # the median weight of each column is 2
    with (
        backends.get("xylo").compile(net) as session,
        pytest.raises(BackendError, match=r"15 events of 0\.25"),
    ):
        session.run(np.full((5, 1, 2), 4.0))
    wide = plan(net, event=2.0)
    assert wide.units.tolist() == [1.0, 1.0]
    events, _ = sent(wide, np.full((5, 1, 2), 4.0), np.zeros((1, 2)), np.ones(1, dtype=bool))
    assert (events[:, 0, :2] == 4).all()


def test_where_signs_have_no_room_negative_currents_are_refused_and_spikes_are_not() -> None:
    rng = np.random.default_rng(0)
    net = SpikingNetwork(
        (
            Dense(rng.normal(0, 0.3, (8, 15)), v_init=0.5, delay_steps=2),
            Dense(rng.normal(0, 0.3, (2, 8)), spiking=False),
        )
    )
    with backends.get("xylo").compile(net) as session:
        assert session.run(np.ones((20, 1, 15))).counts[0].sum() > 0
        session.reset()
        with pytest.raises(BackendError, match="no room for a second channel for each of 15"):
            session.run(-np.ones((20, 1, 15)))


def test_all_that_does_not_fit_is_said_at_once() -> None:
    rng = np.random.default_rng(0)
    sizes = [(800, 16), (300, 800)]
    hidden = [Dense(rng.normal(0, 0.1, size), v_init=0.5, delay_steps=2) for size in sizes]
    net = SpikingNetwork((*hidden, Dense(rng.normal(size=(40, 300)), spiking=False)))
    found = "\n".join(backends.get("xylo").problems(net))
    for line in (
        "17 input channels (16 for the inputs + 1 for v_init), at most 16 fit, 1 too many",
        "1100 hidden neurons, at most 1000 fit, 100 too many",
        "40 output neurons, at most 8 fit, 32 too many",
        "300 hidden neurons reached by one, at most 64 fit, 236 too many",
        "at most 32000 fit",
    ):
        assert line in found
    third = "\n".join(backends.get("xylo:audio3").problems(net))
    assert "at most 992 fit" in third
    assert "reached by one" not in third
    assert "1100 hidden neurons, from the first on" in third
    assert "300 hidden neurons, from the last back" in third
    with pytest.raises(UnsupportedNetwork, match="40 output neurons"):
        backends.get("xylo").compile(net)


def test_resources_say_what_fits() -> None:
    backend = backends.get("xylo")
    assert isinstance(backend, XyloBackend)
    found = backend.resources(network())
    assert found.problems == []
    lines = str(found).splitlines()
    assert lines[0] == "Xylo-Audio 2:"
    assert "48 hidden neurons, at most 1000 fit" in lines[2]
    assert "6 output neurons, at most 8 fit" in lines[3]  # two for each value


def test_one_layer_and_recurrent_outputs_are_refused() -> None:
    backend = backends.get("xylo")
    one = SpikingNetwork((Dense(np.eye(2), delay_steps=2),))
    assert "found 1 layer of neurons" in backend.problems(one)[0]
    loop = Dense(np.eye(2), recurrent=np.eye(2), delay_steps=2)
    assert backend.problems(SpikingNetwork((Dense(np.eye(2), delay_steps=2), loop))) == [
        "layer 1: output neurons reach no neuron"
    ]


def test_neurons_whose_weights_round_to_nothing_are_named_with_the_factor_they_need() -> None:
    weight = np.full((3, 2), 0.5)
    weight[1] = 1e-5
    net = SpikingNetwork(
        (
            Dense(np.full((2, 2), 0.5), delay_steps=2),
            Dense(weight, delay_steps=2),
            Dense(np.ones((1, 3)), spiking=False),
        )
    )
    (found,) = backends.get("xylo").problems(net)
    assert found.startswith("layer 1: 1 of 3 neurons fall silent, neuron 1 the first")
    factor = float(found.split("multiply its weights by ")[1].split(" ")[0])
    weight[1] *= factor
    layers = (net.layers[0], Dense(weight, delay_steps=2), net.layers[2])
    assert backends.get("xylo").problems(SpikingNetwork(layers)) == []


def test_a_read_out_that_leaves_its_range_is_an_error_not_a_number() -> None:
    """Thirty-one spikes per step and sender: more than the worst case it is laid out for."""
    many = Dense(np.full((24, 4), 40.0), v_threshold=1.0, delay_steps=2)
    net = SpikingNetwork((many, Dense(np.ones((1, 24)), spiking=False)))
    with (
        backends.get("xylo").compile(net, event=100.0) as session,
        pytest.raises(BackendError, match="left the range of 16 bits"),
    ):
        session.run(np.ones((40, 1, 4)))


def test_a_thousand_decisions_need_no_more_memory_and_a_reset_is_a_new_build() -> None:
    with backends.get("xylo").compile(network(), batch_size=3) as session:
        first = session.run(drive(steps=10))
        wanted = [first.potential, *first.counts]
        pages = Path("/proc/self/statm")
        if not pages.exists():
            pytest.skip("the system does not tell how much memory a process holds")
        held = 0
        for i in range(1100):
            session.reset()
            found = session.run(drive(seed=i % 7, steps=10))
            if i == 100:
                held = int(pages.read_text().split()[1])
        assert (int(pages.read_text().split()[1]) - held) * 4096 < 1 << 20
        assert found.counts[0].shape == (3, 24)
        session.reset()
        again = session.run(drive(steps=10))
        for a, b in zip(wanted, [again.potential, *again.counts], strict=True):
            np.testing.assert_array_equal(a, b)


def test_counts_that_somebody_holds_are_read_before_the_next_decision() -> None:
    with backends.get("xylo").compile(network(), batch_size=3) as session:
        kept = session.run(drive(1))
        session.run(drive(2))
        session.reset()
    _, wanted = run(session.plan, drive(1))
    np.testing.assert_array_equal(kept.counts[0], wanted.counts[0])
    with pytest.raises(AttributeError):
        _ = kept.nonsense  # type: ignore[attr-defined]


def test_audio_3_has_room_for_more_outputs() -> None:
    net = network()
    wide = SpikingNetwork((*net.layers[:2], Dense(np.ones((20, 24)), spiking=False)))
    assert backends.get("xylo").problems(wide)
    with backends.get("xylo:audio3").compile(wide) as session:
        assert session.plan.chip is AUDIO_3
        assert session.run(drive(rows=1)).potential.shape == (1, 20)


def test_a_converted_agent_decides_as_its_source_does() -> None:
    pytest.importorskip("stable_baselines3")
    agent = spikerl.convert(
        "zoo/agents/dqn/CartPole-v1_1", target="xylo", sim_steps=64, n_calibration=1000
    )
    assert {layer.delay_steps for layer in agent.network.spiking_layers} == {2}
    rows = np.random.default_rng(0).uniform(-0.2, 0.2, (200, 4)).astype(np.float32)
    with (
        spikerl.HardwarePolicy(agent, "xylo") as chip,
        spikerl.HardwarePolicy(agent, "cpu") as cpu,
    ):
        equal = chip.predict(rows)[0] == cpu.predict(rows)[0]
    assert equal.mean() > 0.85
