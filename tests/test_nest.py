"""The NEST back end: the reference's spikes with a delay of one step, from NEST's own neurons."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spikerl
from spikerl import backends
from spikerl.backends import nest_kernel
from spikerl.backends.nest import NestBackend
from spikerl.bench import random_network
from spikerl.errors import BackendError, SpikerlError, UnsupportedNetwork
from spikerl.network import Dense, SpikingNetwork
from spikerl.reference import simulate
from spikerl.testing import parametrize_with_checks

ZOO = Path(__file__).parent.parent / "zoo" / "agents" / "dqn" / "CartPole-v1_1"
installed = pytest.mark.skipif(
    importlib.util.find_spec("nest") is None, reason="needs NEST: pip install 'spikerl[nest]'"
)


def network(net: str, reset: str, dyadic: bool = False) -> SpikingNetwork:
    """A random ReLU net with the delays NEST has; dyadic ones meet their thresholds exactly."""

    def kept(values: Any) -> Any:
        return np.round(values * 1024) / 1024 if dyadic else values

    return SpikingNetwork(
        tuple(
            replace(
                layer,
                weight=kept(layer.weight),
                bias=kept(layer.bias),
                reset=reset,
                delay_steps=int(layer.spiking),
            )
            for layer in random_network(net).layers
        )
    )


@installed
@pytest.mark.parametrize("calls", ["kernel", "public"])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("dyadic", [True, False])
@pytest.mark.parametrize("net", ["4-16-16-2", "8-64-64-4"])
def test_every_spike_and_potential_is_the_references(
    net: str, reset: str, dyadic: bool, calls: str
) -> None:
    tested = network(net, reset, dyadic)
    x = np.random.default_rng(0).integers(-2048, 2049, (6, tested.n_in)) / 1024
    with backends.get("nest").compile(tested, calls=calls) as session:
        for row in x:
            drive = np.broadcast_to(row, (100, 1, tested.n_in))
            got, want = session.run(drive, record_spikes=True), simulate(tested, drive)
            assert got.spikes is not None
            assert want.spikes is not None
            assert sum(int(spikes.sum()) for spikes in want.spikes) > 10
            for ours, theirs in zip(got.spikes, want.spikes, strict=True):
                assert np.array_equal(ours, theirs)
            for v, wanted in zip(got.potentials, want.potentials, strict=True):
                assert np.abs(v - wanted).max() < 1e-9


@installed
def test_decisions_do_not_depend_on_those_before() -> None:
    tested = network("4-16-16-2", "subtract")
    rng = np.random.default_rng(1)
    drive = np.broadcast_to(rng.standard_normal(4), (50, 1, 4))
    with backends.get("nest").compile(tested) as session:
        first = session.run(drive)
        for _ in range(300):
            session.run(np.broadcast_to(3 * rng.standard_normal(4), (20, 1, 4)))
        last = session.run(drive)
    assert all(np.array_equal(a, b) for a, b in zip(first.counts, last.counts, strict=True))
    assert np.abs(first.potential - last.potential).max() < 1e-8


@installed
def test_a_converted_agent_decides_on_nest_as_on_the_reference() -> None:
    agent = spikerl.convert(ZOO, sim_steps=32, delay_steps=1, n_calibration=1000)
    observations = np.random.default_rng(2).uniform(-0.2, 0.2, (40, 4)).astype(np.float32)
    values = {}
    for name in ("nest", "reference"):
        with spikerl.HardwarePolicy(agent, name, n_envs=8) as policy:
            values[name] = policy.values(observations)
    assert np.abs(values["nest"] - values["reference"]).max() < 1e-8


@installed
def test_a_second_session_is_refused_while_the_first_goes_on() -> None:
    tested = network("4-16-16-2", "zero")
    with (
        backends.get("nest").compile(tested),
        pytest.raises(BackendError, match="one kernel per process"),
    ):
        backends.get("nest").compile(tested)
    backends.get("nest").compile(tested).close()


def test_what_nest_cannot_do_is_refused_with_every_reason() -> None:
    from spikerl.backends.nest import NestBackend

    leaky = SpikingNetwork(
        (
            Dense(np.eye(2), decay=0.5, refractory_steps=1),
            Dense(np.eye(2), spiking=False, v_min=-1.0),
        )
    )
    with pytest.raises(UnsupportedNetwork) as caught:
        NestBackend().compile(leaky)
    text = str(caught.value)
    for reason in ("decay < 1", "refractory_steps", "v_min", "delay_steps must be at least 1"):
        assert reason in text


def test_where_nest_is_missing_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(backends, "find_spec", lambda m: None if m == "nest" else found(m))
    with pytest.raises(
        BackendError, match=r"needs nest; install it: pip install 'spikerl\[nest\]'"
    ):
        backends.get("nest")


@installed
def test_a_stateful_agent_is_refused() -> None:
    agent = spikerl.convert(ZOO, sim_steps=4, delay_steps=1, n_calibration=500)
    with pytest.raises(SpikerlError, match="cannot carry this stateful agent's membranes"):
        spikerl.HardwarePolicy(replace(agent, stateful=True), "nest")


@installed
def test_torch_may_change_its_threads_while_a_session_is_open() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np, torch
from spikerl import backends
from test_nest import network
tested = network("4-16-16-2", "subtract")
drive = np.ones((20, 1, 4))
for threads in (2, 1, 3):
    with backends.get("nest").compile(tested) as session:
        session.run(drive)
        torch.set_num_threads(threads)
        session.run(drive)
        assert torch.get_num_threads() == threads
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Public(NestBackend):
    """Decides by public calls, as the back end does where the kernel's are missing."""

    name = "nest-public"

    def compile(self, network: SpikingNetwork, **options: Any) -> Any:
        return super().compile(network, **options, calls="public")


@installed
@parametrize_with_checks([Public()])
def test_public_calls_conform_as_well(backend: Any, check: Any) -> None:
    check(backend)


@installed
def test_without_the_kernels_calls_public_ones_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = network("4-16-16-2", "subtract")
    with backends.get("nest").compile(tested) as session:
        assert session.calls == "kernel"  # type: ignore[attr-defined]
    lacking = ((None, None), "NEST 9 lacks calls it had")  # NEST itself needs them today
    monkeypatch.setattr(nest_kernel, "kernel_calls", lambda nest: lacking)
    with backends.get("nest").compile(tested) as session:
        assert session.calls == "public"  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match=r"lacks calls it had.*; use calls='public'"):
        backends.get("nest").compile(tested, calls="kernel")
    with pytest.raises(BackendError, match="wanted 'auto', 'kernel' or 'public'"):
        backends.get("nest").compile(tested, calls="fast")


@installed
def test_a_recording_is_that_of_its_own_decision_whenever_it_is_read() -> None:
    tested = network("4-16-16-2", "zero")
    rng = np.random.default_rng(3)
    drives = [np.broadcast_to(rng.standard_normal((2, 4)), (40, 2, 4)) for _ in range(4)]
    with backends.get("nest").compile(tested, batch_size=2) as session:
        held = [session.run(drive) for drive in drives[:2]]
        session.run(drives[2])  # nobody holds this one
        held.append(session.run(drives[3]))
    for drive, got in zip((*drives[:2], drives[3]), held, strict=True):
        want = simulate(tested, drive)
        assert all(np.array_equal(a, b) for a, b in zip(got.counts, want.counts, strict=True))
        for v, wanted in zip(got.potentials, want.potentials, strict=True):
            assert np.abs(v - wanted).max() < 1e-9
        assert np.abs(got.potential - want.potential).max() < 1e-9


@installed
@pytest.mark.parametrize("constant", [True, False])
def test_no_trajectory_reaches_the_clamp(constant: bool) -> None:
    """Far below and back: the floor of the clamp is lowered as far as the drive could go."""
    down, up = np.full((300, 1, 1), -1000.0), np.full((300, 1, 1), 1000.5)
    tested = SpikingNetwork(
        (
            Dense([[1.0]], delay_steps=1, v_init=0.5),
            Dense([[-200.0]], [-100.0], delay_steps=1),
            Dense([[1.0]], [-3000.0], spiking=False),
        )
    )
    drive = np.broadcast_to(down[:1], down.shape) if constant else np.concatenate([down, up])
    with backends.get("nest").compile(tested) as session:
        got, want = session.run(drive, record_spikes=True), simulate(tested, drive)
        for v, wanted in zip(got.potentials, want.potentials, strict=True):
            assert np.abs(v - wanted).max() < 1e-6
        assert all(np.array_equal(a, b) for a, b in zip(got.counts, want.counts, strict=True))
        with pytest.raises(BackendError, match=r"could drive a potential down .* within 300 steps"):
            session.run(1e6 * down)
        again = session.run(drive)
        assert np.array_equal(again.counts[0], want.counts[0])
