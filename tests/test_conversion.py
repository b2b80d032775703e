"""convert(): every algorithm, every rule, and what it says about the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from policies import KINDS, RELU, Spaces, box, model
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

import spikerl
from spikerl import metrics
from spikerl.conversion.checkpoints import load_checkpoint
from spikerl.errors import ConversionError

ROOT = Path(__file__).parent.parent
FEW = 400  # calibration observations: enough for nets of 16 neurons


@pytest.fixture(scope="module")
def cartpole() -> Any:
    """A trained DQN on CartPole, with small gaps between its actions, and what it sees."""
    torch.set_num_threads(1)
    source = load_checkpoint(ROOT / "zoo" / "agents" / "dqn" / "CartPole-v1_1").model
    env = make_vec_env("CartPole-v1", n_envs=8, seed=99)
    seen, observation = [], env.reset()
    for _ in range(200):
        seen.append(observation.copy())
        observation, *_ = env.step(source.predict(observation, deterministic=True)[0])
    return source, np.concatenate(seen)


@pytest.mark.parametrize("kind", KINDS)
def test_every_algorithm_acts_as_its_source_given_many_steps(kind: str) -> None:
    agent = spikerl.convert(model(kind), sim_steps=512, n_calibration=FEW)
    report = agent.report
    assert report is not None
    assert report.held_out == 2000
    assert report.value_error is not None
    assert report.value_error < 0.1
    if report.agreement is not None:
        assert report.agreement.value > 0.9
        assert report.agreement.low < report.agreement.value <= report.agreement.high
    else:
        assert report.action_error is not None
        assert report.action_error.value < 1.0


@pytest.mark.parametrize("kind", ["dqn", "sac"])
def test_more_steps_are_more_faithful(kind: str) -> None:
    source = model(kind)
    errors = []
    for steps in (4, 32, 256):
        agent = spikerl.convert(source, sim_steps=steps, n_calibration=FEW, readout="copied")
        assert agent.report is not None
        errors.append(agent.report.value_error)
    assert errors[0] > errors[1] > errors[2]


def test_the_values_are_those_of_the_source(cartpole: Any) -> None:
    source, observations = cartpole
    agent = spikerl.convert(source, observations=observations, sim_steps=1000)
    with torch.no_grad():
        wanted = source.policy.q_net(torch.as_tensor(observations)).numpy()
    with spikerl.HardwarePolicy(agent, "reference", n_envs=len(observations)) as policy:
        values = policy.values(observations)
    assert np.abs(values - wanted).mean() < 0.02 * wanted.std()


def test_the_report_holds_what_a_policy_measures(cartpole: Any) -> None:
    """The report's agreement is that of HardwarePolicy on the held-out observations."""
    source, observations = cartpole
    agent = spikerl.convert(source, observations=observations, sim_steps=16)
    with spikerl.HardwarePolicy(agent) as policy:
        everywhere = metrics.agreement(policy, source, observations)
    assert agent.report is not None
    assert agent.report.agreement is not None
    assert abs(everywhere.value - agent.report.agreement.value) < 0.15
    assert agent.report.calibration + agent.report.held_out == len(observations)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("threshold", ["neuron", "layer", "model"])
def test_every_threshold_and_reset_rule_converts(cartpole: Any, reset: Any, threshold: str) -> None:
    source, observations = cartpole
    agent = spikerl.convert(
        source, observations=observations, sim_steps=400, reset=reset, threshold=threshold
    )
    assert agent.network.neuron_layers[0].reset == reset
    report = agent.report
    assert report is not None
    assert report.agreement is not None
    assert report.value_error is not None
    # reset to zero throws remainders away: the rates, and so the values, are biased
    assert report.value_error < (0.05 if reset == "subtract" else 0.7)
    assert report.agreement.value > (0.85 if reset == "subtract" else 0.55)


def test_the_maximum_is_a_threshold_no_calibration_activation_exceeds(cartpole: Any) -> None:
    source, observations = cartpole
    agent = spikerl.convert(source, observations=observations, percentile=100)
    assert agent.report is not None
    weight = agent.network.layers[0].weight
    hidden = np.maximum(observations @ weight.T + agent.network.layers[0].bias, 0)
    assert hidden.max() <= 1.2  # held-out observations may go beyond, a little


def test_a_fitted_read_out_is_closer_than_a_copied_one(cartpole: Any) -> None:
    source, observations = cartpole
    error = {}
    for readout in ("copied", "fitted"):
        agent = spikerl.convert(source, observations=observations, sim_steps=8, readout=readout)
        assert agent.report is not None
        error[readout] = agent.report.value_error
    assert error["fitted"] < error["copied"]


@pytest.mark.parametrize("encoder", ["constant", "poisson", "equidistant"])
@pytest.mark.parametrize("decoder", ["potential", "spike_count", "signed_spike_count"])
def test_encoders_and_decoders_keep_the_values(cartpole: Any, encoder: str, decoder: str) -> None:
    source, observations = cartpole
    agent = spikerl.convert(
        source, observations=observations, sim_steps=800, encoder=encoder, decoder=decoder
    )
    assert agent.report is not None
    assert agent.report.value_error is not None
    assert agent.report.value_error < (0.7 if encoder == "poisson" else 0.35)


def test_residual_potentials_come_closer_than_spikes_alone(cartpole: Any) -> None:
    source, observations = cartpole
    error = {}
    for decoder in ("potential", "residual_potential"):
        agent = spikerl.convert(
            source, observations=observations, sim_steps=32, decoder=decoder, readout="copied"
        )
        assert agent.report is not None
        error[decoder] = agent.report.value_error
    assert all(layer.spiking for layer in agent.network.neuron_layers)
    assert error["residual_potential"] < 0.8 * error["potential"]


def test_residual_potentials_are_refused_with_every_reason() -> None:
    net = nn.Sequential(nn.Linear(2, 3))
    spaces_ = {
        "observation_space": spaces.Box(-1, 1, (2,), np.float32),
        "action_space": spaces.Discrete(3),
    }
    observations = np.random.default_rng(0).uniform(-1, 1, (600, 2)).astype(np.float32)
    with pytest.raises(ConversionError, match=r"(?s)reset='zero' loses.*no hidden layer"):
        spikerl.convert(
            net,
            observations=observations,
            decoder="residual_potential",
            reset="zero",
            **spaces_,
        )


def test_a_q_function_that_is_always_negative_is_decoded_from_spike_counts() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    net[2].bias.data -= 50.0
    observations = np.random.default_rng(0).uniform(-1, 1, (600, 2)).astype(np.float32)
    with torch.no_grad():
        values = net(torch.as_tensor(observations)).numpy()
    assert values.max() < 0
    for decoder in ("spike_count", "signed_spike_count"):
        agent = spikerl.convert(
            net,
            observations=observations,
            observation_space=box(2),
            action_space=spaces.Discrete(3),
            sim_steps=2000,
            decoder=decoder,
        )
        with spikerl.HardwarePolicy(agent) as policy:
            decoded = policy.values(observations[:50])
        assert np.abs(decoded - values[:50]).mean() < 0.5


def test_the_first_spike_orders_the_actions(cartpole: Any) -> None:
    source, observations = cartpole
    agent = spikerl.convert(source, observations=observations, sim_steps=400, decoder="first_spike")
    assert agent.report is not None
    assert agent.report.agreement is not None
    assert agent.report.agreement.value > 0.8
    with pytest.raises(ConversionError, match="cannot give continuous"):
        spikerl.convert(model("sac"), n_calibration=FEW, decoder="first_spike")


def test_the_same_seed_gives_the_same_network() -> None:
    prints = [
        spikerl.convert(model("dqn"), n_calibration=FEW, seed=seed).network.fingerprint()
        for seed in (0, 0, 1)
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_plain_module_needs_its_spaces_named() -> None:
    with pytest.raises(ConversionError, match="observation_space and action_space"):
        spikerl.convert(nn.Sequential(nn.Linear(2, 2)), observations=np.zeros((20, 2)))


OBSERVATIONS = {
    "discrete": spaces.Discrete(5),
    "multi-discrete": spaces.MultiDiscrete([3, 4]),
    "multi-binary": spaces.MultiBinary(6),
    "image, channels first": spaces.Box(0, 255, (1, 36, 36), np.uint8),
}


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observations_are_preprocessed_as_sb3_does(name: str) -> None:
    env = Spaces(OBSERVATIONS[name], spaces.Discrete(3))
    source = sb3.PPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0, policy_kwargs=dict(RELU))
    agent = spikerl.convert(
        source,
        env=lambda: Spaces(OBSERVATIONS[name], spaces.Discrete(3)),
        n_calibration=FEW,
        sim_steps=256,
    )
    assert agent.report is not None
    assert agent.report.agreement is not None
    assert agent.report.agreement.value > 0.9


def test_dict_observations_of_vectors_are_joined() -> None:
    space = spaces.Dict({"b": box(2), "a": spaces.Discrete(3)})
    source = sb3.PPO(
        "MultiInputPolicy",
        Spaces(space, spaces.Discrete(3)),
        n_steps=8,
        batch_size=8,
        seed=0,
        policy_kwargs=dict(RELU),
    )
    agent = spikerl.convert(
        source, env=lambda: Spaces(space, spaces.Discrete(3)), n_calibration=FEW, sim_steps=256
    )
    assert agent.report is not None
    assert agent.report.agreement is not None
    assert agent.report.agreement.value > 0.9


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)], ids=["multi", "binary"]
)
def test_actions_of_several_choices_are_converted(space: Any) -> None:
    source = sb3.PPO(
        "MlpPolicy",
        Spaces(box(4), space),
        n_steps=8,
        batch_size=8,
        seed=0,
        policy_kwargs=dict(RELU),
    )
    agent = spikerl.convert(
        source, env=lambda: Spaces(box(4), space), n_calibration=FEW, sim_steps=512
    )
    assert agent.report is not None
    assert agent.report.agreement is not None
    assert agent.report.agreement.value > 0.75


def test_vec_normalize_is_taken_along() -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2, seed=0))
    source = sb3.PPO("MlpPolicy", env, n_steps=64, batch_size=64, seed=0, policy_kwargs=dict(RELU))
    source.learn(500)
    env.training = False
    agent = spikerl.convert(source, sim_steps=256, n_calibration=FEW)
    raw = env.venv.reset()
    with spikerl.HardwarePolicy(agent) as policy:
        error = metrics.action_error(policy, source, raw)
        action, _ = policy.predict(raw)
    assert error.value < 1.0
    wanted, _ = source.predict(env.normalize_obs(raw), deterministic=True)
    assert np.allclose(action, wanted, atol=0.1)


def test_a_training_environment_is_not_disturbed() -> None:
    source = model("dqn")
    source.learn(50)
    before, last = source.get_env(), source._last_obs.copy()
    steps = before.envs[0].get_wrapper_attr("_elapsed_steps")
    spikerl.convert(source, n_calibration=FEW)
    assert np.array_equal(source._last_obs, last)
    assert before.envs[0].get_wrapper_attr("_elapsed_steps") == steps


def test_the_report_warns_where_gaps_are_smaller_than_their_error(cartpole: Any) -> None:
    source, observations = cartpole
    coarse = {}
    for steps in (4, 256):
        agent = spikerl.convert(
            source, observations=observations, sim_steps=steps, readout="copied"
        )
        assert agent.report is not None
        coarse[steps] = agent.report.coarse
        if steps == 4:
            assert any("too coarse for its action gaps" in w for w in agent.report.warnings)
            assert agent.report.steps_needed is None or agent.report.steps_needed > 4
    assert coarse[4] is not None
    assert coarse[256] is not None
    assert coarse[4] > coarse[256]


def test_a_linear_policy_has_no_hidden_layer_and_is_exact() -> None:
    source = sb3_contrib.ARS("LinearPolicy", "Pendulum-v1", zero_policy=False, seed=0)
    agent = spikerl.convert(source, n_calibration=FEW, sim_steps=4)
    assert len(agent.network.layers) == 1
    assert agent.report is not None
    assert agent.report.action_error is not None
    assert agent.report.action_error.value < 1e-4


def test_actions_without_bounds_are_measured_by_their_spread() -> None:
    torch.manual_seed(0)
    agent = spikerl.convert(
        nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)),
        observations=np.random.default_rng(0).uniform(-1, 1, (600, 4)),
        observation_space=box(4),
        action_space=spaces.Box(-np.inf, np.inf, (2,)),
        sim_steps=512,
    )
    assert agent.report is not None
    assert agent.report.action_error is not None
    assert 0 < agent.report.action_error.value < 5
    assert any("standard deviation where there is none" in w for w in agent.report.warnings)


def test_given_observations_have_an_interval_over_blocks_of_time(cartpole: Any) -> None:
    source, observations = cartpole
    agent = spikerl.convert(source, observations=observations)
    assert agent.report is not None
    assert agent.report.agreement is not None
    assert agent.report.agreement.method == "wilson and bootstrap over blocks of time"
    assert agent.report.episodes == 0


def test_held_out_observations_that_were_calibrated_on_are_told(cartpole: Any) -> None:
    source, observations = cartpole
    for seen, told in ((observations, False), (np.tile(observations[:100], (10, 1)), True)):
        report = spikerl.convert(source, observations=seen).report
        assert report is not None
        assert any("calibrated on as well" in warning for warning in report.warnings) == told


def test_delays_are_part_of_the_network_that_is_measured(cartpole: Any) -> None:
    source, observations = cartpole
    agent = spikerl.convert(source, observations=observations, sim_steps=64, delay_steps=1)
    assert [layer.delay_steps for layer in agent.network.neuron_layers] == [1, 1, 0]
    with spikerl.HardwarePolicy(agent, "reference") as policy:
        assert metrics.agreement(policy, source, observations).value > 0.5
