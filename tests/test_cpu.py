"""The cpu back end against the reference: every spike and every potential on dyadic networks."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikerl.backends import cpu_plan, get
from spikerl.errors import BackendError, SessionClosed, ShapeError
from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, Layer, Recording, SpikingNetwork
from spikerl.reference import initial_state, simulate

SETTINGS = settings(max_examples=60, deadline=None)


def dyadic(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return rng.integers(-16, 17, shape) / 16 * scale


def random_neurons(rng: np.random.Generator, n: int, readout: bool) -> dict:
    fields = {
        "decay": rng.choice([1.0, 0.5, 0.75], n if rng.random() < 0.5 else None),
        "v_threshold": rng.integers(1, 17, n if rng.random() < 0.5 else None) / 8,
        "reset": str(rng.choice(["subtract", "zero"])),
        "v_init": rng.integers(-8, 9, n) / 8,
        "v_min": [None, -1.0, -2.5][rng.integers(3)],
        "spiking": not readout,
    }
    if rng.random() < 0.4:
        fields |= {"decay": 1.0, "reset": "subtract", "v_min": None}
    if rng.random() < 0.3:
        fields["current_decay"] = rng.choice([0.0, 0.5, 0.75], n if rng.random() < 0.5 else None)
    if not readout:
        fields |= {
            "delay_steps": int(rng.choice([0, 0, 1, 2, 7])),
            "refractory_steps": int(rng.choice([0, 0, 1, 3])),
        }
        if rng.random() < 0.3:
            fields["adaptation"] = rng.choice([0.0, 0.25, 1.0], n if rng.random() < 0.5 else None)
            fields["adaptation_decay"] = rng.choice([0.5, 0.75])
    return fields


def random_dense(rng: np.random.Generator, n_in: int, n: int, readout: bool = False) -> Dense:
    recurrent = dyadic(rng, n, n, scale=0.25) if not readout and rng.random() < 0.25 else None
    return Dense(
        weight=dyadic(rng, n, n_in),
        bias=dyadic(rng, n),
        recurrent=recurrent,
        **random_neurons(rng, n, readout),
    )


def random_mlp(rng: np.random.Generator) -> SpikingNetwork:
    sizes = [int(rng.integers(1, 6))]
    sizes += [int(n) for n in rng.choice([1, 3, 8, 17, 65, 130], rng.integers(1, 4))]
    layers = [random_dense(rng, a, b) for a, b in pairwise(sizes)]
    last = random_dense(rng, sizes[-1], int(rng.integers(1, 12)), readout=rng.random() < 0.7)
    return SpikingNetwork([*layers, last])


def random_cnn(rng: np.random.Generator) -> SpikingNetwork:
    shape = (2, 8, 7)
    layers: list[Layer] = [AvgPool2d(shape, (2, 1))] if rng.random() < 0.3 else []
    shape = layers[0].output_shape if layers else shape
    for _ in range(2):
        weight = dyadic(rng, 3, shape[0], 2, 3)
        where = {"input_shape": shape, "stride": (1, 2), "padding": (1, 1)}
        n = Conv2d(weight=weight, **where).n_out
        conv = Conv2d(weight=weight, bias=dyadic(rng, 3), **where, **random_neurons(rng, n, False))
        layers.append(conv)
        shape = conv.output_shape
        if rng.random() < 0.7 and min(shape[1:]) > 1:
            stride = (1, 1) if rng.random() < 0.5 else None
            layers.append(AvgPool2d(shape, (2, 2), stride))
            shape = layers[-1].output_shape
    layers.append(Flatten(shape))
    layers.append(random_dense(rng, int(np.prod(shape)), 4, readout=True))
    return SpikingNetwork(layers)


def assert_same(got: Recording, want: Recording) -> None:
    assert got.sim_steps == want.sim_steps
    for mine, right in zip(got.counts, want.counts, strict=True):
        np.testing.assert_array_equal(mine, right)
    for mine, right in zip(got.potentials, want.potentials, strict=True):
        np.testing.assert_array_equal(mine, right)
    if got.spikes is not None:
        for mine, right in zip(got.spikes, want.spikes or (), strict=True):
            np.testing.assert_array_equal(mine, right)
            assert mine.dtype == np.bool_


def check_run_reset_and_run_again(network: SpikingNetwork, rng: np.random.Generator) -> None:
    """Rows fewer than batch_size, two runs with a partial reset between them, all recorded."""
    precision = str(rng.choice(["float64", "float32"]))  # dyadic sums are exact in both
    rows = int(rng.integers(1, 4))
    state = initial_state(network, rows)
    start = initial_state(network, rows)
    near = int(rng.choice([0, cpu_plan.NEAR]))  # weights that are exact take half the room, or not
    with patch.object(cpu_plan, "NEAR", near):
        session = get("cpu").compile(network, batch_size=rows + 1, precision=precision)
    with session:
        for _ in range(2):
            steps = int(rng.choice([1, 3, 9]))
            kind = rng.integers(3)
            if kind == 0:
                drive = np.broadcast_to(
                    dyadic(rng, rows, network.n_in), (steps, rows, network.n_in)
                )
            elif kind == 1:
                drive = dyadic(rng, steps, rows, network.n_in, scale=2.0)
            else:
                drive = (rng.random((steps, rows, network.n_in)) < 0.5) * 1.0
            assert_same(session.run(drive, record_spikes=True), simulate(network, drive, state))
            back = rng.random(rows) < 0.4
            session.reset(np.append(back, False))
            for cell, first in zip(state, start, strict=True):
                cell.v[back], cell.resting[back] = first.v[back], 0
                cell.current[back], cell.lift[back] = 0, 0
                cell.sent[:, back] = 0
        drive = dyadic(rng, 4, rows, network.n_in)
        assert_same(session.run(drive), simulate(network, drive, state))


@given(st.integers(0, 2**32 - 1))
@SETTINGS
def test_random_dense_networks_equal_the_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_run_reset_and_run_again(random_mlp(rng), rng)


@given(st.integers(0, 2**32 - 1))
@SETTINGS
def test_random_convolutional_networks_equal_the_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_run_reset_and_run_again(random_cnn(rng), rng)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_every_firing_rate_gives_the_reference(rate: float) -> None:
    rng = np.random.default_rng(3)
    threshold = 1.0
    network = SpikingNetwork(
        [
            Dense(np.eye(96), v_threshold=threshold),
            Dense(dyadic(rng, 200, 96)),
            Dense(dyadic(rng, 5, 200), spiking=False),
        ]
    )
    drive = (rng.random((30, 2, 96)) < rate) * threshold
    with get("cpu").compile(network, batch_size=2) as session:
        got = session.run(drive, record_spikes=True)
    assert got.counts[0].sum() == drive.sum()
    assert_same(got, simulate(network, drive))


@pytest.mark.parametrize("near", [0, cpu_plan.NEAR])
def test_other_than_dyadic_networks_agree_to_rounding(
    near: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_plan, "NEAR", near)  # float32 does not hold them, many or few
    rng = np.random.default_rng(4)
    network = SpikingNetwork(
        [
            Dense(rng.normal(size=(64, 8)), decay=0.9),
            Dense(rng.normal(size=(64, 64)) / 8, bias=rng.normal(size=64) / 8),
            Dense(rng.normal(size=(4, 64)) / 8, spiking=False),
        ]
    )
    drive = np.broadcast_to(rng.normal(size=(16, 8)), (100, 16, 8))
    with get("cpu").compile(network, batch_size=16) as session:
        got, want = session.run(drive), simulate(network, drive)
    for mine, right in zip(got.counts, want.counts, strict=True):
        np.testing.assert_array_equal(mine, right)
    np.testing.assert_allclose(got.potential, want.potential, rtol=0, atol=1e-11)


def test_float32_rounds_weights_and_keeps_potentials_in_float64() -> None:
    rng = np.random.default_rng(4)
    hidden = Dense(np.eye(32), decay=0.9)
    network = SpikingNetwork([hidden, Dense(rng.normal(size=(72, 32)) / 8, v_threshold=1e9)])
    drive = np.broadcast_to(rng.random((3, 32)), (100, 3, 32))
    want = simulate(network, drive).potential
    with get("cpu").compile(network, batch_size=3, precision="float32") as session:
        error = np.abs(session.run(drive).potential - want).max()
    assert 0 < error < 100 * 32 * np.abs(network.layers[1].weight).max() * 2**-24


def test_the_network_of_a_float32_session_has_the_rounded_weights() -> None:
    rng = np.random.default_rng(5)
    hidden = Dense(np.eye(32))
    network = SpikingNetwork([hidden, Dense(rng.normal(size=(72, 32)) / 8, v_threshold=1e9)])
    drive = np.broadcast_to(np.eye(32), (50, 32, 32))  # one spike per step: no sum to be rounded
    with get("cpu").compile(network, batch_size=32, precision="float32") as session:
        got = session.run(drive).potential
    assert np.abs(got - simulate(session.network, drive).potential).max() < 1e-12
    assert np.abs(got - simulate(network, drive).potential).max() > 1e-8


def test_a_constant_drive_gives_the_same_broadcast_or_copied() -> None:
    rng = np.random.default_rng(5)
    network = random_mlp(rng)
    drive = np.broadcast_to(dyadic(rng, 2, network.n_in), (20, 2, network.n_in))
    with get("cpu").compile(network, batch_size=2) as session:
        first = session.run(drive)
        session.reset()
        assert_same(session.run(drive.copy()), first)


def test_delays_longer_than_a_run_carry_spikes_over_several_runs() -> None:
    network = SpikingNetwork(
        [Dense([[1.0]], delay_steps=5), Dense([[1.0]], v_threshold=1.0, spiking=False)]
    )
    with get("cpu").compile(network) as session:
        seen = [session.run(np.full((2, 1, 1), 1.0)).potential[0, 0] for _ in range(4)]
    assert seen == [0.0, 0.0, 1.0, 3.0]


def test_a_recording_is_not_changed_by_later_runs() -> None:
    network = random_mlp(np.random.default_rng(6))
    drive = np.ones((5, 1, network.n_in))
    with get("cpu").compile(network) as session:
        got = session.run(drive, record_spikes=True)
        session.run(-drive, record_spikes=True)
        session.reset()
    assert_same(got, simulate(network, drive))


def test_runs_of_other_lengths_do_not_disturb_each_other() -> None:
    rng = np.random.default_rng(7)
    network = random_mlp(rng)
    state = initial_state(network, 1)
    with get("cpu").compile(network) as session:
        for steps in (3, 40, 1, 17, 80, 2):
            drive = dyadic(rng, steps, 1, network.n_in)
            assert_same(session.run(drive, record_spikes=True), simulate(network, drive, state))


def test_memory_stays_flat_over_many_decisions() -> None:
    network = random_mlp(np.random.default_rng(8))
    drive = np.broadcast_to(np.ones((1, network.n_in)), (20, 1, network.n_in))
    with get("cpu").compile(network) as session:

        def decide(times: int) -> None:
            for _ in range(times):
                session.reset()
                session.run(drive)

        decide(200)
        tracemalloc.start()
        try:
            decide(50)
            before = tracemalloc.get_traced_memory()[0]
            decide(2000)
            after = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert after - before < 4096


def test_the_session_refuses_what_it_cannot_do() -> None:
    network = SpikingNetwork([Dense([[1.0]])])
    with pytest.raises(BackendError, match="no option gpu"):
        get("cpu").compile(network, gpu=True)
    with pytest.raises(BackendError, match="only 'float64' and 'float32'"):
        get("cpu").compile(network, precision="float16")
    session = get("cpu").compile(network)
    with pytest.raises(ShapeError, match="batch_size=1"):
        session.run(np.zeros((3, 2, 1)))
    session.close()
    with pytest.raises(SessionClosed):
        session.run(np.zeros((3, 1, 1)))
