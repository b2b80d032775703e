"""The back end "pynn:neuron": the reference's spikes from NEURON, where neurons rest after one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_nest import network
from test_pynn import same

from spikerl import backends
from spikerl.backends.pynn_neuron import PynnNeuronBackend
from spikerl.errors import BackendError, UnsupportedNetwork
from spikerl.network import Dense, SpikingNetwork
from spikerl.reference import simulate

STATE = backends.available()["pynn:neuron"]
installed = pytest.mark.skipif(not STATE.usable, reason=f"needs NEURON: {STATE}")


def resting(net: str, dyadic: bool = False, steps: int = 1) -> SpikingNetwork:
    """A random ReLU net whose neurons rest after a spike."""
    layers = network(net, "zero", dyadic).neuron_layers
    return SpikingNetwork(tuple(replace(x, refractory_steps=steps * x.spiking) for x in layers))


@installed
@pytest.mark.parametrize("dyadic", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("net", ["4-16-16-2", "8-64-64-4"])
def test_every_spike_and_potential_is_the_references(net: str, steps: int, dyadic: bool) -> None:
    tested = resting(net, dyadic, steps)
    rng = np.random.default_rng(0)
    x = rng.integers(-2048, 2049, (4, tested.n_in)) / 1024
    with backends.get("pynn:neuron").compile(tested) as session:
        for i, row in enumerate(x):
            drive = np.broadcast_to(row, (100, 1, tested.n_in))
            if i % 2:
                drive = drive * rng.integers(-8, 9, (100, 1, tested.n_in)) / 4
            same(session.run(drive, record_spikes=True), simulate(tested, drive))


@installed
@pytest.mark.parametrize("delays", [(1, 3), (4, 1)])
def test_delays_and_starts_are_the_references(delays: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    fields = {"reset": "zero", "refractory_steps": 1}
    tested = SpikingNetwork(
        (
            Dense(rng.normal(0.3, 0.5, (6, 4)), delay_steps=delays[0], v_init=1.0, **fields),
            Dense(
                rng.normal(0.2, 0.5, (5, 6)),
                recurrent=rng.normal(0, 0.5, (5, 5)),
                delay_steps=delays[1],
                **fields,
            ),
            Dense(rng.normal(0, 0.5, (2, 5)), v_init=-0.5, spiking=False),
        )
    )
    with backends.get("pynn:neuron").compile(tested, batch_size=2) as session:
        for steps in (1, 2, 40):
            drive = rng.uniform(0, 1, (steps, 2, 4))
            got, want = session.run(drive, record_spikes=True), simulate(tested, drive)
            for ours, theirs in zip(got.spikes or (), want.spikes or (), strict=True):
                assert np.array_equal(ours, theirs)
            for v, wanted in zip(got.potentials, want.potentials, strict=True):
                assert np.abs(v - wanted).max() < 1e-9
        assert sum(int(count.sum()) for count in got.counts) > 10


@installed
def test_a_second_session_is_refused() -> None:
    tested = resting("4-16-16-2")
    with (
        backends.get("pynn:neuron").compile(tested),
        pytest.raises(BackendError, match="another 'pynn:neuron' session is open"),
    ):
        backends.get("pynn:neuron").compile(tested)
    backends.get("pynn:neuron").compile(tested).close()


@installed
def test_nothing_is_printed_or_warned_of() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
from spikerl import backends
from test_pynn_neuron import resting
with backends.get("pynn:neuron").compile(resting("4-16-16-2")) as session:
    session.run(np.ones((5, 1, 4)))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")


def test_what_it_cannot_do_is_refused_with_every_reason() -> None:
    hidden = Dense(np.eye(2), decay=0.5)  # reset by subtraction, no rest, no delay
    last = Dense(np.eye(2), spiking=False, v_min=-1.0)
    with pytest.raises(UnsupportedNetwork) as caught:
        PynnNeuronBackend().compile(SpikingNetwork((hidden, last)))
    for reason in (
        "reset='subtract' is not supported, only zero",
        "decay < 1",
        "refractory_steps must be at least 1",
        "v_min",
        "delay_steps must be at least 1",
    ):
        assert reason in str(caught.value)


def test_where_it_is_missing_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(backends, "find_spec", lambda m: None if m == "neuron" else found(m))
    with pytest.raises(BackendError, match=r"needs .*neuron.*pip install 'spikerl\[pynn-neuron\]'"):
        backends.get("pynn:neuron")


def test_mechanisms_that_are_not_compiled_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from importlib.machinery import ModuleSpec

    from spikerl.backends import pynn

    spec = ModuleSpec("pyNN", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(backends, "find_spec", lambda m: spec)
    monkeypatch.setattr(pynn, "find_spec", lambda m: spec)
    folder = tmp_path / "neuron" / "nmodl"
    with pytest.raises(BackendError, match=f"not compiled; run nrnivmodl in {folder}"):
        backends.get("pynn:neuron")
    (folder / "x86_64").mkdir(parents=True)
    (folder / "x86_64" / "libnrnmech.so").touch()
    assert backends.available()["pynn:neuron"].usable
