"""convert() with a goal: the cheapest setting that meets it."""

from __future__ import annotations

from typing import Any

import pytest
from policies import model

import spikerl
from spikerl.errors import ConversionError, ConversionWarning

FEW = 4000


def searched(kind: str, **options: Any) -> tuple[spikerl.SpikingAgent, list[dict[str, Any]]]:
    agent = spikerl.convert(model(kind), n_calibration=FEW, **options)
    return agent, list(agent.provenance["search"])


def test_the_cheapest_setting_that_meets_the_goal_is_taken() -> None:
    agent, tried = searched("sac", target_error=1.0, max_sim_steps=32)
    costs = [entry["sim_steps"] * entry["neurons"] for entry in tried]
    assert costs == sorted(costs)
    assert all(entry["quality"] > 1.0 for entry in tried[:-1])
    assert tried[-1]["quality"] <= 1.0
    assert len(tried) > 1
    assert agent.sim_steps == tried[-1]["sim_steps"] <= 32
    spiking = sum(layer.n_out for layer in agent.network.spiking_layers)
    assert spiking == tried[-1]["neurons"]
    assert agent.report is not None
    assert agent.report.action_error is not None
    assert agent.report.action_error.value < 1.5  # it was chosen without these observations


def test_more_is_taken_for_more() -> None:
    costs = []
    for target in (0.9, 0.99):
        agent, tried = searched("ppo", target_agreement=target, max_sim_steps=64)
        costs.append(tried[-1]["sim_steps"] * tried[-1]["neurons"])
        assert agent.report is not None
        assert agent.report.agreement is not None
        assert agent.report.agreement.value > target - 0.05
    assert costs[0] < costs[1]


def test_a_goal_out_of_reach_gives_the_best_and_says_what_limits_it() -> None:
    with pytest.warns(ConversionWarning, match="no setting met the goal of 1e-06 % error"):
        agent, tried = searched("sac", target_error=1e-6, max_sim_steps=8, max_neurons=64)
    assert {entry["sim_steps"] for entry in tried} == {4, 8}
    assert {entry["neurons"] for entry in tried} == {32, 64}
    best = min(tried, key=lambda entry: entry["quality"])
    assert agent.sim_steps == best["sim_steps"]
    assert agent.report is not None
    assert any("max_neurons=64" in warning for warning in agent.report.warnings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_agreement": 1.5}, r"target_agreement is a share in \(0, 1\]"),
        ({"target_error": 0}, "target_error must be a number of per cent > 0"),
        ({"target_error": 1, "target_agreement": 0.9}, "pass one"),
        ({"max_neurons": 10}, "max_neurons limits a search"),
        ({"target_agreement": 0.9, "max_sim_steps": 0}, "max_sim_steps must be a whole number"),
        ({"target_agreement": 0.9, "neurons_per_unit": 2}, "neurons_per_unit is what a search"),
        ({"target_error": 1.0}, "the goal is target_agreement="),
        ({"target_agreement": 0.9, "max_neurons": 5}, "no setting is allowed"),
    ],
)
def test_goals_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        spikerl.convert(model("dqn"), n_calibration=FEW, **options)
