"""The Rockpool back end: LIFNeuronTorch, held to the contract; the suite tests the rest."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import spikerl
from spikerl import backends
from spikerl.backends import rockpool_imports
from spikerl.backends.rockpool import RockpoolBackend
from spikerl.bench import random_network
from spikerl.errors import BackendError, UnsupportedNetwork
from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, SpikingNetwork
from spikerl.reference import simulate

ZOO = Path(__file__).parent.parent / "zoo" / "agents" / "dqn" / "CartPole-v1_1"
installed = pytest.mark.skipif(
    find_spec("rockpool") is None or find_spec("torch") is None,
    reason="needs Rockpool: pip install 'spikerl[rockpool]'",
)


def same(network: SpikingNetwork, drive: Any, **options: Any) -> SpikingNetwork:
    """Assert every spike and potential of the effective network, which is returned."""
    with backends.get("rockpool").compile(network, batch_size=drive.shape[1], **options) as session:
        got, want = session.run(drive, record_spikes=True), simulate(session.network, drive)
        assert got.spikes is not None
        assert want.spikes is not None
        assert sum(int(spikes.sum()) for spikes in want.spikes) > 10
        for ours, theirs in zip(got.spikes, want.spikes, strict=True):
            assert np.array_equal(ours, theirs)
        for v, wanted in zip(got.potentials, want.potentials, strict=True):
            assert np.abs(v - wanted).max() < 1e-12
        return session.network


@installed
@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("net", ["4-16-16-2", "8-64-64-4"])
def test_every_spike_and_potential_is_the_references(net: str, delay: int) -> None:
    layers = random_network(net).layers
    network = SpikingNetwork(tuple(replace(n, delay_steps=delay * n.spiking) for n in layers))
    x = np.random.default_rng(0).standard_normal((64, network.n_in))
    assert same(network, np.broadcast_to(x, (100, *x.shape))).n_out == network.n_out


@installed
def test_a_spike_that_two_thresholds_would_allow_is_one_spike() -> None:
    """Rockpool's own default is up to 65536 spikes per step."""
    network = SpikingNetwork([Dense([[1.0]]), Dense([[1.0]], spiking=False)])
    drive = np.zeros((12, 1, 1))
    drive[0] = 11.5
    same(network, drive)


@installed
def test_images_of_several_layers_are_the_references_as_well() -> None:
    rng = np.random.default_rng(3)
    network = SpikingNetwork(
        [
            Conv2d(rng.standard_normal((3, 2, 3, 3)) / 2, (2, 8, 8), rng.standard_normal(3) / 9),
            AvgPool2d((3, 6, 6), (2, 2)),
            Flatten((3, 3, 3)),
            Dense(rng.standard_normal((5, 27)), v_init=0.5, v_threshold=[0.5, 1, 1.5, 2, 2.5]),
            Dense(rng.standard_normal((2, 5)), decay=0.75, spiking=False),
        ]
    )
    same(network, rng.random((30, 4, 128)))


@installed
@pytest.mark.parametrize("dt_ms", [1.0, 0.1])
def test_the_effective_network_has_the_decays_that_the_time_constants_give(dt_ms: float) -> None:
    decay = np.random.default_rng(1).uniform(0.05, 1.0, 400)
    decay[:4] = 0.5, 0.9, 1.0, 1e-6
    layers = [Dense(np.ones((400, 2)), decay=decay), Dense(np.ones((1, 400)), spiking=False)]
    network = SpikingNetwork(layers, dt_ms)
    effective = same(network, np.random.default_rng(2).random((20, 3, 2)))
    found = effective.neuron_layers[0].decay
    assert found[2] == 1.0
    assert (np.abs(found - decay) <= 4e-15 * decay).all()
    assert (found == decay).mean() > 0.7  # the nearest time constant is searched for


@installed
def test_a_converted_agent_decides_as_on_the_reference() -> None:
    agent = spikerl.convert(ZOO, sim_steps=16, n_calibration=1000, target="rockpool")
    observations = np.random.default_rng(2).uniform(-0.2, 0.2, (40, 4)).astype(np.float32)
    values = {}
    for name in ("rockpool", "reference"):
        with spikerl.HardwarePolicy(agent, name, n_envs=8) as policy:
            values[name] = policy.values(observations)
    assert np.abs(values["rockpool"] - values["reference"]).max() < 1e-9


@installed
def test_deciding_leaves_torchs_random_numbers_and_the_root_logger_alone() -> None:
    import torch

    before, handlers = torch.random.get_rng_state(), list(logging.getLogger().handlers)
    same(random_network("4-16-16-2"), np.ones((20, 2, 4)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert logging.getLogger().handlers == handlers


def test_what_rockpool_cannot_do_is_refused_with_every_reason() -> None:
    network = SpikingNetwork(
        [
            Dense(np.eye(2), reset="zero", refractory_steps=1, recurrent=np.eye(2)),
            Dense(np.eye(2), spiking=False, v_min=-1.0),
        ]
    )
    with pytest.raises(UnsupportedNetwork) as caught:
        RockpoolBackend().compile(network)
    for reason in ("reset='zero'", "refractory_steps", "recurrent weights", "v_min"):
        assert reason in str(caught.value)


def test_a_placeholder_of_samna_is_not_given_a_chance_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = SimpleNamespace(version="0.48", files=[Path("samna/__init__.py")])
    monkeypatch.setattr(rockpool_imports, "distribution", lambda name: fake)
    with (
        pytest.raises(BackendError, match=r"placeholder.*; remove it: pip uninstall samna"),
        rockpool_imports.importing("rockpool"),
    ):
        raise AssertionError("this would have imported it")
    if find_spec("rockpool") is not None:
        assert not backends.available()["rockpool"].usable
    fake.files.append(Path("samna/_samna.cpython-311-x86_64-linux-gnu.so"))
    assert rockpool_imports.unmet() is None
    assert rockpool_imports.samna_version() == "0.48"


def test_importing_the_back_end_imports_no_simulator() -> None:
    code = """
import sys
from spikerl.backends.rockpool import RockpoolBackend
RockpoolBackend().capabilities
assert not {"rockpool", "torch", "jax", "samna"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
