"""Conversion for what a target does: resets to zero, delays, weights of few bits."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from policies import RELU
from stable_baselines3 import PPO

import spikerl
from spikerl.errors import ConversionError


@cache
def source() -> Any:
    """A policy that has learned a little, so that its decisions are not all alike."""
    kwargs = {**RELU, "net_arch": [32, 32]}
    return PPO("MlpPolicy", "CartPole-v1", seed=1, device="cpu", policy_kwargs=kwargs).learn(6000)


def agreement(**rules: Any) -> tuple[float, spikerl.SpikingAgent]:
    agent = spikerl.convert(source(), **{"sim_steps": 32, "n_calibration": 4000, **rules})
    assert agent.report is not None
    assert agent.report.agreement is not None
    return agent.report.agreement.value, agent


def test_delays_cost_little_as_the_read_out_is_fitted_to_what_arrives() -> None:
    plain, _ = agreement()
    fitted, agent = agreement(delay_steps=2)
    copied, _ = agreement(delay_steps=2, readout="copied")
    assert [layer.delay_steps for layer in agent.network.spiking_layers] == [2, 2]
    assert fitted > plain - 0.02
    assert fitted > copied


def test_reset_to_zero_chooses_a_rate_at_which_resets_lose_less() -> None:
    rules = {"reset": "zero", "readout": "copied", "sim_steps": 128}
    given = {scale: agreement(rate_scale=scale, **rules) for scale in (1.0, 0.5, 0.25)}
    chosen, agent = agreement(**rules)
    scale = agent.provenance["recipe"]["rate_scale"]
    assert agent.network.fingerprint() == given[scale][1].network.fingerprint()
    assert chosen > given[1.0][0] + 0.02


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_those_of_a_target_of_so_many_bits(bits: int) -> None:
    found, agent = agreement(weight_bits=bits)
    for layer in agent.network.neuron_layers:
        both = np.concatenate([layer.weight.ravel(), layer.bias])
        step = np.abs(both).max() / (2 ** (bits - 1) - 1)
        np.testing.assert_allclose(both / step, np.rint(both / step), rtol=0, atol=1e-9)
    assert found > agreement()[0] - (0.02 if bits == 8 else 0.25)


def test_rules_of_a_target_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConversionError, match=r"(?s)weight_bits must be.*rate_scale is spikes"):
        agreement(weight_bits=1, rate_scale=2.0)
