"""Environments to watch a policy in: made from an id, today's version of an old one, or given.

Imports gymnasium, frames and SB3's vectorised environments.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import parse_env_id
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
    unwrap_vec_wrapper,
)

from spikerl.conversion.frames import StackFrames
from spikerl.errors import ConversionError, ConversionWarning


def todays_id(env_id: str) -> str:
    """The registered id for a name that may be of years ago; warns when it is another one.

    LunarLander-v2 is LunarLander-v3 today, Hopper-v3 is Hopper-v5: the newest version registered.
    As in gymnasium.make(), "module:Name-v1" imports the module that registers it first.
    Raises ConversionError if it is no id, or nothing of that name is registered.
    """
    module, _, env_id = env_id.rpartition(":")
    if module:
        try:
            import_module(module)
        except (ImportError, TypeError) as error:  # TypeError: of a name such as ".envs"
            raise ConversionError(f"{module}, which has {env_id}: {error}") from error
    try:
        namespace, name, version = parse_env_id(env_id)
    except gym.error.Error as error:
        raise ConversionError(f"{env_id!r} is no environment id such as CartPole-v1") from error
    if namespace == "spikerl":
        import_module("spikerl.envs")  # registers them
    versions = _versions(namespace, name)
    if not versions and _atari():
        versions = _versions(namespace, name)
    if version in versions and _runs(versions[version]):
        return versions[version]
    newer = [v for v in versions if v is not None and _runs(versions[v])]
    if not newer:
        raise ConversionError(
            f"no environment {env_id} (nor another version of {name}) is registered or installed "
            "here; install the package that has it, name the module that registers it as in "
            f"package.module:{env_id}, or pass observations="
        )
    chosen = versions[max(newer)]
    warnings.warn(
        f"{env_id} is {chosen} today: the agent is run and measured there",
        ConversionWarning,
        stacklevel=2,
    )
    return chosen


def _versions(namespace: str | None, name: str) -> dict[int | None, str]:
    return {
        spec.version: spec.id
        for spec in gym.registry.values()
        if spec.namespace == namespace and spec.name == name
    }


def _atari() -> bool:
    """Whether Atari's games could be registered; ale-py does it when it is imported."""
    try:
        gym.register_envs(import_module("ale_py"))
    except ImportError:
        return False
    return True


def _runs(env_id: str) -> bool:
    """Whether an id can be made: old versions stay registered and raise when made."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gym.make(env_id).close()
    except Exception:  # whatever an environment's own package raises
        return False
    return True


def maker(
    env_id: str, env_kwargs: Mapping[str, Any], wrappers: tuple[Any, ...]
) -> Callable[[], gym.Env[Any, Any]]:
    """A function that makes the environment an rl-zoo run was trained in."""
    classes = [_wrapper(entry) for entry in wrappers]

    def make() -> gym.Env[Any, Any]:
        env = gym.make(env_id, **env_kwargs)
        for wrap in classes:
            env = wrap(env)
        return env

    return make


def _wrapper(entry: Any) -> Callable[[Any], Any]:
    name: Any = entry
    arguments: dict[str, Any] | None = None
    if isinstance(entry, dict):
        (name, arguments), *rest = entry.items()
        if rest:
            raise ConversionError(f"env_wrapper {entry} names several wrappers in one entry")
    module, _, attribute = str(name).rpartition(".")
    # rl-zoo's wrappers moved: those of old runs are in sb3-contrib or rl_zoo3 today
    for home in (module, "sb3_contrib.common.wrappers", "rl_zoo3.wrappers"):
        try:
            return partial(getattr(import_module(home), attribute), **(arguments or {}))
        except (ImportError, AttributeError, ValueError):
            continue
    raise ConversionError(
        f"the agent was trained with the wrapper {name}, which is not installed; pass env= with "
        "the environment wrapped as it needs, or observations="
    )


# Wrappers of a VecEnv that leave observations and actions as they are, or whose part the agent's
# preprocessing has.
_NO_MATTER = (VecCheckNan, VecMonitor, VecNormalize, VecTransposeImage, VecVideoRecorder)


def made_from(env: VecEnv | None) -> Any:
    """What made a model's environment, without SB3's Monitor, which changes no observation."""
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


def made_again(spec: Any, env: VecEnv | None) -> Callable[[], gym.Env[Any, Any]]:
    """A function that makes the environment of spec anew; env is the VecEnv around the first one.

    Raises ConversionError for wrappers of env that cannot be put around the new one.
    """
    lost: list[str] = []
    stacks: list[Callable[[Any], Any]] = []
    while isinstance(env, VecEnvWrapper):
        if type(env) is VecFrameStack:
            stacks.insert(0, _frame_stack(env))
        elif type(env) not in _NO_MATTER:
            lost.append(type(env).__name__)
        env = env.venv
    if lost:
        raise ConversionError(
            f"the model's environment is wrapped in {', '.join(lost)}, which cannot be made a "
            "second time; pass env= wrapped in the same way, or observations= as it returns them"
        )

    def make() -> gym.Env[Any, Any]:
        try:
            made = gym.make(spec)
        except ValueError as error:
            raise ConversionError(
                f"the model's environment cannot be made a second time ({error}); pass env= or "
                "observations="
            ) from error
        for stack in stacks:
            made = stack(made)
        return made

    return make


def _frame_stack(env: VecFrameStack) -> Callable[[Any], Any]:
    """What puts the same frame stack around a single environment."""
    stacked = env.stacked_obs

    def order(one: Any) -> str:
        return "first" if one.channels_first else "last"

    parts = getattr(stacked, "sub_stacked_observations", None)  # of a Dict
    orders = order(stacked) if parts is None else {key: order(one) for key, one in parts.items()}
    return partial(StackFrames, n_stack=stacked.n_stack, channels_order=orders)


def vectorised(env: Any, n_envs: int) -> tuple[VecEnv, bool]:
    """A VecEnv that returns raw observations, and whether it was made here (and is ours to close).

    env: an id, a function that makes one, a Gymnasium environment or a VecEnv.
    """
    if isinstance(env, str):
        env = maker(todays_id(env), {}, ())
    if isinstance(env, VecNormalize):
        return env.venv, False  # the statistics are applied by the agent's preprocessing
    if isinstance(env, VecEnv):
        if unwrap_vec_wrapper(env, VecNormalize) is not None:
            raise ConversionError("VecNormalize must be the outermost wrapper of env")
        return env, False
    if isinstance(env, gym.Env):
        return DummyVecEnv([lambda: env]), False
    if callable(env):
        return DummyVecEnv([env] * n_envs), True
    raise ConversionError(
        f"env is {type(env).__name__}; wanted an id, a Gymnasium environment or a VecEnv"
    )
