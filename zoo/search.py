"""Search spaces for rl_zoo3's --optimize: its own, and beside them what a spiking policy can vary.

zoo/train.py puts them where rl_zoo3 looks for its samplers and converters (which needs pandas):

    python zoo/train.py --algo ppo --env CartPole-v1 --conf-file zoo/ppo.yml -optimize
"""

from collections.abc import Callable
from typing import Any

import optuna
from rl_zoo3 import hyperparams_opt

ALGORITHMS = ("a2c", "ddpg", "dqn", "ppo", "qrdqn", "sac", "td3", "tqc", "trpo")
# relative width of the surrogate's derivative: from nearly flat over a threshold to a tenth of it
SLOPES = (0.5, 10.0)


def spikes(trial: optuna.Trial) -> dict[str, Any]:
    """What a spiking policy's policy_kwargs may be, as flat as rl_zoo3 keeps a trial."""
    return {
        "sim_steps": trial.suggest_categorical("sim_steps", [2, 4, 8]),
        "neuron": trial.suggest_categorical("neuron", ["IF", "LIF", "PLIF"]),
        "surrogate": trial.suggest_categorical("surrogate", ["arctan", "fast_sigmoid", "triangle"]),
        "slope": trial.suggest_float("slope", *SLOPES, log=True),
        "detach_reset": trial.suggest_categorical("detach_reset", [False, True]),
    }


def policy_kwargs(flat: dict[str, Any]) -> dict[str, Any]:
    """The keywords a spiking policy takes, from a flat choice."""
    own = ("surrogate", "slope", "detach_reset")
    return {
        "sim_steps": flat["sim_steps"],
        "neuron": flat["neuron"],
        "neuron_kwargs": {name: flat[name] for name in own},
    }


def add(chosen: dict[str, Any], flat: dict[str, Any]) -> dict[str, Any]:
    """rl_zoo3's choice with the spiking one, which has no activation of hidden layers."""
    rest = {name: value for name, value in chosen.items() if name not in flat}
    given = {k: v for k, v in rest.pop("policy_kwargs").items() if k != "activation_fn"}
    return {**rest, "policy_kwargs": {**given, **policy_kwargs(flat)}}


def sampler(usual: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    return lambda trial, *rest: add(usual(trial, *rest), spikes(trial))


def converter(usual: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Settings of a trial that is found again, by --trial-id."""
    names = ("sim_steps", "neuron", "surrogate", "slope", "detach_reset")

    def convert(params: dict[str, Any]) -> dict[str, Any]:
        flat = {name: params[name] for name in names}
        return add(usual({k: v for k, v in params.items() if k not in flat}), flat)

    return convert


def install() -> None:
    """Into the two tables rl_zoo3 looks up its search spaces in."""
    for algo in ALGORITHMS:
        samplers, converters = (
            hyperparams_opt.HYPERPARAMS_SAMPLER,
            hyperparams_opt.HYPERPARAMS_CONVERTER,
        )
        samplers[algo] = sampler(samplers[algo])
        converters[algo] = converter(converters[algo])
