"""The PyNN back ends' common parts, and "pynn:nest": the reference's spikes from NEST by PyNN."""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_nest import ZOO, network

import spikerl
from spikerl import backends
from spikerl.backends.pynn import connection_lists, recurrent_lists, stacks
from spikerl.backends.pynn_units import STEP_MS, TAU_SYN_MS, UNITS, Units
from spikerl.errors import BackendError, SpikerlError, UnsupportedNetwork
from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, SpikingNetwork
from spikerl.reference import simulate

PARTS = ("nest", "pyNN", "threadpoolctl")
installed = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, PARTS)),
    reason="needs NEST and PyNN: pip install 'spikerl[pynn]'",
)


def same(got: Any, want: Any) -> None:
    """Every spike, and every potential within 1e-9."""
    assert got.spikes is not None
    assert sum(int(spikes.sum()) for spikes in want.spikes) > 10
    for ours, theirs in zip(got.spikes, want.spikes, strict=True):
        assert np.array_equal(ours, theirs)
    for ours, theirs in zip(got.counts, want.counts, strict=True):
        assert np.array_equal(ours, theirs)
    for v, wanted in zip(got.potentials, want.potentials, strict=True):
        assert np.abs(v - wanted).max() < 1e-9


@pytest.mark.parametrize("units", UNITS.values(), ids=list(UNITS))
@pytest.mark.parametrize("quantity", ["potential", "current", "weight", "delay"])
def test_units_are_read_in_both_directions(units: Units, quantity: str) -> None:
    unit = getattr(units, quantity)
    values = np.array([-3.5, 0.0, 2.0**-14, 1.0, 17.0])
    assert np.allclose(unit.from_pynn(unit.to_pynn(values)), values, rtol=1e-15, atol=0)
    assert np.allclose(unit.to_pynn(unit.from_pynn(values)), values, rtol=1e-15, atol=0)


def test_the_factors_are_those_of_the_physics() -> None:
    for units in UNITS.values():
        # a current of 1 for one step moves a membrane of this capacitance by 1
        moved = units.current.to_pynn(1.0) * STEP_MS / units.capacitance
        assert units.potential.from_pynn(moved) == 1
    assert UNITS["native nest"].weight.to_pynn(1.0) * 1000 == 1  # what reaches the kernel
    assert UNITS["IF_curr_delta"].weight.to_pynn(1.0) == UNITS["IF_curr_delta"].potential.factor
    exp = UNITS["IF_curr_exp"]
    assert exp.weight.to_pynn(1.0) * STEP_MS / exp.capacitance == 1  # charge of one step
    assert np.exp(-STEP_MS / TAU_SYN_MS) < 1e-40  # and nothing of it is left in the second


def stack_of_maps() -> SpikingNetwork:
    rng = np.random.default_rng(3)
    conv = Conv2d(
        weight=rng.normal(size=(3, 2, 2, 2)), input_shape=(2, 5, 4), stride=(1, 2), padding=(1, 0)
    )
    pool = AvgPool2d(conv.output_shape, (2, 2), (1, 1))
    return SpikingNetwork(
        (
            conv,
            pool,
            Flatten(pool.output_shape),
            Dense(rng.normal(size=(4, pool.n_out)), spiking=False),
        )
    )


def test_lists_of_connections_are_the_linear_maps() -> None:
    units = UNITS["native nest"]
    for layer, stack in stacks(stack_of_maps()):
        n_in, n_out, copies = stack[0].n_in, layer.n_out, 2
        total = np.zeros((copies * n_out, copies * n_in))
        for receptor, rows in connection_lists(stack, n_in, n_out, copies, 3, units):
            assert ((rows[:, 2] > 0) == (receptor == "excitatory")).all()
            assert (rows[:, 3] == 3.0).all()
            pairs = rows[:, :2].astype(int)
            assert len(np.unique(pairs, axis=0)) == len(pairs)
            total[pairs[:, 1], pairs[:, 0]] += units.weight.from_pynn(rows[:, 2])
        eye = np.eye(n_in)
        for part in stack:
            eye = part.apply(eye)
        bias = np.zeros((1, n_in))
        for part in stack:
            bias = part.apply(bias)
        assert np.allclose(total, np.kron(np.eye(copies), (eye - bias).T), atol=1e-14)


def test_recurrent_lists_go_from_column_to_row() -> None:
    weight = np.array([[0.0, 0.5], [-0.25, 0.0]])
    found = dict(recurrent_lists(weight, 1, 1, UNITS["IF_curr_delta"]))
    assert found["excitatory"].tolist() == [[1.0, 0.0, 0.5, 1.0]]
    assert found["inhibitory"].tolist() == [[0.0, 1.0, -0.25, 1.0]]


@installed
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("dyadic", [True, False])
@pytest.mark.parametrize("net", ["4-16-16-2", "8-64-64-4"])
@pytest.mark.parametrize("calls", ["public", "kernel"])
def test_every_spike_and_potential_is_the_references(
    calls: str, net: str, reset: str, dyadic: bool
) -> None:
    tested = network(net, reset, dyadic)
    rng = np.random.default_rng(0)
    x = rng.integers(-2048, 2049, (6, tested.n_in)) / 1024
    with backends.get("pynn:nest").compile(tested, calls=calls) as session:
        for i, row in enumerate(x):
            drive = np.broadcast_to(row, (100, 1, tested.n_in))
            if i % 2:  # written out, and another one at every step
                drive = drive * rng.integers(-8, 9, (100, 1, tested.n_in)) / 4
            same(session.run(drive, record_spikes=True), simulate(tested, drive))


@installed
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_maps_pooling_and_recurrent_weights_are_the_references(reset: str) -> None:
    rng = np.random.default_rng(5)

    def quarters(*shape: int) -> Any:
        return rng.integers(-4, 5, shape) / 4

    conv = Conv2d(
        weight=quarters(3, 2, 2, 2),
        bias=quarters(3),
        input_shape=(2, 5, 4),
        stride=(1, 2),
        padding=(1, 0),
        reset=reset,
        delay_steps=1,
    )
    pool = AvgPool2d(conv.output_shape, (2, 2), (1, 1))
    loop = Dense(
        quarters(6, pool.n_out), recurrent=quarters(6, 6), reset=reset, delay_steps=1, v_init=0.25
    )
    tested = SpikingNetwork(
        (conv, pool, Flatten(pool.output_shape), loop, Dense(quarters(2, 6), spiking=False))
    )
    drive = rng.integers(-4, 9, (40, 3, tested.n_in)) / 4
    with backends.get("pynn:nest").compile(tested, batch_size=3) as session:
        same(session.run(drive, record_spikes=True), simulate(tested, drive))


@installed
def test_the_kernel_holds_the_weights_of_the_network() -> None:
    nest: Any = pytest.importorskip("nest")
    weight = np.array([[0.5, -0.25, 0.0], [1.0, 3.0, -2.0]])
    tested = SpikingNetwork((Dense(np.eye(3), delay_steps=1), Dense(weight, spiking=False)))
    with backends.get("pynn:nest").compile(tested):
        before = nest.GetNodes({"model": "eprop_iaf"})
        after = nest.GetNodes({"model": "iaf_psc_delta"})
        found = nest.GetConnections(before, after)
        held = np.zeros((2, 3))
        sources, targets = before.tolist(), after.tolist()
        for s, t, w in zip(found.source, found.target, found.weight, strict=True):
            held[targets.index(t), sources.index(s)] += w
        assert len(found) == 5  # a projection that connects twice would have 10
        assert set(found.delay) == {1.0}
    assert np.allclose(held, weight, rtol=1e-15)


@installed
def test_decisions_do_not_depend_on_those_before() -> None:
    tested = network("4-16-16-2", "subtract")
    rng = np.random.default_rng(1)
    drive = np.broadcast_to(rng.standard_normal(4), (50, 1, 4))
    want = simulate(tested, drive)
    with backends.get("pynn:nest").compile(tested) as session:
        for _ in range(100):
            session.run(np.broadcast_to(3 * rng.standard_normal(4), (20, 1, 4)))
        same(session.run(drive, record_spikes=True), want)


@installed
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("calls", ["public", "kernel"])
def test_a_decision_that_was_interrupted_leaves_nothing(calls: str, reset: str) -> None:
    tested = network("4-16-16-2", reset)
    drive = np.broadcast_to(np.ones(4), (50, 1, 4))
    want = simulate(tested, drive)
    with backends.get("pynn:nest").compile(tested, calls=calls) as session:
        inside: Any = session
        nest, run = inside._nest, inside._simulate
        for at in (1, 2, 9):  # runs of a decision that changes at each of its 9 steps
            left = at

            def simulated(*steps: float, how: Any) -> None:
                nonlocal left
                left -= 1
                how(*steps)
                if left < 0:
                    raise KeyboardInterrupt

            if calls == "public":
                inside._simulate = partial(simulated, how=run)
            else:  # within it, before it has counted the steps
                how = partial(simulated, how=nest.Simulate)
                inside._nest = SimpleNamespace(Simulate=how, biological_time=0.0)
            with pytest.raises(KeyboardInterrupt):
                session.run(np.full((9, 1, 4), 5.0))
            inside._simulate, inside._nest = run, nest
            same(session.run(drive, record_spikes=True), want)


@installed
def test_a_converted_agent_decides_as_on_nest() -> None:
    agent = spikerl.convert(ZOO, sim_steps=32, delay_steps=1, n_calibration=1000)
    observations = np.random.default_rng(2).uniform(-0.2, 0.2, (40, 4)).astype(np.float32)
    values = {}
    for name in ("nest", "pynn:nest", "reference"):
        with spikerl.HardwarePolicy(agent, name, n_envs=8) as policy:
            values[name] = policy.values(observations)
    assert np.abs(values["pynn:nest"] - values["reference"]).max() < 1e-9
    assert np.abs(values["pynn:nest"] - values["nest"]).max() < 1e-9


@installed
@pytest.mark.parametrize(
    ("first", "second"), [("nest", "pynn:nest"), ("pynn:nest", "nest"), ("pynn:nest", "pynn:nest")]
)
def test_sessions_on_nests_kernel_exclude_each_other(first: str, second: str) -> None:
    tested = network("4-16-16-2", "zero")
    drive = np.broadcast_to(np.ones(4), (50, 1, 4))
    with backends.get(first).compile(tested) as session:
        with pytest.raises(BackendError, match=f"one kernel per process and another '{first}'"):
            backends.get(second).compile(tested)
        same(session.run(drive, record_spikes=True), simulate(tested, drive))
    backends.get(second).compile(tested).close()


@installed
def test_with_a_process_each_both_run_at_once() -> None:
    agent = spikerl.convert(ZOO, sim_steps=16, delay_steps=1, n_calibration=500)
    observations = np.random.default_rng(2).uniform(-0.2, 0.2, (4, 4)).astype(np.float32)
    with (
        spikerl.HardwarePolicy(agent, "nest") as here,
        spikerl.HardwarePolicy(agent, "pynn:nest", isolation="process") as there,
    ):
        gap = np.abs(here.values(observations) - there.values(observations))
    assert gap.max() < 1e-9


@installed
def test_no_temporary_folder_stays() -> None:
    code = f"""
import sys, tempfile
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import numpy as np
from spikerl import backends
from test_nest import network
mine = Path(sys.argv[1])
tempfile.tempdir = str(mine)
for _ in range(2):
    with backends.get("pynn:nest").compile(network("4-16-16-2", "zero")) as session:
        assert len(list(mine.iterdir())) == 1
        session.run(np.ones((5, 1, 4)))
        assert len(list(mine.iterdir())) == 1
    assert not list(mine.iterdir())
"""
    with tempfile.TemporaryDirectory() as mine:
        done = subprocess.run([sys.executable, "-c", code, mine], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@installed
def test_nothing_is_printed_compiled_or_warned_of() -> None:
    pynn = importlib.util.find_spec("pyNN")
    assert pynn is not None
    assert pynn.submodule_search_locations is not None
    nest_part = Path(pynn.submodule_search_locations[0]) / "nest"

    def built() -> list[float]:
        return [path.stat().st_mtime for path in sorted(nest_part.glob("_build*/**/*"))]

    before = built()
    programs = str(Path(sys.executable).parent)  # nest-config is there
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
from spikerl import backends
from test_nest import network
path = os.environ["PATH"]
with backends.get("pynn:nest").compile(network("4-16-16-2", "subtract")) as session:
    session.run(np.ones((5, 1, 4)))
assert os.environ["PATH"] == path
"""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PATH": programs + os.pathsep + os.environ.get("PATH", "")},
        )
        assert done.returncode == 0, done.stderr
        assert (done.stdout, done.stderr) == ("", "")
        assert not os.listdir(folder)
    assert built() == before


@pytest.mark.parametrize(("part", "extra"), [("pyNN", "pynn"), ("nest", "pynn")])
def test_where_a_part_is_missing_the_extra_is_named(
    part: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(backends, "find_spec", lambda m: None if m == part else found(m))
    message = rf"needs .*{part}.*install it: pip install 'spikerl\[{extra}\]'"
    with pytest.raises(BackendError, match=message):
        backends.get("pynn:nest")


def test_what_it_cannot_do_is_refused_with_every_reason() -> None:
    from spikerl.backends.pynn_nest import PynnNestBackend

    hidden = Dense(np.eye(2), decay=0.5, refractory_steps=1)
    last = Dense(np.eye(2), spiking=False, v_min=-1.0)
    with pytest.raises(UnsupportedNetwork) as caught:
        PynnNestBackend().compile(SpikingNetwork((hidden, last)))
    text = str(caught.value)
    for reason in ("decay < 1", "refractory_steps", "v_min", "delay_steps must be at least 1"):
        assert reason in text
    slow = SpikingNetwork((Dense(np.eye(2), delay_steps=2), Dense(np.eye(2), spiking=False)))
    with pytest.raises(UnsupportedNetwork, match="delay_steps must be at most 1"):
        PynnNestBackend().compile(slow)


@installed
def test_other_calls_than_the_two_are_refused() -> None:
    tested = network("4-16-16-2", "zero")
    with pytest.raises(BackendError, match="calls is 'fast', wanted 'public' or 'kernel'"):
        backends.get("pynn:nest").compile(tested, calls="fast")


@installed
def test_a_nest_without_the_kernels_calls_is_named_and_frees_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from spikerl.backends import pynn_nest

    tested = network("4-16-16-2", "zero")
    lacking = ((None, None), "NEST 9 lacks calls it had")
    with monkeypatch.context() as patched:
        patched.setattr(pynn_nest, "kernel_calls", lambda nest: lacking)
        with pytest.raises(BackendError, match=r"NEST 9 lacks calls it had; use calls='public'"):
            backends.get("pynn:nest").compile(tested, calls="kernel")
    backends.get("pynn:nest").compile(tested, calls="kernel").close()


@installed
def test_another_time_step_is_no_option() -> None:
    tested = network("4-16-16-2", "zero")
    with pytest.raises(BackendError, match="'pynn:nest' has no option timestep"):
        backends.get("pynn:nest").compile(tested, timestep=0.1)


@installed
def test_a_stateful_agent_is_refused() -> None:
    agent = spikerl.convert(ZOO, sim_steps=4, delay_steps=1, n_calibration=500)
    with pytest.raises(SpikerlError, match="cannot carry this stateful agent's membranes"):
        spikerl.HardwarePolicy(replace(agent, stateful=True), "pynn:nest")


@installed
def test_a_session_that_could_not_be_built_frees_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from spikerl.backends import pynn_nest

    tested = network("4-16-16-2", "zero")
    with monkeypatch.context() as patched:
        patched.setattr(pynn_nest, "connection_lists", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            backends.get("pynn:nest").compile(tested)
    gc.collect()
    backends.get("nest").compile(tested).close()
