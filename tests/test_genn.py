"""The GeNN back end on PyGeNN itself; the shipped suite runs on it in test_conformance.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spikerl
from spikerl import backends
from spikerl.backends import genn_model
from spikerl.bench import random_network
from spikerl.errors import BackendError
from spikerl.network import AvgPool2d, Conv2d, Dense, SpikingNetwork
from spikerl.reference import simulate

pygenn = pytest.importorskip("pygenn")
ZOO = Path(__file__).parent.parent / "zoo" / "agents" / "dqn" / "CartPole-v1_1"


def network(net: str, dyadic: bool = False, **fields: Any) -> SpikingNetwork:
    """A random ReLU net; dyadic ones meet their thresholds exactly."""

    def kept(values: Any) -> Any:
        return np.round(values * 1024) / 1024 if dyadic else values

    return SpikingNetwork(
        tuple(
            replace(layer, weight=kept(layer.weight), bias=kept(layer.bias), **fields)
            if layer.spiking
            else replace(layer, weight=kept(layer.weight), bias=kept(layer.bias))
            for layer in random_network(net).layers
        )
    )


def assert_equal(got: Any, want: Any, spikes: int = 10) -> None:
    assert sum(int(train.sum()) for train in want.spikes) > spikes
    for ours, theirs in zip(got.spikes, want.spikes, strict=True):
        assert np.array_equal(ours, theirs)
    for ours, theirs in zip(got.counts, want.counts, strict=True):
        assert np.array_equal(ours, theirs)
    for v, wanted in zip(got.potentials, want.potentials, strict=True):
        assert np.abs(v - wanted).max() < 1e-9


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("dyadic", [True, False])
@pytest.mark.parametrize("net", ["4-16-16-2", "8-64-64-4"])
def test_every_spike_and_potential_is_the_references(net: str, dyadic: bool, reset: str) -> None:
    tested = network(net, dyadic, reset=reset)
    x = np.random.default_rng(0).integers(-2048, 2049, (6, tested.n_in)) / 1024
    with backends.get("genn").compile(tested) as session:
        for row in x:
            drive = np.broadcast_to(row, (100, 1, tested.n_in))
            session.reset()
            assert_equal(session.run(drive, record_spikes=True), simulate(tested, drive))


@pytest.mark.parametrize("delay", [0, 1, 2, 63])
def test_every_rule_at_once_over_many_steps(delay: int) -> None:
    rng = np.random.default_rng(delay)
    fields = {"decay": 0.75, "v_min": -1.0, "refractory_steps": 1, "delay_steps": delay}
    first = Dense(
        rng.integers(-4, 9, (12, 6)) / 8,
        bias=rng.integers(0, 3, 12) / 8,
        recurrent=rng.integers(-4, 5, (12, 12)) / 16,
        v_init=rng.integers(0, 8, 12) / 8,
        **fields,
    )
    last = Dense(
        rng.integers(-4, 9, (5, 12)) / 8, recurrent=rng.integers(-2, 3, (5, 5)) / 4, **fields
    )
    tested = SpikingNetwork((first, last))
    drive = rng.integers(-4, 9, (300, 3, 6)) / 8
    with backends.get("genn").compile(tested, batch_size=3) as session:
        assert_equal(session.run(drive, record_spikes=True), simulate(tested, drive), 100)


def test_maps_stride_padding_and_pools_are_the_references() -> None:
    rng = np.random.default_rng(3)
    tested = SpikingNetwork(
        (
            Conv2d(rng.integers(-4, 9, (4, 2, 3, 3)) / 16, (2, 9, 8), stride=(2, 1), delay_steps=1),
            Conv2d(rng.integers(-4, 9, (6, 4, 3, 3)) / 16, (4, 4, 6), padding=(1, 1)),
            AvgPool2d((6, 4, 6), (2, 2)),
            Dense(rng.integers(-8, 9, (3, 36)) / 8, spiking=False),
        )
    )
    drive = rng.integers(0, 2, (40, 2, 144)).astype(np.float64)
    with backends.get("genn").compile(tested, batch_size=2) as session:
        assert_equal(session.run(drive, record_spikes=True), simulate(tested, drive), 100)


def test_decisions_do_not_depend_on_those_before() -> None:
    tested = network("4-16-16-2")
    rng = np.random.default_rng(1)
    drive = np.broadcast_to(rng.standard_normal(4), (50, 1, 4))
    with backends.get("genn").compile(tested) as session:
        first = session.run(drive)
        for _ in range(300):
            session.reset()
            session.run(np.broadcast_to(3 * rng.standard_normal(4), (rng.integers(1, 60), 1, 4)))
        session.reset()
        last = session.run(drive)
    assert all(np.array_equal(a, b) for a, b in zip(first.counts, last.counts, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first.potentials, last.potentials, strict=True))


def test_a_converted_agent_decides_on_genn_as_on_the_reference() -> None:
    agent = spikerl.convert(ZOO, sim_steps=32, n_calibration=1000)
    observations = np.random.default_rng(2).uniform(-0.2, 0.2, (40, 4)).astype(np.float32)
    values = {}
    for name in ("genn", "reference"):
        with spikerl.HardwarePolicy(agent, name, n_envs=8) as policy:
            values[name] = policy.values(observations)
    assert np.abs(values["genn"] - values["reference"]).max() < 1e-9


def test_one_shape_is_compiled_once_and_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backends.get("genn").compile(network("3-5-2")).close()
    monkeypatch.setenv("PATH", "")  # no make and no compiler from here on
    other = network("3-5-2", dyadic=True, v_threshold=0.75, v_init=0.25)
    drive = np.broadcast_to([1.0, 2.0, -0.5], (40, 1, 3))
    with backends.get("genn").compile(other) as session:
        assert_equal(session.run(drive, record_spikes=True), simulate(other, drive), 0)
    with pytest.raises(BackendError, match=r"make and g\+\+ not found: .* install make and a C"):
        backends.get("genn").compile(network("3-6-2"))
    assert not backends.available()["genn"].usable
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == ""


def test_two_sessions_of_one_shape_keep_their_own_numbers() -> None:
    one, two = network("4-16-16-2"), network("4-16-16-2", dyadic=True, v_threshold=0.5)
    drive = np.broadcast_to(np.ones(4), (60, 1, 4))
    with backends.get("genn").compile(one) as first, backends.get("genn").compile(two) as second:
        for _ in range(2):
            for session, tested in ((first, one), (second, two)):
                session.reset()
                assert_equal(session.run(drive, record_spikes=True), simulate(tested, drive))


def test_cuda_is_refused_where_pygenn_was_built_without_it() -> None:
    if "cuda" in pygenn.genn_model.backend_modules:
        tested = network("4-16-16-2", dyadic=True)
        drive = np.random.default_rng(4).integers(-8, 9, (50, 5, 4)) / 4
        with backends.get("genn").compile(tested, batch_size=5, device="cuda") as session:
            assert_equal(session.run(drive, record_spikes=True), simulate(tested, drive))
    else:
        with pytest.raises(BackendError, match=f"CUDA_PATH is set: {genn_model.INSTALL_PAGE}"):
            backends.get("genn").compile(network("4-16-16-2"), device="cuda")
