"""Nets on the four weight currents of a Dynap-SE2 core, and handing them over to samna."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from spikerl.backends import rockpool_imports
from spikerl.dynapse import DynapseNet, Quantized, configuration, quantize
from spikerl.errors import BackendError

pytest.importorskip("jax")
pytest.importorskip("rockpool")

NET = DynapseNet.random(12, 4, 2, seed=2)


@pytest.fixture(scope="module")
def plain() -> Quantized:
    return quantize(NET, refine=False)


@pytest.fixture(scope="module")
def refined() -> Quantized:
    return quantize(NET)


def weights(net: DynapseNet) -> np.ndarray:
    return np.concatenate([net.w_in, net.w_rec])


@pytest.mark.parametrize("name", ["plain", "refined"])
def test_every_weight_is_a_sum_of_the_four_currents_its_code_names(
    name: str, request: pytest.FixtureRequest
) -> None:
    found: Quantized = request.getfixturevalue(name)
    codes = np.concatenate([found.codes_in, found.codes_rec])
    assert codes.min() >= 0
    assert codes.max() <= 15
    assert len(np.unique(codes)) > 4
    want = np.zeros(codes.shape)
    for bit, current in enumerate(found.currents):
        want += ((codes >> bit) % 2) * current / 1e-8  # Iscale is 10 nA
    assert np.allclose(np.abs(weights(found.net)), np.abs(want), rtol=1e-5)
    there = weights(found.net) != 0
    assert (np.sign(weights(found.net)) == np.sign(weights(NET)))[there].all()


def test_the_autoencoders_result_is_decoded_as_rockpool_would_restore_it(plain: Quantized) -> None:
    from rockpool.devices.dynapse.quantization.autoencoder.weight_handler import WeightHandler

    spec = plain.specification
    code = np.array([spec[f"Iw_{b}"][0] for b in range(4)]) / spec["Iscale"]
    for held, which in ((plain.net.w_in, "in"), (plain.net.w_rec, "rec")):
        mask = np.asarray(spec[f"weights_{which}"][0]).astype(int)
        want = WeightHandler.restore_weight_matrix(4, code, mask, spec[f"sign_{which}"][0])
        assert np.allclose(held, want, rtol=1e-5)


def test_refining_loses_less_and_is_what_is_handed_over(
    plain: Quantized, refined: Quantized
) -> None:
    assert refined.error() < plain.error()
    assert refined.error() < 0.05
    assert (refined.currents >= 0).all()
    size = np.abs(weights(NET))
    sums = np.unique(
        [sum(c for b, c in enumerate(refined.currents) if k >> b & 1) for k in range(16)]
    )
    nearest = np.abs(size[..., None] - sums / 1e-8).min(-1)
    assert np.allclose(np.abs(size - np.abs(weights(refined.net))), nearest, atol=1e-5)
    spec = refined.specification
    assert np.array_equal(spec["weights_in"][0], refined.codes_in)
    assert np.array_equal(spec["weights_rec"][0], refined.codes_rec)
    assert [spec[f"Iw_{b}"][0] for b in range(4)] == pytest.approx(list(refined.currents))
    assert "weights off by" in str(refined)


def test_quantising_is_repeatable_and_leaves_numpys_generator_alone(refined: Quantized) -> None:
    before = np.random.get_state()[1].copy()
    again = quantize(NET)
    assert np.array_equal(np.random.get_state()[1], before)
    assert np.array_equal(again.net.w_in, refined.net.w_in)


def test_a_net_without_recurrent_weights_keeps_none() -> None:
    found = quantize(replace(NET, w_rec=np.zeros((4, 4))))
    assert not found.net.w_rec.any()
    assert not found.codes_rec.any()
    assert found.error() < 0.05


def test_without_samna_a_board_is_refused_and_samna_is_never_imported(
    refined: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rockpool_imports.samna_version() is None:
        with pytest.raises(BackendError, match=r"samna, which is not installed.*can be simulated"):
            configuration(refined)
    placeholder = SimpleNamespace(version="0.1", files=[Path("samna/__init__.py")])
    monkeypatch.setattr(rockpool_imports, "distribution", lambda name: placeholder)
    with pytest.raises(BackendError, match="pip uninstall samna"):
        configuration(refined)
    assert "samna" not in sys.modules
