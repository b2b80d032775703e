"""The back end "pynn:brian2": the reference's spikes from Brian2, by the order of its step."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_nest import network
from test_pynn import same

from spikerl import backends
from spikerl.errors import BackendError, UnsupportedNetwork
from spikerl.network import Dense, SpikingNetwork
from spikerl.reference import simulate

STATE = backends.available()["pynn:brian2"]
installed = pytest.mark.skipif(not STATE.usable, reason=f"needs Brian2: {STATE}")


@installed
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("dyadic", [True, False])
@pytest.mark.parametrize("net", ["4-16-16-2", "8-64-64-4"])
def test_every_spike_and_potential_is_the_references(net: str, reset: str, dyadic: bool) -> None:
    tested = network(net, reset, dyadic)
    rng = np.random.default_rng(0)
    x = rng.integers(-2048, 2049, (4, tested.n_in)) / 1024
    with backends.get("pynn:brian2").compile(tested) as session:
        for i, row in enumerate(x):
            drive = np.broadcast_to(row, (100, 1, tested.n_in))
            if i % 2:
                drive = drive * rng.integers(-8, 9, (100, 1, tested.n_in)) / 4
            same(session.run(drive, record_spikes=True), simulate(tested, drive))


@installed
@pytest.mark.parametrize("delays", [(1, 3), (4, 1)])
def test_delays_and_leaks_are_the_references(delays: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    tested = SpikingNetwork(
        (
            Dense(rng.normal(0.3, 0.5, (6, 4)), decay=0.75, delay_steps=delays[0], v_init=0.5),
            Dense(
                rng.normal(0.2, 0.5, (5, 6)),
                recurrent=rng.normal(0, 0.5, (5, 5)),
                decay=np.array([0.25, 0.5, 0.9, 1.0, 1.0]),
                delay_steps=delays[1],
                reset="zero",
            ),
            Dense(rng.normal(0, 0.5, (2, 5)), spiking=False),
        )
    )
    drive = rng.uniform(0, 1, (40, 2, 4))
    with backends.get("pynn:brian2").compile(tested, batch_size=2) as session:
        same(session.run(drive, record_spikes=True), simulate(tested, drive))


@installed
def test_a_second_session_is_refused_and_settings_are_given_back() -> None:
    brian2: Any = pytest.importorskip("brian2")
    before = brian2.prefs.codegen.target, logging.getLogger("brian2").level
    tested = network("4-16-16-2", "zero")
    with (
        backends.get("pynn:brian2").compile(tested),
        pytest.raises(BackendError, match="another 'pynn:brian2' session is open"),
    ):
        backends.get("pynn:brian2").compile(tested)
    backends.get("pynn:brian2").compile(tested).close()
    assert (brian2.prefs.codegen.target, logging.getLogger("brian2").level) == before


@installed
def test_nothing_is_printed_or_warned_of() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
from spikerl import backends
from test_nest import network
with backends.get("pynn:brian2").compile(network("4-16-16-2", "subtract")) as session:
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
    from spikerl.backends.pynn_brian2 import PynnBrian2Backend

    hidden = Dense(np.eye(2), refractory_steps=1)
    last = Dense(np.eye(2), spiking=False, v_min=-1.0)
    with pytest.raises(UnsupportedNetwork) as caught:
        PynnBrian2Backend().compile(SpikingNetwork((hidden, last)))
    for reason in ("refractory_steps", "v_min", "delay_steps must be at least 1"):
        assert reason in str(caught.value)


def test_where_it_is_missing_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(backends, "find_spec", lambda m: None if m == "brian2" else found(m))
    with pytest.raises(BackendError, match=r"needs .*brian2.*pip install 'spikerl\[pynn-brian2\]'"):
        backends.get("pynn:brian2")


def test_a_numpy_that_it_cannot_be_imported_with_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda m: True)
    monkeypatch.setattr(np, "__version__", "2.4.6")
    with pytest.raises(BackendError, match=r"needs numpy < 2\.4, found 2\.4\.6; .*python="):
        backends.get("pynn:brian2")
    for older in ("2.3.5", "1.26.4"):
        monkeypatch.setattr(np, "__version__", older)
        assert backends.available()["pynn:brian2"].usable
