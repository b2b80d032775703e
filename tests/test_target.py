"""Conversion for what a target does: resets to zero, delays, weights of few bits."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from policies import RELU, Spaces
from stable_baselines3 import PPO

import spikerl
from spikerl import backends
from spikerl.errors import BackendError, ConversionError, SpikerlError
from spikerl.policies import SpikingActorCriticPolicy


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
        step = np.abs(layer.weight).max() / (2 ** (bits - 1) - 1)
        np.testing.assert_allclose(both / step, np.rint(both / step), rtol=0, atol=1e-9)
    assert found > agreement()[0] - (0.02 if bits == 8 else 0.25)


@pytest.mark.parametrize(
    ("target", "reset", "delay"),
    [
        ("cpu", "subtract", 0),
        ("nest", "subtract", 1),
        ("nest:iaf_psc_delta", "zero", 1),
    ],
)
def test_a_target_sets_what_it_needs(target: str, reset: str, delay: int) -> None:
    backends.get(target)
    _, agent = agreement(target=target)
    for layer in agent.network.spiking_layers:
        assert (layer.reset, layer.delay_steps) == (reset, delay)
    assert backends.get(target).problems(agent.network) == []


def test_a_target_whose_host_computes_the_first_layer_keeps_its_remainders() -> None:
    kept, agent = agreement(target="loihi:emulator", sim_steps=128)
    first, second = agent.network.spiking_layers
    assert (first.reset, second.reset) == ("subtract", "zero")
    levels = [np.unique(np.abs(layer.weight)).size for layer in agent.network.neuron_layers]
    assert levels[1] <= 128
    assert levels[0] == first.weight.size  # those of the host are not rounded
    assert levels[2] == agent.network.readout.weight.size
    assert (
        backends.load("loihi", backends.TABLE["loihi:emulator"].target).problems(agent.network)
        == []
    )
    lost, agent = agreement(target="loihi:emulator", first_reset="zero", sim_steps=128)
    assert [layer.reset for layer in agent.network.spiking_layers] == ["zero", "zero"]
    assert kept > lost + 0.02
    with pytest.raises(ConversionError, match="first_reset is 'both'; wanted one of None, sub"):
        agreement(first_reset="both")


def test_what_does_not_fit_the_target_is_refused_with_every_reason() -> None:
    message = r"(?s)delay_steps=2, where 'nest:iaf_psc_delta' needs 1"
    with pytest.raises(ConversionError, match=message):
        agreement(target="nest:iaf_psc_delta", delay_steps=2)
    with pytest.raises(BackendError, match="there is no back end 'nets'"):
        agreement(target="nets")


def test_a_network_for_a_board_of_loihi_starts_where_the_board_does() -> None:
    _, agent = agreement(target="loihi", n_calibration=500)
    assert all((layer.v_init == 0).all() for layer in agent.network.spiking_layers)
    with pytest.raises(ConversionError, match="v_init=0\\.25, where 'loihi' needs"):
        spikerl.convert(source(), target="loihi", v_init=0.25)


def test_a_target_whose_neurons_must_rest_is_refused() -> None:
    with pytest.raises(ConversionError, match="'pynn:neuron' has neurons that rest for 1 step"):
        spikerl.convert(source(), target="pynn:neuron")


def test_a_policy_is_trained_for_its_target() -> None:
    kwargs = {"target": "nest", "sim_steps": 4, "net_arch": [16]}
    made = PPO(SpikingActorCriticPolicy, "CartPole-v1", device="cpu", policy_kwargs=kwargs)
    rows = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    agent = spikerl.convert(made, observations=rows)
    assert backends.get("nest").problems(agent.network) == []
    message = r"(?s)cannot run on 'nest'.*decay < 1.*delay_steps must be at most 1"
    kwargs |= {"neuron": "LIF", "neuron_kwargs": {"delay_steps": 2}}
    with pytest.raises(SpikerlError, match=message):
        PPO(SpikingActorCriticPolicy, "CartPole-v1", device="cpu", policy_kwargs=kwargs)


UNTRAINABLE = {"pynn:neuron": "refractory_steps must be at least 1"}
TRAINABLE = sorted(set(backends.TABLE) - set(UNTRAINABLE))


def trained_for(target: str, **neuron_kwargs: Any) -> Any:
    kwargs = {"target": target, "net_arch": [16], "neuron_kwargs": neuron_kwargs}
    sizes = {"n_steps": 64, "batch_size": 64, "seed": 0, "device": "cpu"}
    return PPO(SpikingActorCriticPolicy, "CartPole-v1", policy_kwargs=kwargs, **sizes)


@pytest.mark.parametrize("target", TRAINABLE)
def test_what_is_trained_for_a_target_runs_there(target: str) -> None:
    backend = backends.load(target, backends.TABLE[target].target)
    made = trained_for(target).learn(64)
    rows = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    agent = spikerl.convert(made, observations=rows)
    assert backend.problems(agent.network) == []
    rules = backends.rules(target)
    for layer in agent.network.spiking_layers:
        assert (layer.reset, layer.delay_steps) == (rules["reset"], rules["delay_steps"])
    levels = np.unique(np.abs(agent.network.neuron_layers[0].weight)).size
    assert levels == 64 if rules["weight_bits"] is None else levels < 64


@pytest.mark.parametrize("target", UNTRAINABLE)
def test_a_target_no_policy_can_be_trained_for_names_the_rule_and_the_others(target: str) -> None:
    message = (
        f"no policy can be trained for '{target}': {UNTRAINABLE[target]} there, which the neurons "
        f"of a policy cannot have; policies can be trained for {', '.join(TRAINABLE)}"
    )
    with pytest.raises(SpikerlError, match=re.escape(message)):
        trained_for(target)


def test_rules_of_neurons_that_a_target_does_not_have_are_refused() -> None:
    with pytest.raises(SpikerlError, match="cannot run on 'xylo': weight_bits is 9, at most 8 are"):
        trained_for("xylo", weight_bits=9)
    assert trained_for("xylo", weight_bits=8).policy.neuron.weight_bits == 8
    with pytest.raises(SpikerlError, match="on 'loihi': weight_bits is None, at most 8 are"):
        trained_for("loihi", weight_bits=None)
    # the host's first layer could reset so, the others could not
    with pytest.raises(SpikerlError, match="on 'loihi': reset='subtract' is not supported, only z"):
        trained_for("loihi", reset="subtract")


def test_layers_that_a_target_does_not_have_are_refused_before_the_training() -> None:
    def made(space: spaces.Box, **kwargs: Any) -> None:
        env = Spaces(space, spaces.Discrete(2))
        kwargs = {"target": "xylo", **kwargs}
        PPO(SpikingActorCriticPolicy, env, policy_kwargs=kwargs, n_steps=8, batch_size=8)

    few = spaces.Box(-1, 1, (4,))
    made(few)
    with pytest.raises(SpikerlError, match="cannot run on 'xylo': 40 inputs, at most 16 fit"):
        made(few, encoder="population")
    image = spaces.Box(0, 255, (1, 12, 12), np.uint8)
    small = {"kernels": [[4, 4, 2]], "features_dim": 12}
    with pytest.raises(SpikerlError, match=r"(?s)layer 0: Conv2d is not.*144 inputs, at most 16"):
        made(image, features_extractor_kwargs=small)


def test_rules_of_a_target_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConversionError, match=r"(?s)weight_bits must be.*rate_scale is spikes"):
        agreement(weight_bits=1, rate_scale=2.0)
