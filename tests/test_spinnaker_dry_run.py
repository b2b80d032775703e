"""The dry run: the same builder on the real sPyNNaker with a virtual machine, and on a fake one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_spynnaker import FakeSpynnaker
from test_spinnaker import constant, convolutional, opened, real_valued, recurrent, small

import spikerl
from spikerl.backends import spinnaker_dry_run as module
from spikerl.backends.spinnaker import DryRun, dry_run
from spikerl.backends.spinnaker_config import VIRTUAL, Workspace, spynnaker
from spikerl.backends.spinnaker_dry_run import read_back
from spikerl.backends.spinnaker_graph import Graph
from spikerl.backends.spinnaker_plan import effective, plan
from spikerl.errors import BackendError, ShapeError, UnsupportedNetwork
from spikerl.network import AvgPool2d, Conv2d, Dense, SpikingNetwork
from spikerl.reference import simulate

ZOO = Path(__file__).parent.parent / "zoo" / "agents" / "dqn" / "CartPole-v1_1"
installed = pytest.mark.skipif(
    importlib.util.find_spec("spynnaker") is None,
    reason="needs sPyNNaker: pip install 'spikerl[spinnaker]'",
)
NETWORKS = {
    "dense": small(),
    "real-valued": real_valued(),
    "recurrent": recurrent(),
    "convolutional": convolutional(),
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSpynnaker:
    """A fake instead of sPyNNaker in dry_run()."""
    sim = FakeSpynnaker(virtual=True)
    monkeypatch.setattr(module, "spynnaker", lambda: sim)
    monkeypatch.setattr(module, "_places", lambda: [(f"layer {k}", f"0,0,{k}") for k in range(3)])
    return sim


# --- with sPyNNaker -----------------------------------------------------------------------------


@installed
@pytest.mark.parametrize("name", NETWORKS)
def test_spynnaker_takes_the_graph_and_holds_the_predicted_weights(name: str) -> None:
    planned = plan(NETWORKS[name])
    held, places = read_back(planned, 2, spynnaker, module._places)
    assert {label for label, _ in places} == {f"layer {k}" for k in range(len(planned.layers))}
    seen = 0
    for here, by_layer in zip(planned.layers, held, strict=True):
        for projection, by_sign in zip(here.projections, by_layer, strict=True):
            for (_, sign, asked), values in zip(projection.signs, by_sign, strict=True):
                step = here.steps(sign)[asked.targets]
                assert (np.abs(values - here.quantised(asked, sign)) <= step * 1e-9).all()
                seen += len(values)
    assert seen > 70
    assert effective(planned, held).fingerprint() == effective(planned).fingerprint()


@installed
def test_the_fake_holds_what_spynnaker_holds() -> None:
    """So the spikes computed by the fake are those of the weights a board is sent."""
    for network in (real_valued(), convolutional()):
        planned = plan(network)
        real, _ = read_back(planned, 1, spynnaker, module._places)
        copy, _ = read_back(planned, 1, lambda: FakeSpynnaker(virtual=True), lambda: [])
        assert effective(planned, real).fingerprint() == effective(planned, copy).fingerprint()


@installed
def test_a_converted_agent_is_mapped_and_its_decisions_are_predicted() -> None:
    agent = spikerl.convert(ZOO, sim_steps=32, reset="zero", delay_steps=1, n_calibration=1000)
    observations = np.random.default_rng(2).uniform(-0.2, 0.2, (300, 4)).astype(np.float32)
    found = dry_run(agent, observations)
    assert found.cores == len(found.layers) == 3
    assert [layer.neurons for layer in found.layers] == [64, 64, 2]
    assert all(len(layer.cores) == 1 and layer.weight_error <= 0.5 for layer in found.layers)
    assert sum(found.layers[1].synapses) == (agent.network.layers[1].weight != 0).sum()
    assert found.agreement is not None
    assert found.agreement.n == 300
    assert found.agreement.low > 0.95
    with spikerl.HardwarePolicy(replace(agent, network=found.network), "reference") as policy:
        chip = policy.predict(observations)[0]
    with spikerl.HardwarePolicy(agent, "reference") as policy:
        asked = policy.predict(observations)[0]
    assert found.agreement.value == (chip == asked).mean()
    assert "no board was involved" in str(found)


@installed
def test_stdout_and_the_home_stay_clean(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_spinnaker import small
from spikerl.backends.spinnaker import dry_run
import logging
logging.basicConfig(level="INFO", stream=sys.stdout)
format_before = logging.root.handlers[0].formatter
print(dry_run(small()).cores)
dry_run(small())
assert logging.root.handlers[0].formatter is format_before
assert not logging.root.handlers[0].filters
"""
    (tmp_path / "work").mkdir()
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
    environment["MPLCONFIGDIR"] = str(tmp_path / "work" / "matplotlib")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path / "work",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("INFO", "WARNING"))]
    assert lines == ["3"]
    assert done.stderr == ""
    assert not (tmp_path / ".spynnaker.cfg").exists()
    assert not list((tmp_path / "tmp").glob("spikerl-*"))
    assert {path.name for path in (tmp_path / "work").iterdir()} <= {"matplotlib"}


@installed
def test_a_board_at_a_dead_address_is_a_clear_error() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_spinnaker import BOARD, replace, small
from spikerl.backends.spinnaker import BackendError, dry_run, open_session, spynnaker
where = replace(BOARD, sections={{"Machine": {{"machinename": "127.0.0.2", "version": "5"}}}})
try:
    open_session(small(), 1, where, spynnaker)
except BackendError as error:
    print(error)
print(dry_run(small()).cores)  # sPyNNaker can be used again
"""
    # in a process of its own, because sPyNNaker leaves sockets open
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, cores = done.stdout.splitlines()
    assert said.startswith("sPyNNaker stopped on the board 10.0.0.1 (from here.cfg): Spinn")
    assert "check that the board is switched on" in said
    assert cores == "3"


@installed
def test_spynnaker_goes_on_when_earlier_recordings_are_removed() -> None:
    files = Workspace(VIRTUAL)
    try:
        with files.quiet():
            with files.at_home():
                graph = Graph(spynnaker(), plan(small()), 1)
            for value in (0.0, 0.25, -0.25, 0.0):
                graph.decide(np.full((1, 9), value), 5)
                graph.spikes(0)
                graph.potentials()
                files.prune()
                assert len(list(files.path.rglob("data*.sqlite3"))) == 1
            graph.end()
    finally:
        files.close()
    assert not files.path.exists()


@installed
def test_weights_between_two_steps_are_rounded() -> None:
    layer = Dense(np.full((1, 2), 0.3), reset="zero", delay_steps=1)
    network = SpikingNetwork((Dense(np.eye(2), reset="zero", delay_steps=1), layer))
    made = dry_run(network).network.layers[1].weight
    assert not np.array_equal(made, layer.weight)
    assert np.abs(made - 0.3).max() < 2.0**-12


# --- without ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_the_effective_network_is_within_half_a_step_of_what_was_asked_for(name: str) -> None:
    network = NETWORKS[name]
    planned = plan(network)
    made = effective(planned)
    asked = iter(network.layers)
    for here, layer in zip(planned.layers, made.neuron_layers, strict=True):
        original: Any = next(x for x in asked if hasattr(x, "v_init"))
        smallest = here.scale.min()
        for name_ in ("bias", "v_init") + (("v_threshold",) if layer.spiking else ()):
            gap = np.abs(getattr(layer, name_) - getattr(original, name_))
            assert gap.max() <= 2.0**-16 / smallest
    if name != "real-valued":  # multiples of 1/16 are held as they are
        drive = constant(network, 2)
        got, want = simulate(made, drive).spikes, simulate(network, drive).spikes
        assert all(np.array_equal(a, b) for a, b in zip(got or (), want or (), strict=True))


def test_synapses_that_overlap_keep_their_own_weights() -> None:
    rng = np.random.default_rng(0)
    one = Conv2d(np.ones((1, 1, 1, 1)), (1, 5, 5), reset="zero", delay_steps=1)
    pool = AvgPool2d(one.output_shape, (2, 2), (1, 1))  # windows share neurons
    two = Conv2d(rng.normal(size=(2, 1, 2, 2)), pool.output_shape, reset="zero", delay_steps=1)
    planned = plan(SpikingNetwork((one, pool, two)))
    held, _ = read_back(planned, 1, lambda: FakeSpynnaker(virtual=True), lambda: [])
    made: Any = effective(planned, held).layers[2]
    assert 0 < np.abs(made.weight - two.weight).max() < 2.0**-10


def test_a_network_is_compared_on_currents(fake: FakeSpynnaker) -> None:
    network = real_valued()
    x = np.random.default_rng(0).standard_normal((50, 8))
    found = dry_run(network, x, sim_steps=40)
    assert found.agreement is not None
    first, second = (
        simulate(n, np.broadcast_to(x, (40, 50, 8))).potential for n in (network, found.network)
    )
    assert first is not None
    assert second is not None
    same = (first.argmax(axis=1) == second.argmax(axis=1)).mean()
    assert found.agreement.value == same
    assert dry_run(network).agreement is None
    assert found.to_dict()["agreement"]["n"] == 50
    with pytest.raises(ShapeError, match=r"found currents of shape \(50,\), wanted \[B, 8\]"):
        dry_run(network, x[:, 0])


@pytest.mark.parametrize("factor", [1.01, -1.0])
def test_weights_that_are_not_held_are_an_error(fake: FakeSpynnaker, factor: float) -> None:
    fake.tamper = factor
    with pytest.raises(BackendError, match="steps off, wanted at most one and none negative"):
        dry_run(real_valued())


def test_a_lost_synapse_is_an_error(fake: FakeSpynnaker) -> None:
    got = fake.Projection

    def lossy(pre: Any, post: Any, rows: Any, receptor_type: str) -> Any:
        return got(pre, post, rows[:-1], receptor_type)

    fake.Projection = lossy  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="synapses between other neurons"):
        dry_run(small())


def test_what_does_not_fit_is_refused_before_anything_is_built(fake: FakeSpynnaker) -> None:
    with pytest.raises(UnsupportedNetwork, match="reset='subtract'"):
        dry_run(SpikingNetwork((Dense(np.eye(2)), Dense(np.eye(2), spiking=False))))
    assert fake.calls == []


def test_a_failure_of_spynnaker_is_told_and_frees_the_place(fake: FakeSpynnaker) -> None:
    fake.fail = "no chips left"
    with pytest.raises(BackendError, match="could not map the network: OSError: no chips left"):
        dry_run(small())
    fake.fail = None
    found = dry_run(small())
    assert isinstance(found, DryRun)
    assert found.cores == 3
    with opened(small(), FakeSpynnaker()), pytest.raises(BackendError, match="one simulator"):
        dry_run(small())


def test_an_encoder_of_spikes_is_refused(fake: FakeSpynnaker) -> None:
    agent = spikerl.convert(
        ZOO, sim_steps=8, reset="zero", delay_steps=1, n_calibration=500, encoder="poisson"
    )
    with pytest.raises(BackendError, match="PoissonSpikes changes from step to step"):
        dry_run(agent, np.ones((3, 4), np.float32))
