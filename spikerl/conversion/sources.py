"""Everything convert() accepts as a source, brought to one form. Imports torch and SB3."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from spikerl.conversion.checkpoints import load_checkpoint
from spikerl.conversion.environments import maker, todays_id
from spikerl.conversion.stack import PlainStack, plain_stack
from spikerl.conversion.vecnormalize import statistics
from spikerl.decoding import Categorical
from spikerl.errors import ConversionError
from spikerl.metrics import percent_of_range
from spikerl.preprocessing import Observation, Preprocessing, from_space


@dataclass(frozen=True, eq=False)
class Source:
    """A policy taken apart, and where it can be watched.

    predict:       the source's own predict, or None for a bare torch module.
    environment:   makes the environment it was trained in; None where unknown.
    replay_buffer: what off-policy training left, or None.
    """

    stack: PlainStack
    preprocessing: Preprocessing
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    predict: Callable[..., Any] | None = None
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
    """Check that the stack acts as the source does; raises ConversionError where it does not.

    A custom feature extractor may do more in forward() than its layers show: this finds out.
    """
    if source.predict is None:
        return
    theirs, _ = source.predict(source.preprocessing.normalized(observations), deterministic=True)
    values = source.stack.activations(source.preprocessing(observations))[-1]
    ours = source.stack.head.action(values, True, np.random.default_rng(0))
    if isinstance(source.action_space, spaces.Box):
        wrong = float(percent_of_range(ours - theirs, source.action_space).max()) > 0.1
    else:
        differs = (ours != theirs).reshape(len(ours), -1).any(axis=1)
        if isinstance(source.stack.head, Categorical):
            # float32 against float64: only a tie may fall on the other side
            best = np.sort(values, axis=1)
            differs &= best[:, -1] - best[:, -2] > 1e-4 * np.abs(values).max()
        wrong = bool(differs.any())
    if wrong:
        raise ConversionError(
            "the layers found do not reproduce the policy's actions: its forward() does something "
            "they do not show (a custom feature extractor?), so it cannot be converted"
        )


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
    return Source(
        stack=stack,
        preprocessing=_preprocessing(
            policy.observation_space, normalizer, getattr(policy, "normalize_images", True), stack
        ),
        observation_space=policy.observation_space,
        action_space=policy.action_space,
        predict=policy.predict,
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
    return Source(
        stack=stack,
        preprocessing=_preprocessing(options["observation_space"], normalizer, True, stack),
        observation_space=options["observation_space"],
        action_space=options["action_space"],
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
