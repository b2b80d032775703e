"""The plain stack: an SB3 policy's network as linear layers and ReLUs, and what its outputs mean.

Imports torch and SB3. Whatever is not understood is refused by its dotted name; nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from gymnasium import spaces
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

from spikerl.decoding import Binary, Categorical, Gaussian, Head
from spikerl.errors import ConversionError
from spikerl.network import FloatArray

Named = list[tuple[str, nn.Module]]
TRANSPARENT = (nn.Flatten, nn.Identity, nn.Dropout)  # do nothing to a row when acting


@dataclass(frozen=True, eq=False)
class PlainLayer:
    """weight [n_out, n_in], bias [n_out]; relu says whether max(0, .) follows; name is dotted."""

    name: str
    weight: FloatArray
    bias: FloatArray
    relu: bool


@dataclass(frozen=True, eq=False)
class PlainStack:
    """Linear layers, ReLU after all but the last, and the head that acts on the outputs.

    outputs:   the modules of the source whose outputs, side by side, are the last layer's.
    quantiles: they give [B, quantiles, n] (QR-DQN), of which the last layer gives the mean.
    """

    layers: tuple[PlainLayer, ...]
    head: Head
    outputs: tuple[nn.Module, ...]
    quantiles: bool = False

    def activations(self, rows: FloatArray) -> list[FloatArray]:
        """The output [B, n] of every layer for rows [B, n_in]."""
        outputs = []
        for layer in self.layers:
            rows = rows @ layer.weight.T + layer.bias
            if layer.relu:
                rows = np.maximum(rows, 0.0)
            outputs.append(rows)
        return outputs


def plain_stack(policy: nn.Module, action_space: spaces.Space[Any], epsilon: float) -> PlainStack:
    """The stack of a policy or of a bare torch.nn.Sequential.

    epsilon: DQN's exploration rate, used only when acting with deterministic=False.
    Raises ConversionError naming every layer that cannot be converted.
    """
    if not isinstance(policy, BasePolicy):
        return _stack([("", policy)], _bare_head(action_space), policy)
    if isinstance(policy, DQNPolicy):
        return _stack(
            [
                ("q_net.features_extractor", policy.q_net.features_extractor),
                ("q_net.q_net", policy.q_net.q_net),
            ],
            _greedy_head(action_space, epsilon),
            policy.q_net,
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
            _box_head(action_space, squash="tanh"),
        )
    if isinstance(policy, ARSPolicy):
        return _random_search(policy, action_space)
    raise ConversionError(
        f"{type(policy).__name__} is not a policy spikerl can convert; it converts the MLP "
        "policies of DQN, QR-DQN, PPO, A2C, TRPO, SAC, TQC, TD3, DDPG and ARS"
    )


def _feed_forward(policy: BasePolicy) -> TypeGuard[ActorCriticPolicy]:
    """Whether it is an actor-critic policy that is nothing but its MLP."""
    return (
        isinstance(policy, ActorCriticPolicy)
        and not isinstance(policy, RecurrentActorCriticPolicy)
        and isinstance(policy.mlp_extractor, MlpExtractor)
    )


def _stack(chain: Named, head: Head, output: nn.Module | None = None) -> PlainStack:
    """output: the module that gives the values, if not the chain's last Linear."""
    if output is not None:
        return PlainStack(_layers(chain), head, (output,))
    last = [module for _, module in _leaves(chain) if isinstance(module, nn.Linear)][-1:]
    return PlainStack(_layers(chain), head, tuple(last))


def _layers(chain: Named) -> tuple[PlainLayer, ...]:
    layers: list[PlainLayer] = []
    problems: list[str] = []
    for name, module in _leaves(chain):
        kind = type(module).__name__
        if isinstance(module, nn.Linear):
            layer = PlainLayer(name, _array(module.weight), _bias(module), relu=False)
            if not (np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all()):
                problems.append(f"{name}: weights or biases are NaN or infinite")
            if layers and not layers[-1].relu:  # nothing between two linear maps: they are one
                before = layers.pop()
                layer = PlainLayer(
                    name,
                    layer.weight @ before.weight,
                    layer.weight @ before.bias + layer.bias,
                    relu=False,
                )
            layers.append(layer)
        elif isinstance(module, nn.ReLU):
            if layers:
                layers[-1] = PlainLayer(
                    layers[-1].name, layers[-1].weight, layers[-1].bias, relu=True
                )
            else:
                problems.append(f"{name}: ReLU acts on the observation itself, before any Linear")
        elif not isinstance(module, TRANSPARENT):
            problems.append(f"{name}: {kind} is not supported; Linear and ReLU are")
    if not problems and not layers:
        problems.append("there is no Linear layer")
    if not problems and layers[-1].relu:
        problems.append(f"{layers[-1].name}: a ReLU on the outputs is not supported")
    if problems:
        raise ConversionError("this policy cannot be converted", problems)
    return tuple(layers)


def _leaves(chain: Named) -> Iterable[tuple[str, nn.Module]]:
    for name, module in chain:
        # Not named_children(): it leaves out a module that is used a second time.
        children = [(key, part) for key, part in module._modules.items() if part is not None]
        if isinstance(module, CombinedExtractor):
            children = [(f"extractors.{key}", part) for key, part in module.extractors.items()]
        if children:
            yield from _leaves([(f"{name}.{child}".lstrip("."), part) for child, part in children])
        else:
            yield name, module


def _squashed_gaussian(actor: Any, space: spaces.Space[Any]) -> PlainStack:
    chain = [
        ("actor.features_extractor", actor.features_extractor),
        ("actor.latent_pi", actor.latent_pi),
    ]
    if not actor.use_sde:
        mean = _layers([*chain, ("actor.mu", actor.mu)])
        spread = _layers([*chain, ("actor.log_std", actor.log_std)])
        last = PlainLayer(
            "actor.mu and actor.log_std",
            np.concatenate([mean[-1].weight, spread[-1].weight]),
            np.concatenate([mean[-1].bias, spread[-1].bias]),
            relu=False,
        )
        head = _box_head(space, squash="tanh", noise="read")
        return PlainStack((*mean[:-1], last), head, (actor.mu, actor.log_std))
    mu, limit = actor.mu, None
    if isinstance(mu, nn.Sequential) and isinstance(mu[-1], nn.Hardtanh):
        limit = float(mu[-1].max_val)
        mu = mu[0]
    head = _box_head(space, squash="tanh", noise="unknown", mean_limit=limit)
    return _stack([*chain, ("actor.mu.0" if limit else "actor.mu", mu)], head)


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
    return _stack([("features_extractor", policy.features_extractor), *net], head)


def _quantiles(net: Any, space: spaces.Space[Any], epsilon: float) -> PlainStack:
    chain = [
        ("quantile_net.features_extractor", net.features_extractor),
        ("quantile_net.quantile_net", net.quantile_net),
    ]
    stack = _stack(chain, _greedy_head(space, epsilon), net)
    *hidden, last = stack.layers
    # SB3 views the outputs as [B, n_quantiles, n_actions] and averages over the quantiles
    n_actions = int(space.n)  # type: ignore[attr-defined]
    mean = PlainLayer(
        last.name,
        last.weight.reshape(-1, n_actions, last.weight.shape[1]).mean(axis=0),
        last.bias.reshape(-1, n_actions).mean(axis=0),
        relu=False,
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


def _bias(module: nn.Linear) -> FloatArray:
    return np.zeros(module.out_features) if module.bias is None else _array(module.bias)
