"""Populations for observations and actions: learned receptive fields, read-outs of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from policies import Spaces
from stable_baselines3 import PPO, SAC, TD3
from test_policies import REPLAY, SHORT, assert_same_actions, model, rows_of

import spikerl
from spikerl import HardwarePolicy, SpikingAgent
from spikerl.encoding import ReceptiveFields
from spikerl.errors import ShapeError, SpikerlError
from spikerl.nn.population import PopulationEncoder, PopulationReadout
from spikerl.policies import SpikingActorCriticPolicy, SpikingSACPolicy, SpikingTD3Policy

POPSAN: dict[str, Any] = {
    "encoder": "population",
    "encoder_kwargs": {"size": 6},
    "readout": "population",
    "readout_kwargs": {"size": 5},
}
CURRENT = {**POPSAN, "encoder_kwargs": {"size": 4, "squash": "none", "spikes": "none"}}
BOX = ("ppo box", "sac", "tqc", "td3", "ddpg")


def assert_deployed(trained: Any, rows: np.ndarray) -> SpikingAgent:
    """The agent takes the same actions as the policy in evaluation mode, on two back ends."""
    theirs = trained.predict(rows, deterministic=True)[0]
    agent = spikerl.convert(trained, observations=rows)
    for backend in ("cpu", "reference"):
        with HardwarePolicy(agent, backend) as deployed:
            assert_same_actions(deployed.predict(rows)[0], theirs)
    return agent


@pytest.mark.parametrize("keywords", [POPSAN, CURRENT])
@pytest.mark.parametrize("kind", BOX)
def test_trained_populations_are_deployed_exactly(kind: str, keywords: dict[str, Any]) -> None:
    trained = model(kind, **keywords)
    agent = assert_deployed(trained, rows_of(trained))
    assert isinstance(agent.encoder, ReceptiveFields)
    n_actions = trained.action_space.shape[0]
    *_, population, read_out = agent.network.layers
    assert population.n_out == 5 * n_actions
    assert read_out.n_out == n_actions
    assert population.spiking
    assert not read_out.spiking


@pytest.mark.parametrize("kind", ["dqn", "qrdqn", "ppo"])
def test_choices_may_have_populations_too(kind: str) -> None:
    rows = rows_of(model("dqn", 0))
    trained = model(kind, 0, **POPSAN)
    trained.learn(200)
    agent = spikerl.convert(trained, observations=rows)
    with HardwarePolicy(agent) as deployed:
        theirs = trained.predict(rows, deterministic=True)[0]
        np.testing.assert_array_equal(deployed.predict(rows)[0], theirs)


@pytest.mark.parametrize("neuron", ["LIF", "PLIF"])
def test_a_population_of_leaky_neurons_with_delays_is_deployed_exactly(neuron: str) -> None:
    trained = model("td3", neuron=neuron, neuron_kwargs={"delay_steps": 1}, **POPSAN)
    assert_deployed(trained, rows_of(trained))


@pytest.mark.parametrize("keywords", [POPSAN, CURRENT])
def test_populations_act_the_same_on_nest(keywords: dict[str, Any]) -> None:
    pytest.importorskip("nest", reason="NEST is not installed")
    trained = model("td3", target="nest", norm="care_bn", **keywords)
    rows = rows_of(trained, 30)
    agent = spikerl.convert(trained, observations=rows)
    with HardwarePolicy(agent, "nest") as deployed:
        assert_same_actions(deployed.predict(rows)[0], trained.predict(rows, deterministic=True)[0])


@pytest.mark.parametrize("kind", ["ppo box", "sac", "td3"])
def test_centres_widths_and_read_outs_are_learned(kind: str) -> None:
    before, after = (dict(model(kind, n, **POPSAN).policy.named_parameters()) for n in (0, 200))
    ends = ("encoder.centres", "encoder.log_widths")
    found = [name for name in before if name.endswith(ends) and "target" not in name]
    assert len(found) == 2
    last = {"ppo box": "action_net.weight", "sac": "actor.mu.weight", "td3": "actor.mu.1.weight"}
    for name in (*found, last[kind]):
        assert not torch.equal(before[name], after[name]), name
        assert torch.isfinite(after[name]).all()


@pytest.mark.parametrize("kind", ["ppo box", "sac", "td3"])
def test_a_model_with_populations_comes_back_from_its_file(kind: str, tmp_path: Path) -> None:
    trained = model(kind, **POPSAN)
    trained.save(tmp_path / "model.zip")
    again = type(trained).load(tmp_path / "model.zip", device="cpu")
    rows = rows_of(trained)
    agents = [
        spikerl.convert(source, observations=rows)
        for source in (trained, again, tmp_path / "model.zip")
        if not (kind == "ppo box" and isinstance(source, Path))
    ]
    theirs = trained.predict(rows, deterministic=True)[0]
    np.testing.assert_array_equal(again.predict(rows, deterministic=True)[0], theirs)
    for agent in agents:
        assert agent.network.fingerprint() == agents[0].network.fingerprint()
        np.testing.assert_array_equal(agent.encoder.centres, agents[0].encoder.centres)  # type: ignore[attr-defined]
    agents[0].save(tmp_path / "agent.spk")
    with HardwarePolicy(SpikingAgent.load(tmp_path / "agent.spk")) as deployed:
        assert_same_actions(deployed.predict(rows)[0], theirs)
    again.set_env(trained.get_env())
    again.learn(60)


def test_a_population_encoder_is_that_of_a_deployed_agent_to_float32() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 3)
    for arguments in ({}, {"spikes": "none"}, {"squash": "none", "low": -2.0, "width": 0.7}):
        encoder = PopulationEncoder(3, 7, **arguments)  # type: ignore[arg-type]
        with torch.no_grad():
            encoder.log_widths.add_(torch.rand(3, 7))
        drive = encoder(x, 5).detach().double().numpy()
        exact = encoder.to_encoder().encode(x.double().numpy(), 5, np.random.default_rng(0))
        assert exact.shape == (5, 50, 21)
        different = np.abs(np.broadcast_to(drive, exact.shape) - exact) > 1e-5
        assert different.mean() < 1e-3


@pytest.mark.parametrize("spikes", ["equidistant", "none"])
def test_what_decides_hears_what_a_deployed_agent_hears(spikes: str) -> None:
    encoder = PopulationEncoder(4, 10, spikes=spikes)
    rows = torch.randn(500, 4).numpy()
    exact = encoder.to_encoder().encode(rows.astype(np.float64), 100, np.random.default_rng(0))
    found = encoder.exact(rows, 100)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(np.broadcast_to(found, exact.shape), exact)


def test_fields_by_hand() -> None:
    fields = ReceptiveFields([[0.0, 1.0], [-1.0, 3.0]], [[1.0, 0.5], [2.0, 1.0]])
    drive = fields.encode(np.array([[1.0, -1.0]]), 3, np.random.default_rng(0))
    near = [np.exp(-0.5), 1.0, 1.0, np.exp(-8.0)]
    np.testing.assert_allclose(drive, np.broadcast_to(near, (3, 1, 4)), rtol=1e-12)
    squashed = ReceptiveFields([[0.5]], [[0.25]], squash="tanh", spikes="equidistant")
    activity = np.exp(-0.5 * ((np.tanh(1.0) - 0.5) / 0.25) ** 2)
    spikes = squashed.encode(np.array([[1.0]]), 100, np.random.default_rng(0))
    assert set(np.unique(spikes)) <= {0.0, 1.0}
    assert spikes.sum() == np.floor(100 * activity + 0.5)


def test_the_gradient_passes_the_spikes_of_the_encoder_straight_through() -> None:
    encoder = PopulationEncoder(2, 3)
    current = PopulationEncoder(2, 3, spikes="none")
    x, weight = torch.randn(4, 2), torch.randn(5, 4, 6)
    (encoder(x, 5) * weight).sum().backward()
    (current(x, 5) * weight.sum(0)).sum().backward()
    torch.testing.assert_close(encoder.centres.grad, current.centres.grad)
    assert encoder.centres.grad is not None
    assert encoder.centres.grad.abs().max() > 0


def test_a_read_out_reads_each_value_from_its_own_neurons() -> None:
    read = PopulationReadout(3, 4)
    rates = torch.rand(6, 12)
    bias = read.bias.detach().numpy()
    np.testing.assert_allclose(
        read(rates).detach().numpy(), rates.numpy() @ read.dense_weight().T + bias, atol=1e-6
    )
    assert read.dense_weight()[0, 4:].tolist() == [0.0] * 8
    assert (read.dense_weight()[1, 4:8] != 0).all()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"encoder": "poisson"}, "no encoder 'poisson'; there are constant, population"),
        ({"readout": "last"}, "no readout 'last'; there are linear, population"),
        ({**POPSAN, "encoder_kwargs": {"n": 3}}, "there are size, low, high, width, squash, spike"),
        ({**POPSAN, "encoder_kwargs": {"spikes": "poisson"}}, "there are equidistant, none"),
        ({**POPSAN, "encoder_kwargs": {"squash": "cut"}}, "squash is 'cut'; there are none, tanh"),
        ({**POPSAN, "encoder_kwargs": {"width": 0.0, "size": 0}}, r"(?s)size must.*width must be"),
        (
            {**POPSAN, "encoder_kwargs": {"low": "a", "width": [1.0]}},
            r"(?s)low must be a finite number, found 'a'.*width must be a finite number",
        ),
        ({**POPSAN, "encoder_kwargs": {"high": float("nan")}}, "high must be a finite number"),
        ({**POPSAN, "encoder_kwargs": {"low": 2, "high": 1}}, "low must be below high, found 2"),
        ({**POPSAN, "encoder_kwargs": {"squash": ["tanh"]}}, r"squash is \['tanh'\]; there are"),
        ({**POPSAN, "readout_kwargs": {"size": 2.5}}, "size must be a whole number"),
        ({"encoder_kwargs": {"size": 3}}, 'pass encoder="population" too'),
    ],
)
def test_parts_that_cannot_be_are_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(SpikerlError, match=message):
        model("sac", 0, **keywords)


def test_populations_are_not_for_images() -> None:
    env = Spaces(spaces.Box(0, 255, (3, 36, 36), np.uint8), spaces.Box(-1, 1, (1,), np.float32))
    kwargs = {"readout": "population"}
    for algorithm, policy, more in (
        (PPO, SpikingActorCriticPolicy, SHORT),
        (SAC, SpikingSACPolicy, REPLAY),
        (TD3, SpikingTD3Policy, REPLAY),
    ):
        with pytest.raises(SpikerlError, match="are for vectors"):
            algorithm(policy, env, policy_kwargs=dict(kwargs), **more)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (([[1.0]], [[0.0]]), "widths must be > 0"),
        (([[np.nan]], [[1.0]]), "must be finite"),
        (([1.0], [1.0]), r"wanted \(inputs, fields\)"),
        (([[1.0]], [[1.0]], "cut"), "squash is 'cut', wanted one of none, tanh"),
        (([[1.0]], [[1.0]], "none", "poisson"), "spikes is 'poisson'"),
    ],
)
def test_fields_that_cannot_be_are_refused(arguments: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(SpikerlError, match=reason):
        ReceptiveFields(*arguments)


def test_fields_refuse_rows_of_another_length() -> None:
    fields = ReceptiveFields([[1.0], [2.0]], [[1.0], [1.0]])
    with pytest.raises(ShapeError, match="rows of 3 numbers, fields are on 2"):
        fields.encode(np.zeros((1, 3)), 2, np.random.default_rng(0))
