"""Spikes are limited through gradients, whatever the algorithm's loss is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch
from torch import Tensor

from spikerl.errors import SpikerlError
from spikerl.nn import SpikingMLP, SpikingStack
from spikerl.nn.budget import Budget
from spikerl.policies import SpikingActorCriticPolicy
from spikerl.policies.keywords import stacks

T = 6


def stack_of(budget: Budget | None) -> SpikingStack:
    torch.manual_seed(2)
    return SpikingMLP(5, [12, 8], sim_steps=T, budget=budget)


def penalty(rates: list[Tensor], budget: Budget) -> Tensor:
    total = torch.zeros(())
    if budget.rate is not None:
        for rate in rates:
            total = total + torch.relu(rate.mean() - budget.rate) ** 2 / budget.rate**2
    if budget.operations is not None:
        spikes = [rate.sum() / len(rate) * T for rate in rates]
        spent = spikes[0] * 8 + spikes[1]  # each neuron of the first layer has 8 synapses
        total = total + torch.relu(spent - budget.operations) ** 2 / budget.operations**2
    return budget.strength * total


@pytest.mark.parametrize(
    "budget", [Budget(rate=0.1), Budget(operations=50.0), Budget(0.2, 80.0, 3.0)], ids=str
)
def test_gradients_are_those_of_the_loss_with_the_penalty(budget: Budget) -> None:
    rows, weight = torch.randn(20, 5), torch.randn(8)
    grads = []
    for given in (None, budget):
        stack = stack_of(given)
        rates = stack.rates(rows)
        loss = ((rates[-1] @ weight) ** 2).mean()
        if given is None:
            loss = loss + penalty(rates, budget)
        grads.append(torch.autograd.grad(loss, list(stack.parameters())))
    plain = stack_of(None)
    without = torch.autograd.grad(((plain(rows) @ weight) ** 2).mean(), list(plain.parameters()))
    for wanted, found, free in zip(*grads, without, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(found, free, rtol=1e-2)


def test_a_budget_that_is_kept_changes_nothing() -> None:
    rows = torch.randn(20, 5)
    grads = []
    for budget in (None, Budget(rate=0.99, operations=1e6)):
        stack = stack_of(budget)
        grads.append(torch.autograd.grad(stack(rows).sum(), list(stack.parameters())))
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


def test_a_policy_that_is_trained_with_a_budget_spikes_less() -> None:
    torch.set_num_threads(1)
    rates = []
    for budget in (None, {"rate": 0.02, "strength": 1.0}):
        kwargs: dict[str, Any] = {"sim_steps": 4, "net_arch": [32, 32], "budget": budget}
        model = sb3.PPO(
            SpikingActorCriticPolicy, "CartPole-v1", n_steps=128, seed=0, device="cpu",
            policy_kwargs=kwargs, learning_rate=3e-3,
        ).learn(1024)  # fmt: skip
        (actor,) = [stack for stack in stacks(model.policy.mlp_extractor.policy_net)]
        found = actor.rates(torch.randn(200, 4))
        rates.append(np.mean([rate.mean().item() for rate in found]))
    assert rates[1] < 0.6 * rates[0]


def test_trpo_has_no_budget_as_it_would_be_part_of_its_trust_region() -> None:
    kwargs = {"budget": {"rate": 0.1}}
    with pytest.raises(SpikerlError, match=r"TRPO measures its trust region.*for PPO, A2C and"):
        sb3_contrib.TRPO(SpikingActorCriticPolicy, "CartPole-v1", policy_kwargs=kwargs)
    sb3.A2C(SpikingActorCriticPolicy, "CartPole-v1", policy_kwargs=kwargs)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "neither rate nor operations is limited"),
        ({"rate": 0}, "rate must be a number > 0, found 0"),
        ({"operations": -5.0, "strength": "much"}, r"(?s)operations must be.*strength must be"),
        ({"joules": 1.0}, r"budget: .*joules.*; there are rate, operations, strength"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(budget: Any, message: str) -> None:
    with pytest.raises(SpikerlError, match=message):
        sb3.PPO(SpikingActorCriticPolicy, "CartPole-v1", policy_kwargs={"budget": budget})
