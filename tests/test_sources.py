"""What convert() takes for the source: all that it does, its statistics and its environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from policies import RELU, box, model
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)
from torch import nn

import spikerl
from spikerl.errors import ConversionError, ConversionWarning

FEW = 400  # calibration observations


# --- a forward() or predict() of the user's own ---------------------------------------------------


class Turned(nn.Sequential):
    """Does more after its last layer than the layers show."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)


def parts() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)]


def convert_module(module: nn.Module, **options: Any) -> spikerl.SpikingAgent:
    seen = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    return spikerl.convert(
        module,
        observations=seen,
        observation_space=box(4),
        action_space=spaces.Discrete(2),
        **options,
    )


def test_a_module_that_does_more_after_its_last_layer_is_found_out() -> None:
    agent = convert_module(nn.Sequential(*parts()))
    turned = convert_module(Turned(*parts()))
    seen = np.random.default_rng(1).standard_normal((20, 4))
    with spikerl.HardwarePolicy(agent) as one, spikerl.HardwarePolicy(turned) as other:
        # Read-outs are fitted to what is seen, each on its own.
        assert np.abs(one.values(seen) + other.values(seen)).max() < 0.02


def test_a_module_that_does_not_return_a_tensor_is_refused() -> None:
    class Pair(nn.Sequential):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x), None

    with pytest.raises(ConversionError, match="forward\\(\\) returns something"):
        convert_module(Pair(*parts()))


def test_one_activation_module_may_be_used_twice() -> None:
    torch.manual_seed(0)
    relu = nn.ReLU()
    shared = nn.Sequential(nn.Linear(4, 16), relu, nn.Linear(16, 16), relu, nn.Linear(16, 2))
    agent = convert_module(shared)
    assert [layer.spiking for layer in agent.network.neuron_layers] == [True, True, False]


class Duelling(sb3.dqn.policies.QNetwork):
    def forward(self, obs: Any) -> torch.Tensor:
        values = super().forward(obs)
        return values - 2 * values.amax(dim=1, keepdim=True).relu() * torch.tensor([1.0, 0.0])


class DuellingPolicy(sb3.dqn.policies.DQNPolicy):
    def make_q_net(self) -> Any:
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        return Duelling(**arguments).to(self.device)


def test_a_q_network_that_does_more_after_its_last_layer_is_found_out() -> None:
    source = sb3.DQN(
        DuellingPolicy,
        "CartPole-v1",
        buffer_size=100,
        seed=0,
        policy_kwargs={"net_arch": [16]},
        device="cpu",
    )
    with pytest.raises(ConversionError, match="do not reproduce the policy's outputs"):
        spikerl.convert(source, n_calibration=FEW)


@pytest.mark.parametrize("kind", ["dqn", "ppo", "ppo box", "sac", "td3", "ars box"])
def test_a_predict_that_does_something_else_is_found_out(kind: str) -> None:
    source = model(kind)
    honest = source.policy._predict

    def turned(observation: Any, deterministic: bool = False) -> torch.Tensor:
        action = honest(observation, deterministic=deterministic)
        return 1 - action if isinstance(source.action_space, spaces.Discrete) else 0.9 * action

    source.policy._predict = turned  # type: ignore[method-assign]
    with pytest.raises(ConversionError, match="do not reproduce the policy's actions"):
        spikerl.convert(source, n_calibration=FEW)


def test_a_source_is_left_as_it_was_found() -> None:
    source = model("dqn")
    source.policy.set_training_mode(True)
    frozen = source.policy.q_net.q_net[0].eval()
    spikerl.convert(source, n_calibration=FEW)
    assert source.policy.training
    assert source.policy.q_net.q_net.training
    assert not frozen.training
    module = nn.Sequential(*parts()).train()
    convert_module(module)
    assert module.training


# --- statistics -----------------------------------------------------------------------------------


def normalized(seed: int = 0) -> VecNormalize:
    return VecNormalize(make_vec_env("Pendulum-v1", n_envs=2, seed=seed))


def trained_with(env: Any) -> Any:
    source = sb3.PPO("MlpPolicy", env, n_steps=64, batch_size=64, seed=0, policy_kwargs=dict(RELU))
    source.learn(300)
    return source


def mean_of(agent: spikerl.SpikingAgent) -> Any:
    (step,) = agent.preprocessing.inputs[0].steps
    return step.mean  # type: ignore[union-attr]


def test_statistics_of_the_source_and_of_env_must_agree() -> None:
    env, other = normalized(), normalized(1)
    source = trained_with(env)
    other.reset()
    assert not np.allclose(other.obs_rms.mean, env.obs_rms.mean)  # type: ignore[union-attr]
    with pytest.raises(ConversionError, match="others than the policy was trained with"):
        spikerl.convert(source, env=other, n_calibration=FEW)
    for options, wanted in (({"env": env}, env), ({"env": other, "vecnormalize": other}, other)):
        agent = spikerl.convert(source, n_calibration=FEW, **options)
        assert np.array_equal(mean_of(agent), wanted.obs_rms.mean)  # type: ignore[union-attr]


def test_statistics_are_not_added_to_a_policy_trained_without() -> None:
    source = model("ppo box")
    with pytest.raises(ConversionError, match="and the policy has none"):
        spikerl.convert(source, env=normalized(), n_calibration=FEW)


def test_a_policy_that_cannot_say_takes_the_statistics_of_env_with_a_note() -> None:
    env = normalized()
    source = trained_with(env)
    with pytest.warns(ConversionWarning, match="with the statistics of env="):
        agent = spikerl.convert(source.policy, env=env, n_calibration=FEW)
    assert np.array_equal(mean_of(agent), env.obs_rms.mean)  # type: ignore[union-attr]
    assert agent.report is not None
    assert any("with the statistics of env=" in note for note in agent.report.warnings)


# --- the environment made a second time -----------------------------------------------------------


class Mirror(VecEnvWrapper):
    """Changes observations; nobody but the user knows how."""

    def reset(self) -> Any:
        return -self.venv.reset()  # type: ignore[operator]

    def step_wait(self) -> Any:
        observation, *rest = self.venv.step_wait()
        return (-observation, *rest)  # type: ignore[operator]


def test_wrappers_of_a_vec_env_are_not_dropped() -> None:
    env = Mirror(VecFrameStack(make_vec_env("CartPole-v1", 2), 2))
    source = sb3.PPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0, policy_kwargs=dict(RELU))
    with pytest.raises(ConversionError, match="wrapped in Mirror, which cannot"):
        spikerl.convert(source, n_calibration=FEW)
    spikerl.convert(source, env=env, n_calibration=FEW)


def test_wrappers_that_change_nothing_are_left_out() -> None:
    env = VecMonitor(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    source = sb3.PPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0, policy_kwargs=dict(RELU))
    spikerl.convert(source, n_calibration=FEW)
