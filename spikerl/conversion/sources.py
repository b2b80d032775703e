"""Everything convert() accepts as a source, brought to one form. Imports torch and SB3."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from spikerl.conversion.checkpoints import load_checkpoint
from spikerl.conversion.environments import maker, todays_id
from spikerl.conversion.stack import PlainStack, plain_stack
from spikerl.conversion.vecnormalize import statistics
from spikerl.errors import ConversionError
from spikerl.preprocessing import Observation, Preprocessing, from_space


@dataclass(frozen=True, eq=False)
class Source:
    """A policy taken apart, and where it can be watched.

    act:           lets the source act on raw observations.
    environment:   makes the environment it was trained in; None where unknown.
    replay_buffer: what off-policy training left, or None.
    """

    stack: PlainStack
    preprocessing: Preprocessing
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    act: Callable[[Observation], Any]
    env_id: str | None = None
    environment: Callable[[], Callable[[], gym.Env[Any, Any]]] | None = None
    replay_buffer: Any = None
    details: Mapping[str, Any] = field(default_factory=dict)


def open_source(source: Any, env: Any, options: Mapping[str, Any]) -> Source:
    """Read and take apart a path, an SB3 model, its policy or a torch module.

    options: vecnormalize, algo, observation_space, action_space, as convert() takes them.
    Raises ConversionError saying what was found and what is wanted.
    """
    normalizer = options["vecnormalize"]
    if normalizer is None and isinstance(env, VecNormalize):
        normalizer = env
    if isinstance(source, (str, os.PathLike)):
        checkpoint = load_checkpoint(os.fspath(source), options["algo"])
        env_id = checkpoint.env_id
        return _from_model(
            checkpoint.model,
            checkpoint.vecnormalize if normalizer is None else normalizer,
            env_id,
            None
            if env_id is None
            else lambda: maker(todays_id(env_id), checkpoint.env_kwargs, checkpoint.wrappers),
            checkpoint.details,
        )
    if isinstance(source, BaseAlgorithm):
        spec = _spec(source)
        details = {"algorithm": type(source).__name__.lower(), "timesteps": source.num_timesteps}
        return _from_model(
            source,
            source.get_vec_normalize_env() if normalizer is None else normalizer,
            spec.id if spec is not None else None,
            # A fresh environment: stepping the one in training would disturb the training.
            None if spec is None else lambda: partial(_made_again, spec),
            details,
        )
    if isinstance(source, BasePolicy):
        return _from_policy(source, normalizer, 0.0, {"policy": type(source).__name__})
    if isinstance(source, nn.Module):
        return _from_module(source, normalizer, options)
    raise ConversionError(
        f"source is {type(source).__name__}; wanted an SB3 model, its policy, a .zip, an rl-zoo "
        "directory, or a torch.nn.Sequential with observation_space= and action_space="
    )


def verify(source: Source, observations: Observation) -> None:
    """Check that the stack computes what the source does; raises ConversionError where it does not.

    A custom feature extractor may do more in forward() than its layers show: this finds out, by
    watching the outputs of the source's last linear modules.
    """
    theirs = _outputs(source, observations)
    ours = source.stack.activations(source.preprocessing(observations))[-1]
    # QR-DQN: all quantiles of all actions come out, their mean counts
    theirs = theirs.reshape(len(ours), -1, ours.shape[1]).mean(axis=1)
    if not np.allclose(ours, theirs, rtol=0, atol=1e-4 * max(1e-3, float(np.abs(theirs).max()))):
        raise ConversionError(
            "the layers found do not reproduce the policy's outputs: its forward() does something "
            "they do not show (a custom feature extractor?), so it cannot be converted"
        )


def _outputs(source: Source, observations: Observation) -> NDArray[np.float64]:
    """What the source's last linear modules give, side by side: [B, n]."""
    seen: dict[nn.Module, NDArray[np.float64]] = {}

    def watch(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        seen[module] = output.detach().cpu().numpy().astype(np.float64)

    hooks = [module.register_forward_hook(watch) for module in source.stack.outputs]
    try:
        source.act(observations)
    finally:
        for hook in hooks:
            hook.remove()
    if len(seen) < len(source.stack.outputs):
        raise ConversionError("acting, the policy does not use the layers found in it")
    return np.concatenate([seen[module] for module in source.stack.outputs], axis=1)


def _from_model(
    model: BaseAlgorithm,
    normalizer: Any,
    env_id: str | None,
    environment: Callable[[], Callable[[], gym.Env[Any, Any]]] | None,
    details: Mapping[str, Any],
) -> Source:
    policy = model.policy
    if policy is None:
        raise ConversionError("this model has no policy yet: it was not set up")
    epsilon = float(getattr(model, "exploration_rate", 0.0))
    return _from_policy(
        policy,
        normalizer,
        epsilon,
        details,
        env_id=env_id,
        environment=environment,
        replay_buffer=getattr(model, "replay_buffer", None),
    )


def _from_policy(
    policy: BasePolicy, normalizer: Any, epsilon: float, details: Mapping[str, Any], **where: Any
) -> Source:
    policy.set_training_mode(False)
    stack = plain_stack(policy, policy.action_space, epsilon)
    scale_images = getattr(policy, "normalize_images", True)
    preprocessing = _preprocessing(policy.observation_space, normalizer, scale_images, stack)
    return Source(
        stack=stack,
        preprocessing=preprocessing,
        observation_space=policy.observation_space,
        action_space=policy.action_space,
        act=lambda raw: policy.predict(preprocessing.normalized(raw), deterministic=True),
        details=details,
        **where,
    )


def _from_module(module: nn.Module, normalizer: Any, options: Mapping[str, Any]) -> Source:
    missing = [name for name in ("observation_space", "action_space") if options[name] is None]
    if missing:
        raise ConversionError(
            f"a plain torch module says nothing about its spaces; pass {' and '.join(missing)}="
        )
    module.eval()
    stack = plain_stack(module, options["action_space"], 0.0)
    preprocessing = _preprocessing(options["observation_space"], normalizer, True, stack)
    first = next(module.parameters())
    return Source(
        stack=stack,
        preprocessing=preprocessing,
        observation_space=options["observation_space"],
        action_space=options["action_space"],
        act=lambda raw: module(torch.as_tensor(preprocessing(raw)).to(first)),
        details={"module": type(module).__name__},
    )


def _preprocessing(
    space: spaces.Space[Any], normalizer: Any, scale_images: bool, stack: PlainStack
) -> Preprocessing:
    normalize = {} if normalizer is None else statistics(normalizer)
    preprocessing = from_space(space, normalize=normalize, scale_images=scale_images)
    found, wanted = preprocessing.n_outputs(), stack.layers[0].weight.shape[1]
    if found != wanted:
        raise ConversionError(
            f"the observation space gives {found} numbers, {stack.layers[0].name} takes {wanted}"
        )
    n_values = stack.layers[-1].weight.shape[0]
    if n_values != stack.head.n_values:
        raise ConversionError(
            f"the network has {n_values} outputs, the action space wants {stack.head.n_values}"
        )
    return preprocessing


def _spec(model: BaseAlgorithm) -> Any:
    """What made the model's environment, without SB3's Monitor, which changes no observation."""
    env = model.get_env()
    if env is None:
        return None
    try:
        spec = env.get_attr("spec")[0]
    except AttributeError:
        return None
    if spec is None:
        return None
    wrappers = tuple(w for w in spec.additional_wrappers if w.name != "Monitor")
    return replace(spec, additional_wrappers=wrappers)


def _made_again(spec: Any) -> gym.Env[Any, Any]:
    try:
        return gym.make(spec)
    except ValueError as error:
        raise ConversionError(
            f"the model's environment cannot be made a second time ({error}); pass env= or "
            "observations="
        ) from error
