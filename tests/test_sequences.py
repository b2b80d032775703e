"""Agents that remember are measured on sequences of decisions, not on first ones alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO

import spikerl
import spikerl.envs  # registers the task
from spikerl import HardwarePolicy
from spikerl.conversion.sequences import LENGTH, Sequences
from spikerl.errors import ConversionError
from spikerl.nn.memory import SpikingMemory
from spikerl.policies import SpikingRecurrentPolicy

TASK = "spikerl/CartPoleNoVel-v1"


@pytest.fixture(scope="module")
def model() -> Any:
    kwargs = {"sim_steps": 3, "memory_size": 24}
    made = RecurrentPPO(
        SpikingRecurrentPolicy, TASK, n_steps=64, seed=0, policy_kwargs=kwargs, device="cpu"
    )
    made.learn(64)
    torch.manual_seed(0)
    with torch.no_grad():
        made.policy.action_net.weight.normal_()
        made.policy.lstm_actor.recurrent.mul_(3)
    return made


def test_rows_are_in_sequences_that_end_with_their_episode() -> None:
    groups = np.repeat([4, 7, 9], [30, 10, 15])
    found = Sequences.of(groups)
    assert found.index.shape == (3, LENGTH)
    assert np.array_equal(found.index.reshape(-1)[:55], np.arange(55))
    begun = found.index[found.starts]
    assert np.array_equal(begun, [0, 25, 30, 40, 50])
    parts = [np.array([[k], [LENGTH + k], [2 * LENGTH + k]]) for k in range(LENGTH)]
    assert np.array_equal(found.joined(parts)[:, 0], np.arange(55))


def test_the_report_is_of_decisions_that_remember(model: Any) -> None:
    agent = spikerl.convert(model, env=TASK, n_calibration=200)
    assert agent.report is not None
    assert agent.report.agreement.value == 1.0
    (layer,) = agent.report.layers
    with HardwarePolicy(agent) as policy:
        rates, state, firsts = [], None, []
        env = gym.make(TASK)
        for seed in range(8):
            observation, _ = env.reset(seed=seed)
            begun = True
            for _ in range(25):
                action, state = policy.predict(
                    observation, state, np.array([begun]), deterministic=True
                )
                rate = policy.recording.counts[0].mean() / agent.sim_steps
                rates.append(rate)
                firsts += [rate] if begun else []
                observation, _, over, _, _ = env.step(action)
                begun = over
                if over:
                    observation, _ = env.reset()
    assert layer.rate == pytest.approx(np.mean(rates), rel=0.35)
    assert abs(layer.rate - np.mean(rates)) < abs(layer.rate - np.mean(firsts))


@pytest.mark.parametrize("part", ["recurrent", "decay"])
def test_a_memory_that_is_exported_wrongly_is_found_out(
    model: Any, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = SpikingMemory.to_layer

    def wrong(self: SpikingMemory) -> Any:
        layer = right(self)
        assert layer.recurrent_weight is not None
        change = {
            "recurrent": {"recurrent": 0 * layer.recurrent_weight},
            "decay": {"decay": 0.5},
        }[part]
        return replace(layer, **change)

    monkeypatch.setattr(SpikingMemory, "to_layer", wrong)
    with pytest.raises(ConversionError, match="values differ from the policy's"):
        spikerl.convert(model, env=TASK, n_calibration=200)
