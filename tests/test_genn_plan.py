"""The GeNN back end without GeNN: its neurons' code run by a stand-in, on a host and on a device.

What only PyGeNN and a compiler can tell is in test_genn.py.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from fake_pygenn import FakePygenn

from spikerl import backends
from spikerl.backends import genn_model
from spikerl.backends.base import Session
from spikerl.backends.genn import GennBackend
from spikerl.errors import BackendError, UnsupportedNetwork
from spikerl.network import Conv2d, Dense, SpikingNetwork
from spikerl.reference import simulate
from spikerl.testing import parametrize_with_checks


class OnHost(GennBackend):
    """GeNN's processor back end, computed."""

    name = "genn, computed"

    def __init__(self, device: str = "cpu", fake: FakePygenn | None = None) -> None:
        super().__init__(device)
        self.fake = fake or FakePygenn("cuda", "single_threaded_cpu")

    def compile(self, network: SpikingNetwork, **options: Any) -> Session:
        with patch.dict(sys.modules, pygenn=self.fake):
            return super().compile(network, **options)


class OnDevice(OnHost):
    """GeNN's CUDA back end, computed: all rows at once, in a memory of its own."""

    name = "genn on a device, computed"

    def __init__(self) -> None:
        super().__init__("cuda")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "spikerl" / "genn"


@parametrize_with_checks([OnHost(), OnDevice()])
def test_conformance(backend: Any, check: Any) -> None:
    check(backend)


def stack(seed: int, **fields: Any) -> SpikingNetwork:
    rng = np.random.default_rng(seed)
    return SpikingNetwork(
        (
            Dense(rng.integers(-4, 5, (4, 3)) / 4, bias=[0.25] * 4, **fields),
            Dense(rng.integers(-4, 5, (2, 4)) / 4, spiking=False),
        )
    )


def test_other_numbers_of_the_same_shape_need_no_compiler(cache: Path) -> None:
    fake = FakePygenn("single_threaded_cpu")
    drive = np.random.default_rng(0).integers(-4, 5, (6, 1, 3)) / 4
    for seed in range(3):
        backend = OnHost(fake=fake)
        network = stack(seed, v_threshold=1 + seed / 4, v_init=seed / 8)
        with backend.compile(network) as session:
            got, want = session.run(drive), simulate(network, drive)
            assert np.array_equal(got.counts[0], want.counts[0])
            assert np.array_equal(got.potential, want.potential)
    assert fake.compiled == 1
    assert len(list(cache.iterdir())) == 1


def test_another_shape_is_compiled_anew(cache: Path) -> None:
    fake = FakePygenn("single_threaded_cpu", "cuda")
    pixels = Conv2d(np.ones((1, 1, 1, 3)), input_shape=(1, 1, 3))
    apart = Conv2d(np.ones((1, 1, 1, 3)), input_shape=(1, 1, 3), padding=(0, 1))
    last = Dense(np.ones((1, 3)), spiking=False)
    networks = [
        stack(0),
        stack(0, reset="zero"),
        stack(0, decay=0.5),
        stack(0, v_min=-1.0),
        stack(0, refractory_steps=1),
        stack(0, refractory_steps=2),
        stack(0, delay_steps=1),
        stack(0, delay_steps=2),
        stack(0, recurrent=np.eye(4)),
        SpikingNetwork((Dense(np.ones((3, 3))), pixels)),
        SpikingNetwork((Dense(np.ones((3, 3))), apart, last)),
    ]
    for network in networks:
        OnHost(fake=fake).compile(network).close()
    assert fake.compiled == len(networks)
    OnHost("cuda", fake).compile(networks[0]).close()
    OnHost("cuda", fake).compile(networks[0], batch_size=2).close()
    assert fake.compiled == len(networks) + 2
    assert len(list(cache.iterdir())) == fake.compiled


def test_a_cache_that_cannot_be_written_costs_the_compiler_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no directory")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    fake = FakePygenn("single_threaded_cpu")
    for _ in range(2):
        OnHost(fake=fake).compile(stack(0)).close()
    assert fake.compiled == 2


def test_a_library_that_cannot_be_loaded_is_named(cache: Path) -> None:
    OnHost().compile(stack(0)).close()
    (library,) = cache.iterdir()
    library.write_text("damaged")
    with pytest.raises(BackendError, match=rf"cannot load .*; delete {library}"):
        OnHost().compile(stack(0))


def test_the_longest_delay_is_exact_and_a_longer_one_refused() -> None:
    drive = np.zeros((70, 1, 1))
    drive[[0, 2]] = 1.0
    network = SpikingNetwork((Dense([[1.0]], delay_steps=63), Dense([[1.0]])))
    with OnHost().compile(network) as session:
        got = session.run(drive, record_spikes=True)
    assert got.spikes is not None
    assert np.flatnonzero(got.spikes[1]).tolist() == [63, 65]
    longer = SpikingNetwork((Dense([[1.0]], delay_steps=64), Dense([[1.0]])))
    with pytest.raises(UnsupportedNetwork, match="delay_steps must be at most 63"):
        OnHost().compile(longer)


@pytest.mark.parametrize("delay", [0, 2])
def test_what_the_last_layer_says_to_itself_reaches_no_other_row_or_decision(delay: int) -> None:
    loops = {"recurrent": [[0.0, 1.0], [1.0, 0.0]], "delay_steps": delay}
    alone = SpikingNetwork((Dense(np.eye(2), **loops),))
    behind = SpikingNetwork((Dense(np.eye(2)), Dense(np.eye(2), **loops)))
    drive = np.array([[[1.0, 0.0], [0.0, 0.0]]] * 3)  # the first row fires at the last step too
    for network in (alone, behind):
        with OnHost().compile(network, batch_size=2) as session:
            for _ in range(2):
                got, want = session.run(drive), simulate(network, drive)
                assert np.array_equal(got.counts[-1], want.counts[-1])
                assert np.array_equal(got.potential, want.potential)
                session.reset()


class Interrupted:
    """GeNN's step, until someone presses Ctrl-C after so many of them."""

    def __init__(self, model: Any, steps: int) -> None:
        self.model, self.steps, self.step = model, steps, model._step

    def __call__(self) -> None:
        if self.steps == 0:
            self.model._step = self.step
            raise KeyboardInterrupt
        self.steps -= 1
        self.step()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_interrupted_run_leaves_nothing_under_way(device: str) -> None:
    network = stack(1, recurrent=np.eye(4) / 2, delay_steps=2)
    drive = np.random.default_rng(1).integers(0, 5, (8, 2, 3)) / 4
    backend = OnHost(device)
    with backend.compile(network, batch_size=2) as session:
        model = session._model  # type: ignore[attr-defined]
        for moment in range(1, 9):
            model._step = Interrupted(model, moment)
            with pytest.raises(KeyboardInterrupt):
                session.run(drive)
            session.reset()
            got, want = session.run(drive), simulate(network, drive)
            assert all(np.array_equal(a, b) for a, b in zip(got.counts, want.counts, strict=True))
            assert np.array_equal(got.potential, want.potential)
            session.reset()


def test_on_a_device_a_decision_copies_what_it_needs_and_on_the_host_nothing() -> None:
    drive = np.broadcast_to(np.ones(3), (5, 2, 3))
    copied = {}
    for device in ("cpu", "cuda"):
        backend = OnHost(device)
        with backend.compile(stack(0), batch_size=2) as session:
            backend.fake.copied.clear()
            session.run(drive)
            copied[device] = list(backend.fake.copied)
    assert copied["cpu"] == []
    assert sorted(copied["cuda"]) == sorted(
        ["push V", "push V", "push count", "push current", "pull V", "pull V", "pull count"]
    )


def test_a_device_that_pygenn_was_not_built_for_is_named() -> None:
    backend = OnHost("cuda", FakePygenn("single_threaded_cpu"))
    with pytest.raises(BackendError, match=r"'cuda', but this PyGeNN was built for cpu only; .*"):
        backend.compile(stack(0))
    with pytest.raises(BackendError, match="device is 'tpu', wanted one of cpu, cuda"):
        OnHost().compile(stack(0), device="tpu")


def test_a_compiler_that_fails_or_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise subprocess.CalledProcessError(2, ["make"])

    fake = FakePygenn("single_threaded_cpu")
    fake.compiler = fails
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendError, match=r"no-such-compiler not found: .* install make and a C"):
        OnHost(fake=fake).compile(stack(0))
    assert "no-such-compiler not found" in genn_model.missing()
    monkeypatch.setenv("CXX", sys.executable)  # something that exists
    with pytest.raises(BackendError, match=r"could not be compiled: .*make.* exit status 2"):
        OnHost(fake=fake).compile(stack(0))


def test_where_pygenn_is_missing_its_install_page_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = backends.find_spec
    monkeypatch.setattr(backends, "find_spec", lambda m: None if m == "pygenn" else found(m))
    page = "no package index has it; how to install it: https://github.com/genn-team/genn#readme"
    with pytest.raises(BackendError, match="needs pygenn; " + page):
        backends.get("genn")
    assert backends.available()["genn"].install == page
    with (
        patch.dict(sys.modules, pygenn=None),
        pytest.raises(BackendError, match=r"PyGeNN cannot be imported .*genn-team/genn"),
    ):
        GennBackend().compile(stack(0))


def test_another_generation_of_pygenn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genn_model, "version", lambda name: "4.9.0")
    unmet = genn_model.unmet()
    assert unmet is not None
    assert unmet[0] == "needs PyGeNN 5, found 4.9.0"
    monkeypatch.setattr(genn_model, "version", lambda name: "5.4.0")
    assert genn_model.unmet() is None


def test_what_runs_is_the_network_asked_for() -> None:
    network = replace(stack(2, decay=0.9), dt_ms=2.0)
    with OnHost().compile(network) as session:
        assert session.network is network
