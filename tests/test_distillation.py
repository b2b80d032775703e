"""distill(): a converted agent trained on what its source does, until few steps are enough."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from policies import model
from stable_baselines3.common.base_class import BaseAlgorithm

import spikerl
from spikerl import HardwarePolicy, policies
from spikerl.errors import ConversionError

QUICK = {"n_observations": 4000, "updates": 600, "rounds": 2}
CONVERT = {"sim_steps": 4, "neurons_per_unit": 1, "n_calibration": 2000}
LAST = {"dqn": "q_net.q_net.4", "qrdqn": "quantile_net.quantile_net.4"}


def teacher(kind: str) -> BaseAlgorithm:
    """An untrained model that does not do the same everywhere."""
    source = model(kind)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in source.policy.parameters():
            weight.mul_(1.5 if weight.ndim > 1 else 0.3)
            weight.add_(0.3 * torch.randn(weight.shape, generator=rng))
        if kind in LAST:
            last = source.policy.get_submodule(LAST[kind])
            assert isinstance(last, torch.nn.Linear)
            # no option is the best one everywhere
            seen: list[torch.Tensor] = []
            hook = last.register_forward_hook(lambda module, x, y: seen.append(y))
            source.predict(np.random.default_rng(0).normal(0, 0.1, size=(500, 4)))
            hook.remove()
            last.bias.sub_(seen[0].mean(dim=0))
    return source


def faithfulness(agent: spikerl.SpikingAgent) -> float:
    assert agent.report is not None
    return agent.report.faithfulness.value


@pytest.fixture(scope="module")
def student() -> tuple[Any, spikerl.SpikingAgent, spikerl.SpikingAgent]:
    source = teacher("qrdqn")
    agent = spikerl.convert(source, **CONVERT)
    return source, agent, spikerl.distill(agent, source, **QUICK)


def test_choices_come_closer_to_the_source(student: Any) -> None:
    _, before, after = student
    assert faithfulness(after) > faithfulness(before) + 0.02
    assert faithfulness(after) > 0.95


def test_the_report_holds_on_observations_it_never_saw(student: Any) -> None:
    source, _, agent = student
    rng = np.random.default_rng(5)
    env = source.get_env()
    env.seed(123)
    seen, observation = [], env.reset()
    for _ in range(2000):
        seen.append(observation.copy())
        observation = env.step(source.predict(observation, deterministic=True)[0])[0]
        if rng.random() < 0.02:
            observation = env.reset()
    rows = np.concatenate(seen)
    with HardwarePolicy(agent) as policy:
        ours = policy.predict(rows)[0]
    theirs = source.predict(rows, deterministic=True)[0]
    assert abs((ours == theirs).mean() - faithfulness(agent)) < 0.04


@pytest.mark.parametrize("kind", ["sac", "ppo box", "td3"])
def test_continuous_actions_come_closer_to_the_source(kind: str) -> None:
    source = teacher(kind)
    agent = spikerl.convert(source, **CONVERT)
    assert faithfulness(spikerl.distill(agent, source, **QUICK)) < 0.7 * faithfulness(agent)


def test_the_network_keeps_the_rules_it_had() -> None:
    source = teacher("dqn")
    agent = spikerl.convert(source, reset="zero", delay_steps=1, **CONVERT)
    after = spikerl.distill(agent, source, **QUICK)
    assert faithfulness(after) > faithfulness(agent)
    for layer in after.network.spiking_layers:
        assert (layer.reset, layer.delay_steps) == ("zero", 1)
    assert after.sim_steps == agent.sim_steps


def test_the_same_seed_gives_the_same_agent_and_leaves_the_first_as_it_was() -> None:
    source = teacher("ppo")
    agent = spikerl.convert(source, **CONVERT)
    before = agent.network.fingerprint()
    prints = [
        spikerl.distill(agent, source, seed=seed, **{**QUICK, "updates": 100}).network.fingerprint()
        for seed in (3, 3, 4)
    ]
    assert prints[0] == prints[1] != prints[2]
    assert agent.network.fingerprint() == before


def test_given_observations_are_enough() -> None:
    source = teacher("dqn")
    rows = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)
    agent = spikerl.convert(source, observations=rows, **CONVERT)
    after = spikerl.distill(agent, source, observations=rows, **QUICK)
    assert faithfulness(after) > faithfulness(agent)
    assert after.provenance["distillation"]["observations"] == "given by the user"


def test_a_student_is_bound_to_its_steps_and_survives_a_file(student: Any, tmp_path: Any) -> None:
    _, _, agent = student
    assert agent.bound_to_steps
    assert agent.report.by_steps.keys() == {4}
    agent.save(tmp_path / "student.spk")
    again = spikerl.SpikingAgent.load(tmp_path / "student.spk")
    assert again.network.fingerprint() == agent.network.fingerprint()
    assert again.provenance["distillation"] == agent.provenance["distillation"]
    assert again.bound_to_steps


def test_progress_is_told() -> None:
    source = teacher("dqn")
    agent = spikerl.convert(source, **CONVERT)
    told: list[tuple[float, float]] = []
    spikerl.distill(agent, source, on_progress=lambda *x: told.append(x), **QUICK)
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert all(0 <= best <= 1 for _, best in told)


def test_what_cannot_be_taught_is_refused_with_every_reason() -> None:
    source = teacher("dqn")
    agent = spikerl.convert(source, encoder="poisson", decoder="spike_count", **CONVERT)
    with pytest.raises(ConversionError, match=r"(?s)updates.*PoissonSpikes.*SpikeCount"):
        spikerl.distill(agent, source, updates=0)


def test_a_teacher_of_another_task_is_refused() -> None:
    agent = spikerl.convert(teacher("dqn"), **CONVERT)
    with pytest.raises(ConversionError, match="converted from another source"):
        spikerl.distill(agent, teacher("a2c"), **QUICK)


def _steps(layer: Any, bits: int) -> bool:
    """Whether the weights are whole multiples of the step of so many bits."""
    step = np.abs(layer.weight).max() / (2 ** (bits - 1) - 1)
    return bool(np.allclose(layer.weight / step, np.rint(layer.weight / step), atol=1e-6))


def test_weights_of_few_bits_stay_so() -> None:
    source = teacher("dqn")
    agent = spikerl.convert(source, weight_bits=4, **CONVERT)
    taught = spikerl.distill(agent, source, n_observations=1000, updates=150, rounds=1)
    assert all(_steps(layer, 4) for layer in agent.network.layers)
    assert all(_steps(layer, 4) for layer in taught.network.layers)
    assert not np.array_equal(taught.network.layers[0].weight, agent.network.layers[0].weight)
    assert faithfulness(taught) > faithfulness(agent)


def test_an_agent_trained_with_few_bits_keeps_them() -> None:
    """It was trained as a spiking network; its read-out was not rounded."""
    keywords = {"sim_steps": 4, "net_arch": [16], "neuron_kwargs": {"weight_bits": 4}}
    learner = sb3.DQN(policies.SpikingDQNPolicy, "CartPole-v1", seed=0, policy_kwargs=keywords)
    agent = spikerl.convert(learner, n_calibration=1000)
    taught = spikerl.distill(agent, teacher("dqn"), n_observations=1000, updates=60, rounds=1)
    for one in (agent, taught):
        assert [_steps(layer, 4) for layer in one.network.layers] == [True, False]
    assert not np.array_equal(taught.network.layers[0].weight, agent.network.layers[0].weight)


def test_a_host_keeps_its_weights_whole() -> None:
    source = teacher("dqn")
    rules = {"reset": "zero", "first_reset": "subtract", "weight_bits": 4}
    agent = spikerl.convert(source, **CONVERT, **rules)
    taught = spikerl.distill(agent, source, n_observations=1000, updates=60, rounds=1)
    assert [_steps(layer, 4) for layer in taught.network.layers] == [False, True, False]
