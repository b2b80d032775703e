"""Everything convert() accepts as a source, brought to one form. Imports torch and SB3."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from spikerl.conversion.algorithms import plain_stack
from spikerl.conversion.checkpoints import load_checkpoint
from spikerl.conversion.environments import made_again, made_from, maker, todays_id
from spikerl.conversion.stack import PlainStack
from spikerl.conversion.vecnormalize import Statistics, agreed_statistics
from spikerl.errors import ConversionError
from spikerl.preprocessing import Observation, Preprocessing, from_space


@dataclass(frozen=True, eq=False)
class Source:
    """A policy taken apart, and where it can be watched.

    act:           the source's deterministic actions for raw observations; None for a bare module,
                   which is only run.
    environment:   makes the environment it was trained in; None where unknown.
    replay_buffer: what off-policy training left, or None.
    """

    stack: PlainStack
    preprocessing: Preprocessing
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    act: Callable[[Observation], NDArray[Any] | None]
    env_id: str | None = None
    environment: Callable[[], Callable[[], gym.Env[Any, Any]]] | None = None
    replay_buffer: Any = None
    details: Mapping[str, Any] = field(default_factory=dict)


def open_source(source: Any, env: Any, options: Mapping[str, Any]) -> Source:
    """Read and take apart a path, an SB3 model, its policy or a torch module.

    options: vecnormalize, algo, observation_space, action_space, as convert() takes them.
    Raises ConversionError saying what was found and what is wanted.
    """
    given = options["vecnormalize"]
    if isinstance(source, (str, os.PathLike)):
        checkpoint = load_checkpoint(os.fspath(source), options["algo"])
        env_id = checkpoint.env_id
        return _from_model(
            checkpoint.model,
            agreed_statistics(given, checkpoint.vecnormalize, env),
            env_id,
            None
            if env_id is None
            else lambda: maker(todays_id(env_id), checkpoint.env_kwargs, checkpoint.wrappers),
            checkpoint.details,
        )
    if isinstance(source, BaseAlgorithm):
        spec = made_from(source.get_env())
        own = source.get_vec_normalize_env()
        details = {"algorithm": type(source).__name__.lower(), "timesteps": source.num_timesteps}
        return _from_model(
            source,
            agreed_statistics(given, own, env, complete=source.get_env() is not None),
            spec.id if spec is not None else None,
            # A fresh environment: stepping the one in training would disturb the training.
            None if spec is None else lambda: made_again(spec, source.get_env()),
            details,
        )
    statistics = agreed_statistics(given, None, env)
    if isinstance(source, BasePolicy):
        details = {"policy": type(source).__name__}
        return _from_policy(source, source.predict, statistics, 0.0, details)
    if isinstance(source, nn.Module):
        return _from_module(source, statistics, options)
    raise ConversionError(
        f"source is {type(source).__name__}; wanted an SB3 model, its policy, a .zip, an rl-zoo "
        "directory, or a torch.nn.Sequential with observation_space= and action_space="
    )


def _from_model(
    model: BaseAlgorithm,
    statistics: Statistics,
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
        model.predict,
        statistics,
        epsilon,
        details,
        env_id=env_id,
        environment=environment,
        replay_buffer=getattr(model, "replay_buffer", None),
    )


def _from_policy(
    policy: BasePolicy,
    predict: Callable[..., Any],
    statistics: Statistics,
    epsilon: float,
    details: Mapping[str, Any],
    **where: Any,
) -> Source:
    stack = plain_stack(policy, policy.observation_space, policy.action_space, epsilon)
    scale_images = getattr(policy, "normalize_images", True)
    preprocessing = _preprocessing(policy.observation_space, statistics, scale_images, stack)

    def act(raw: Observation) -> NDArray[Any]:
        with _as_found(policy):  # predict() leaves the policy in evaluation mode
            return np.asarray(predict(preprocessing.normalized(raw), deterministic=True)[0])

    return Source(
        stack=stack,
        preprocessing=preprocessing,
        observation_space=policy.observation_space,
        action_space=policy.action_space,
        act=act,
        details=details,
        **where,
    )


def _from_module(module: nn.Module, statistics: Statistics, options: Mapping[str, Any]) -> Source:
    missing = [name for name in ("observation_space", "action_space") if options[name] is None]
    if missing:
        raise ConversionError(
            f"a plain torch module says nothing about its spaces; pass {' and '.join(missing)}="
        )
    seen, acted = options["observation_space"], options["action_space"]
    stack = plain_stack(module, seen, acted, 0.0)
    preprocessing = _preprocessing(options["observation_space"], statistics, True, stack)
    first = next(module.parameters())

    def act(raw: Observation) -> None:
        with _as_found(module), torch.no_grad():
            module.eval()
            rows = torch.as_tensor(preprocessing(raw)).to(first)
            if stack.reads_images:
                rows = rows.reshape(-1, *(seen.shape or ()))
            module(rows)

    return Source(
        stack=stack,
        preprocessing=preprocessing,
        observation_space=options["observation_space"],
        action_space=options["action_space"],
        act=act,
        details={"module": type(module).__name__},
    )


@contextmanager
def _as_found(module: nn.Module) -> Iterator[None]:
    """Training and evaluation modes of a module and its parts are put back as they were."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _preprocessing(
    space: spaces.Space[Any], statistics: Statistics, scale_images: bool, stack: PlainStack
) -> Preprocessing:
    preprocessing = from_space(space, normalize=statistics, scale_images=scale_images)
    found, wanted = preprocessing.n_outputs(), stack.n_in
    if found != wanted:
        raise ConversionError(
            f"the observation space gives {found} numbers, {stack.layers[0].name} takes {wanted}"
        )
    n_values = stack.layers[-1].units
    if n_values != stack.head.n_values:
        raise ConversionError(
            f"the network has {n_values} outputs, the action space wants {stack.head.n_values}"
        )
    return preprocessing
