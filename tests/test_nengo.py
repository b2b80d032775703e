"""The nengo back end: the reference's spikes and potentials, from nengo's own simulator."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spikerl
from spikerl import backends
from spikerl.backends.nengo import imported
from spikerl.bench import random_network
from spikerl.errors import BackendError
from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, Recording, SpikingNetwork
from spikerl.reference import initial_state, simulate

ZOO = Path(__file__).parent.parent / "zoo" / "agents" / "dqn" / "CartPole-v1_1"
installed = pytest.mark.skipif(
    importlib.util.find_spec("nengo") is None, reason="needs nengo: pip install 'spikerl[nengo]'"
)


def assert_equal(got: Recording, want: Recording, error: float = 0.0) -> None:
    assert got.spikes is not None
    assert want.spikes is not None
    for a, b in zip(got.spikes, want.spikes, strict=True):
        assert np.array_equal(a, b)
    for v, w in zip(got.potentials, want.potentials, strict=True):
        assert v is not None
        assert np.abs(v - w).max() <= error


def network(net: str, **fields: Any) -> SpikingNetwork:
    layers = random_network(net).layers
    return SpikingNetwork(
        tuple(replace(layer, **(fields if layer.spiking else {})) for layer in layers)
    )


@installed
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("delay_steps", [0, 1, 3])
@pytest.mark.parametrize("net", ["4-16-16-2", "8-64-64-4"])
def test_every_spike_and_potential_is_the_references(
    net: str, delay_steps: int, reset: str
) -> None:
    tested = network(net, reset=reset, delay_steps=delay_steps)
    drive = np.random.default_rng(0).normal(size=(100, 5, tested.n_in))
    want = simulate(tested, drive)
    assert all(int(n.sum()) > 100 for n in want.counts)
    with backends.get("nengo").compile(tested, batch_size=5) as session:
        got = session.run(drive, record_spikes=True)
    assert_equal(got, want, 1e-11)


@installed
def test_recurrent_refractory_leaky_neurons_with_a_floor_go_on_from_run_to_run() -> None:
    rng = np.random.default_rng(1)
    tested = SpikingNetwork(
        (
            Dense(
                rng.normal(0, 1, (12, 3)),
                rng.normal(0.2, 0.1, 12),
                recurrent=rng.normal(0, 0.4, (12, 12)),
                decay=rng.uniform(0.8, 1.0, 12),
                refractory_steps=2,
                v_min=-0.7,
                v_init=rng.uniform(-0.5, 0.5, 12),
                delay_steps=2,
            ),
            Dense(rng.normal(0, 1, (2, 12)), decay=0.9, spiking=False),
        )
    )
    drive = rng.normal(0.5, 1, (60, 4, 3))
    state = initial_state(tested, 4)
    with backends.get("nengo").compile(tested, batch_size=4) as session:
        for part in (drive[:1], drive[1:20], drive[20:]):
            want = simulate(tested, part, state)
            assert_equal(session.run(part, record_spikes=True), want, 1e-12)
    assert want.counts[0].sum() > 50


@installed
@pytest.mark.parametrize("batch_size", [1, 3])
def test_convolutions_and_pooling_are_the_references(batch_size: int) -> None:
    rng = np.random.default_rng(2)
    conv = Conv2d(rng.normal(0.1, 0.4, (3, 2, 3, 3)), (2, 8, 6), rng.normal(0, 0.1, 3), (2, 1))
    pool = AvgPool2d(conv.output_shape, (1, 2))
    flat = Flatten(pool.output_shape)
    tested = SpikingNetwork(
        (conv, pool, flat, Dense(rng.normal(0, 0.4, (5, flat.n_out)), spiking=False))
    )
    drive = rng.uniform(0, 1, (40, batch_size, tested.n_in))
    with backends.get("nengo").compile(tested, batch_size=batch_size) as session:
        got = session.run(drive, record_spikes=True)
    want = simulate(tested, drive)
    assert want.counts[0].sum() > 100
    assert_equal(got, want, 1e-12)


@installed
def test_nengos_own_settings_change_nothing() -> None:
    nengo = imported()
    tested = network("4-16-16-2")
    drive = np.random.default_rng(3).normal(size=(50, 1, 4))
    before = nengo.rc.get("precision", "bits")
    nengo.rc.set("precision", "bits", "32")
    try:
        with backends.get("nengo").compile(tested) as session:
            got = session.run(drive, record_spikes=True)
        assert nengo.rc.get("precision", "bits") == "32"
    finally:
        nengo.rc.set("precision", "bits", before)
    assert_equal(got, simulate(tested, drive), 1e-12)


@installed
def test_a_converted_agent_decides_on_nengo_as_on_the_reference() -> None:
    agent = spikerl.convert(ZOO, sim_steps=32, n_calibration=1000)
    observations = np.random.default_rng(4).uniform(-0.2, 0.2, (40, 4)).astype(np.float32)
    values = {}
    for name in ("nengo", "reference"):
        with spikerl.HardwarePolicy(agent, name, n_envs=8) as policy:
            values[name] = policy.values(observations)
    assert np.abs(values["nengo"] - values["reference"]).max() < 1e-10


def test_where_nengo_is_missing_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(backends, "find_spec", lambda m: None if m == "nengo" else found(m))
    with pytest.raises(
        BackendError, match=r"needs nengo; install it: pip install 'spikerl\[nengo\]'"
    ):
        backends.get("nengo")
