"""Where each SB3 algorithm's policy has its acting network, and what its outputs mean.

Imports torch and SB3. Whatever is not understood is refused by its dotted name; nothing is skipped.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeGuard

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.spaces import flatdim
from sb3_contrib.ars.policies import ARSPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3.common import distributions
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, MlpExtractor
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from spikerl.conversion.stack import PlainLayer, PlainStack
from spikerl.conversion.tracing import Named, Tracing
from spikerl.decoding import Binary, Categorical, Gaussian, Head
from spikerl.errors import ConversionError
from spikerl.network import FloatArray
from spikerl.nn.population import PopulationReadout
from spikerl.policies.actor_critic import SpikingExtractor
from spikerl.policies.common_mode import CommonModeDQNPolicy
from spikerl.policies.continuous import SpreadBeside
from spikerl.policies.recurrent import SpikingRecurrentPolicy


def plain_stack(
    policy: nn.Module,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    epsilon: float,
) -> PlainStack:
    """The stack of a policy or of a bare torch.nn.Sequential.

    epsilon: DQN's exploration rate, used only when acting with deterministic=False.
    Raises ConversionError naming every layer that cannot be converted.
    """
    if not isinstance(policy, BasePolicy):
        return _stack([("", policy)], observation_space, _bare_head(action_space), policy)
    if isinstance(policy, DQNPolicy):
        return _stack(
            [
                ("q_net.features_extractor", policy.q_net.features_extractor),
                ("q_net.q_net", policy.q_net.q_net),
            ],
            observation_space,
            _greedy_head(action_space, epsilon),
            policy.q_net.q_net if isinstance(policy, CommonModeDQNPolicy) else policy.q_net,
        )
    if isinstance(policy, QRDQNPolicy):
        return _quantiles(policy.quantile_net, action_space, epsilon)
    if _feed_forward(policy):
        return _stack(
            [
                ("pi_features_extractor", policy.pi_features_extractor),
                ("mlp_extractor.policy_net", policy.mlp_extractor.policy_net),
                ("action_net", policy.action_net),
            ],
            observation_space,
            _actor_critic_head(policy, action_space),
            policy.action_net,
        )
    if isinstance(policy, SpikingRecurrentPolicy):
        return _stack(
            [
                ("pi_features_extractor", policy.pi_features_extractor),
                ("lstm_actor", policy.lstm_actor),
                ("action_net", policy.action_net),
            ],
            observation_space,
            _actor_critic_head(policy, action_space),
            policy.action_net,
        )
    if isinstance(policy, (SACPolicy, TQCPolicy)):
        return _squashed_gaussian(policy.actor, action_space)
    if isinstance(policy, TD3Policy):
        return _stack(
            [
                ("actor.features_extractor", policy.actor.features_extractor),
                *_without_tanh("actor.mu", policy.actor.mu),
            ],
            observation_space,
            _box_head(action_space, squash="tanh"),
        )
    if isinstance(policy, ARSPolicy):
        return _random_search(policy, action_space)
    memory = isinstance(policy, RecurrentActorCriticPolicy)
    raise ConversionError(
        f"{type(policy).__name__} is not a policy spikerl can convert; it converts the policies of "
        "DQN, QR-DQN, PPO, A2C, TRPO, SAC, TQC, TD3, DDPG and ARS"
        + ("; train with spikerl.policies.SpikingRecurrentPolicy instead" if memory else "")
    )


def _feed_forward(policy: BasePolicy) -> TypeGuard[ActorCriticPolicy]:
    """Whether it is an actor-critic policy that is nothing but its MLP."""
    return (
        isinstance(policy, ActorCriticPolicy)
        and not isinstance(policy, RecurrentActorCriticPolicy)
        and isinstance(policy.mlp_extractor, (MlpExtractor, SpikingExtractor))
    )


def _stack(
    chain: Named, space: spaces.Space[Any], head: Head, output: nn.Module | None = None
) -> PlainStack:
    """space: of the observations; output: what gives the values, if not the chain's last Linear."""
    layers = _layers(chain, space)
    if output is not None:
        return PlainStack(layers, head, (output,))
    parts = [part for _, module in chain for part in module.modules()]
    last = [part for part in parts if type(part) in (nn.Linear, PopulationReadout)][-1]
    return PlainStack(layers, head, (last,))


def _layers(chain: Named, space: spaces.Space[Any]) -> tuple[PlainLayer, ...]:
    image = isinstance(space, spaces.Box) and len(space.shape) == 3
    shape = space.shape if image else (flatdim(space),)
    return Tracing(tuple(shape or ())).run([part for part in chain if not _joins(*part)])


def _joins(name: str, module: nn.Module) -> bool:
    """Whether a module only lays the entries of a Dict side by side, as the preprocessing does."""
    if not isinstance(module, CombinedExtractor):
        return False
    parts = dict(module.extractors.items())
    own = [key for key, part in parts.items() if not isinstance(part, (nn.Flatten, nn.Identity))]
    if own:
        raise ConversionError(
            f"{name}: the entries {', '.join(own)} of the observation have layers of their own "
            "before they are joined; only entries that are joined as they are can be converted"
        )
    return True


def _squashed_gaussian(actor: Any, space: spaces.Space[Any]) -> PlainStack:
    chain = [
        ("actor.features_extractor", actor.features_extractor),
        ("actor.latent_pi", actor.latent_pi),
    ]
    beside = isinstance(actor, SpreadBeside)
    if not beside and not actor.use_sde:
        seen = actor.observation_space
        mean = _layers([*chain, ("actor.mu", actor.mu)], seen)
        spread = _layers([*chain, ("actor.log_std", actor.log_std)], seen)
        last = replace(
            mean[-1],
            name="actor.mu and actor.log_std",
            weight=np.concatenate([mean[-1].weight, spread[-1].weight]),
            bias=np.concatenate([mean[-1].bias, spread[-1].bias]),
        )
        head = _box_head(space, squash="tanh", noise="read")
        return PlainStack((*mean[:-1], last), head, (actor.mu, actor.log_std))
    mu, limit = actor.mu, None
    if isinstance(mu, nn.Sequential) and isinstance(mu[-1], nn.Hardtanh):
        limit = float(mu[-1].max_val)
        mu = mu[0]
    head = _box_head(space, squash="tanh", noise="unknown", mean_limit=limit)
    chain.append(("actor.mu.0" if limit else "actor.mu", mu))
    return _stack(chain, actor.observation_space, head, mu if beside else None)


def _random_search(policy: ARSPolicy, space: spaces.Space[Any]) -> PlainStack:
    net: Named = [("action_net", policy.action_net)]
    head: Head
    if not isinstance(space, spaces.Box):
        head = _greedy_head(space, 0.0)
    elif policy.squash_output:
        head = _box_head(space, squash="tanh")
        net = _without_tanh("action_net", policy.action_net)
    else:
        head = _box_head(space, squash="clip")
    chain = [("features_extractor", policy.features_extractor), *net]
    return _stack(chain, policy.observation_space, head)


def _quantiles(net: Any, space: spaces.Space[Any], epsilon: float) -> PlainStack:
    chain = [
        ("quantile_net.features_extractor", net.features_extractor),
        ("quantile_net.quantile_net", net.quantile_net),
    ]
    stack = _stack(chain, net.observation_space, _greedy_head(space, epsilon), net)
    *hidden, last = stack.layers
    # SB3 views the outputs as [B, n_quantiles, n_actions] and averages over the quantiles
    n_actions = int(space.n)  # type: ignore[attr-defined]
    mean = replace(
        last,
        weight=last.weight.reshape(-1, n_actions, last.weight.shape[1]).mean(axis=0),
        bias=last.bias.reshape(-1, n_actions).mean(axis=0),
    )
    return PlainStack((*hidden, mean), stack.head, stack.outputs, quantiles=True)


def _actor_critic_head(policy: ActorCriticPolicy, space: spaces.Space[Any]) -> Head:
    dist = policy.action_dist
    if isinstance(dist, distributions.CategoricalDistribution):
        return Categorical((dist.action_dim,), sampling="softmax")
    if isinstance(dist, distributions.MultiCategoricalDistribution):
        return Categorical(tuple(int(n) for n in dist.action_dims), multi=True, sampling="softmax")
    if isinstance(dist, distributions.BernoulliDistribution):
        return Binary(dist.action_dims)
    if isinstance(dist, distributions.StateDependentNoiseDistribution):
        return _box_head(space, squash="tanh" if policy.squash_output else "clip", noise="unknown")
    if isinstance(dist, distributions.DiagGaussianDistribution):
        return _box_head(space, squash="clip", noise="fixed", log_std=_array(policy.log_std))
    raise ConversionError(f"the action distribution {type(dist).__name__} is not supported")


def _greedy_head(space: spaces.Space[Any], epsilon: float) -> Categorical:
    sampling = "epsilon" if epsilon > 0 else "none"
    return Categorical((int(space.n),), sampling=sampling, epsilon=epsilon)  # type: ignore[attr-defined, arg-type]


def _box_head(space: spaces.Space[Any], **rules: Any) -> Gaussian:
    assert isinstance(space, spaces.Box)  # SB3 built a continuous policy for it
    return Gaussian(space.low, space.high, **rules)


def _bare_head(space: spaces.Space[Any]) -> Head:
    if isinstance(space, spaces.Discrete):
        return Categorical((int(space.n),))
    if isinstance(space, spaces.MultiDiscrete):
        return Categorical(tuple(int(n) for n in space.nvec), multi=True)
    if isinstance(space, spaces.MultiBinary):
        return Binary(int(np.prod(space.shape)))
    if isinstance(space, spaces.Box):
        return _box_head(space, squash="clip")
    raise ConversionError(f"the action space {space} is not supported")


def _without_tanh(name: str, net: nn.Module) -> Named:
    modules = list(net.children())
    if not modules or not isinstance(modules[-1], nn.Tanh):
        raise ConversionError(f"{name} should end in Tanh (squash_output), found {net}")
    return [(f"{name}.{i}", module) for i, module in enumerate(modules[:-1])]


def _array(tensor: torch.Tensor) -> FloatArray:
    return tensor.detach().cpu().numpy().astype(np.float64)
