"""What is particular to the SpikingJelly back end; the contract is tested by the suite."""

import subprocess
import sys

import numpy as np
import pytest
from foreign import library, quarters

from spikerl import backends
from spikerl.backends import spikingjelly
from spikerl.backends.spikingjelly import SpikingJellyBackend
from spikerl.errors import BackendError, UnsupportedNetwork
from spikerl.network import Dense, SpikingNetwork
from spikerl.reference import simulate
from spikerl.testing import parametrize_with_checks

torch = library("torch")
library("spikingjelly.activation_based")


@parametrize_with_checks([SpikingJellyBackend()])
def test_conformance(backend, check):
    check(backend)


def leaky(decay):
    rng = np.random.default_rng(0)
    hidden = Dense(quarters(rng, 16, 4), quarters(rng, 16, low=0), decay=decay, v_init=0.3)
    return SpikingNetwork([hidden, Dense(quarters(rng, 2, 16), decay=decay, spiking=False)])


@pytest.mark.parametrize("decay", [0.9, 0.625, np.linspace(0.2, 1, 16)])
def test_a_leak_that_is_no_power_of_two_is_right_to_rounding(decay):
    network = leaky(0.9)
    layers = [Dense(network.layers[0].weight, decay=decay, v_init=0.3), network.layers[1]]
    network = SpikingNetwork(layers)
    drive = np.random.default_rng(1).uniform(-1, 2, (100, 5, 4))
    with SpikingJellyBackend().compile(network, batch_size=5) as session:
        got = session.run(drive, record_spikes=True)
    want = simulate(network, drive)
    assert 0.1 < want.spikes[0].mean() < 0.9
    assert np.array_equal(got.spikes[0], want.spikes[0])
    for a, b in zip(got.potentials, want.potentials, strict=True):
        assert np.allclose(a, b, rtol=0, atol=1e-12)


def test_building_and_running_leaves_torch_as_it_was():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    with SpikingJellyBackend().compile(leaky(0.5)) as session:
        session.run(np.ones((3, 1, 4)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_it_never_imports_torchvision():
    code = (
        "import sys\n"
        "sys.modules['torchvision'] = None\n"  # an import of it raises
        "from spikerl.testing import checks_for\n"
        "checks = {check.name: check for check in checks_for('spikingjelly')}\n"
        "checks['matches_reference_convolutional'](__import__('spikerl').backends"
        ".get('spikingjelly'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_its_neurons_cannot_do_is_refused_at_once():
    layer = Dense([[1.0]], recurrent=[[1.0]], refractory_steps=1, v_min=-1.0)
    with pytest.raises(UnsupportedNetwork) as caught:
        SpikingJellyBackend().compile(SpikingNetwork([layer]))
    assert len(caught.value.problems) == 3
    with pytest.raises(BackendError, match="no option device"):
        SpikingJellyBackend().compile(leaky(0.5), device="cuda")


def test_another_generation_of_spikingjelly_is_not_used(monkeypatch):
    assert backends.available()["spikingjelly"].usable
    monkeypatch.setattr(spikingjelly, "version", lambda name: "0.0.0.0.14")
    state = backends.available()["spikingjelly"]
    assert not state.usable
    assert "needs spikingjelly 2, found 0.0.0.0.14; install it: pip install" in str(state)
