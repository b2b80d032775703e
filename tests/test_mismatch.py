"""Chips differ: training meets another one in every rollout, an agent is measured on several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from small_agents import AGENTS
from torch import nn

import spikerl
from spikerl.errors import SpikerlError
from spikerl.mismatch import chip_instance
from spikerl.network import Dense, SpikingNetwork
from spikerl.policies import SpikingActorCriticPolicy, SpikingDQNPolicy
from spikerl.policies.keywords import stacks
from spikerl.reference import simulate


def model(mismatch: float = 0.2) -> sb3.PPO:
    torch.set_num_threads(1)
    kwargs: dict[str, Any] = {
        "sim_steps": 4, "net_arch": [32, 32], "neuron_kwargs": {"mismatch": mismatch},
    }  # fmt: skip
    return sb3.PPO(
        SpikingActorCriticPolicy, "CartPole-v1", n_steps=64, batch_size=64, seed=0, device="cpu",
        policy_kwargs=kwargs,
    )  # fmt: skip


def test_a_rollout_and_its_training_are_on_one_chip_and_the_next_on_another() -> None:
    made = model().learn(64)
    policy = made.policy
    rows = torch.randn(50, 4)
    seen = []
    for _ in range(3):
        policy.set_training_mode(False)
        with torch.no_grad():
            actions, _, rollout = policy(rows)
        policy.set_training_mode(True)
        _, trained, _ = policy.evaluate_actions(rows, actions)
        torch.testing.assert_close(rollout, trained.detach(), rtol=1e-4, atol=1e-4)
        seen.append(policy.get_distribution(rows).distribution.logits.detach())
    assert not torch.allclose(seen[0], seen[1])
    assert not torch.allclose(seen[1], seen[2])


def test_predict_and_export_are_as_designed() -> None:
    made = model().learn(128)
    rows = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    plain = model(0.0)
    plain.policy.load_state_dict(made.policy.state_dict())
    wanted = plain.predict(rows, deterministic=True)[0]
    np.testing.assert_array_equal(made.predict(rows, deterministic=True)[0], wanted)
    agent = spikerl.convert(made, observations=rows)
    with spikerl.HardwarePolicy(agent) as policy:
        np.testing.assert_array_equal(policy.predict(rows)[0], wanted)


@pytest.mark.parametrize("norm", ["batch", "care_bn"])
@pytest.mark.parametrize("bits", [None, 6])
def test_what_a_norm_measures_is_trained_on_the_chip_as_well(norm: str, bits: int | None) -> None:
    neuron = {"mismatch": 0.3, "weight_bits": bits}
    kwargs = {"sim_steps": 4, "net_arch": [16], "norm": norm, "neuron_kwargs": neuron}
    torch.set_num_threads(1)
    made = sb3.DQN(SpikingDQNPolicy, "CartPole-v1", seed=0, device="cpu", policy_kwargs=kwargs)
    made.policy.set_training_mode(True)
    made.policy.set_training_mode(False)  # a rollout begins: another chip
    made.policy.set_training_mode(True)
    (stack,) = stacks(made.q_net)
    (layer,) = stack.layers
    assert layer.chip is not None
    rows = torch.randn(1, 64, 4)
    found = layer.current(rows)
    chip, layer.chip = layer.chip, None
    plain = nn.functional.linear(rows, layer.synapses.weight, layer.synapses.bias)
    weight, bias = layer.weights(layer.norm.moments(plain))
    wanted = nn.functional.linear(rows, weight * chip[0], bias * chip[1])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert (found - layer.current(rows)).abs().max() > 0.1


def test_off_policy_training_draws_chips_too_and_targets_have_none() -> None:
    kwargs: dict[str, Any] = {"sim_steps": 4, "neuron_kwargs": {"mismatch": 0.3}}
    made = sb3.DQN(
        SpikingDQNPolicy, "CartPole-v1", learning_starts=20, buffer_size=500, seed=0, device="cpu",
        policy_kwargs=kwargs,
    ).learn(100)  # fmt: skip
    (own,), (target,) = (list(stacks(net)) for net in (made.q_net, made.q_net_target))
    assert all(layer.chip is not None for layer in own.layers)
    assert all(layer.chip is None for layer in target.layers)


def test_a_chip_is_off_by_the_mismatch_and_is_always_the_same_one() -> None:
    layer = Dense(
        np.ones((200, 100)), np.ones(200), v_threshold=2.0, recurrent=np.full((200, 200), 1e-3)
    )
    network = SpikingNetwork((layer, Dense(np.ones((3, 200)), spiking=False)))
    chip = chip_instance(network, 0.1, seed=4)
    assert chip.fingerprint() == chip_instance(network, 0.1, seed=4).fingerprint()
    assert chip.fingerprint() != chip_instance(network, 0.1, seed=5).fingerprint()
    assert chip_instance(network, 0.0, seed=4).layers[0].weight.tolist() == layer.weight.tolist()
    first = chip.layers[0]
    assert isinstance(first, Dense)
    for array, mean in ((first.weight, 1), (first.v_threshold, 2), (first.recurrent, 1e-3)):
        assert array.std() / mean == pytest.approx(0.1, rel=0.15)
        assert array.mean() == pytest.approx(mean, rel=0.03)
    drive = np.full((50, 1, 100), 0.001)
    counts = [simulate(n, drive).counts[0].tolist() for n in (network, chip)]
    assert counts[0] != counts[1]


def test_an_agent_s_chip_says_which_one_it_is() -> None:
    agent = AGENTS["pole"]()
    chip = chip_instance(agent, 0.2, seed=1)
    assert chip.provenance["chip"] == {"mismatch": 0.2, "seed": 1}
    assert chip.report is None
    with pytest.raises(SpikerlError, match="mismatch must be a number >= 0, found -1"):
        chip_instance(agent, -1, seed=1)
    with pytest.raises(SpikerlError, match=r"mismatch must be in \[0, 1\], found 1\.5"):
        model(1.5)
