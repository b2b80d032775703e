"""What is particular to the torch back end; the contract is tested by the conformance suite."""

import numpy as np
import pytest
import torch

from spikerl.backends.torch import TorchBackend
from spikerl.errors import BackendError
from spikerl.network import Dense, SpikingNetwork
from spikerl.reference import simulate
from spikerl.testing import check_backend, parametrize_with_checks

NETWORK = SpikingNetwork(
    [Dense(weight=[[0.1, 0.7]], decay=0.9, v_min=-0.3), Dense(weight=[[0.3]], spiking=False)]
)


class Float32(TorchBackend):
    name = "torch-float32"

    def __init__(self):
        super().__init__(dtype="float32")


@parametrize_with_checks([Float32()])
def test_conformance_in_float32(backend, check):
    check(backend)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_conformance_on_a_cuda_device(dtype):
    check_backend(TorchBackend(device="cuda", dtype=dtype))


def test_in_float32_the_effective_network_holds_the_rounded_numbers():
    with TorchBackend().compile(NETWORK, dtype="float32") as session:
        first = session.network.layers[0]
        assert np.array_equal(first.weight, np.float32([[0.1, 0.7]]))
        assert first.decay == np.float32(0.9)
        assert first.v_min == np.float32(-0.3)
    with TorchBackend().compile(NETWORK) as session:
        assert session.network.fingerprint() == NETWORK.fingerprint()


def test_options_of_compile_come_before_those_of_the_back_end():
    with TorchBackend(dtype="float32").compile(NETWORK, dtype="float64") as session:
        assert session.network is NETWORK


@pytest.mark.parametrize("device", ["cuda:99", "no-such-device", "meta:x", 1.5])
def test_a_device_that_is_not_there_says_what_was_found_and_what_to_do(device):
    with pytest.raises(BackendError, match="CUDA devices here; use device='cpu'") as caught:
        TorchBackend().compile(NETWORK, device=device)
    assert repr(device) in str(caught.value)


def test_an_unknown_dtype_or_option_is_refused():
    with pytest.raises(BackendError, match="'float16', wanted one of float64, float32"):
        TorchBackend().compile(NETWORK, dtype="float16")
    with pytest.raises(BackendError, match="no option devise; it has device, dtype"):
        TorchBackend().compile(NETWORK, devise="cpu")


def test_products_that_round_the_weights_are_refused():
    drive = np.ones((2, 1, 2))
    with (
        TorchBackend().compile(NETWORK, dtype="float32") as single,
        TorchBackend().compile(NETWORK) as double,
    ):
        torch.set_float32_matmul_precision("medium")
        try:
            double.run(drive)  # has no such mode
            with pytest.raises(BackendError, match="set_float32_matmul_precision\\('highest'\\)"):
                single.run(drive)
        finally:
            torch.set_float32_matmul_precision("highest")
        single.run(drive)


def test_it_leaves_no_trace_for_gradients_and_accepts_read_only_drives():
    drive = np.broadcast_to(np.ones((1, 3, 2)), (10, 3, 2))
    with TorchBackend().compile(NETWORK, batch_size=3) as session:
        got = session.run(drive, record_spikes=True)
    want = simulate(NETWORK, drive)
    assert np.array_equal(got.spikes[0], want.spikes[0])
    assert np.allclose(got.potential, want.potential, rtol=1e-12)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
