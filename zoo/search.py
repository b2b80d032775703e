"""Search spaces for rl_zoo3's --optimize: its own, and beside them what a spiking policy can vary.

zoo/train.py has rl_zoo3 use this manager of experiments (which needs pandas):

    python zoo/train.py --algo ppo --env CartPole-v1 --conf-file zoo/ppo.yml -optimize

A trial keeps of an entry's policy_kwargs what it does not vary, as encoder, read-out and norm.
"""

from collections.abc import Callable
from typing import Any

import optuna
from rl_zoo3 import exp_manager, hyperparams_opt

ALGORITHMS = (
    *("a2c", "ddpg", "dqn", "ppo", "ppo_lstm", "proxy_td3"),
    *("qrdqn", "sac", "td3", "tqc", "trpo"),
)
# relative width of the surrogate's derivative: from nearly flat over a threshold to a tenth of it
SLOPES = (0.5, 10.0)
OF_NEURONS = ("surrogate", "slope", "detach_reset")
Settings = dict[str, Any]
Choice = Callable[..., Settings]
# rl_zoo3's own, before Manager puts others into its tables
SAMPLERS: dict[str, Choice] = {**hyperparams_opt.HYPERPARAMS_SAMPLER}
CONVERTERS: dict[str, Choice] = {**hyperparams_opt.HYPERPARAMS_CONVERTER}


def spikes(trial: optuna.Trial, algo: str) -> Settings:
    """What a spiking policy's policy_kwargs may be, as flat as rl_zoo3 keeps a trial."""
    choose = trial.suggest_categorical
    flat: Settings = {
        "sim_steps": choose("sim_steps", [2, 4, 8]),
        "surrogate": choose("surrogate", ["arctan", "fast_sigmoid", "triangle"]),
        "slope": trial.suggest_float("slope", *SLOPES, log=True),
    }
    if algo == "ppo_lstm":
        return {**flat, "memory_size": choose("memory_size", [32, 64, 128])}
    neuron = choose("neuron", ["IF", "LIF", "PLIF"])
    return {**flat, "neuron": neuron, "detach_reset": choose("detach_reset", [False, True])}


def add(chosen: Settings, flat: Settings, entry: Settings) -> Settings:
    """rl_zoo3's choice and the spiking one, over the policy_kwargs of an entry."""
    rest = {name: value for name, value in chosen.items() if name not in flat}
    theirs, ours = rest.pop("policy_kwargs"), {**flat}
    theirs.pop("activation_fn", None)  # of hidden layers, which spike
    if "memory_size" in flat:  # the action is read from the memory itself
        theirs["net_arch"] = {"pi": [], "vf": theirs["net_arch"]["vf"]}
    else:
        of_neurons = {name: ours.pop(name) for name in OF_NEURONS}
        ours["neuron_kwargs"] = {**entry.get("neuron_kwargs", {}), **of_neurons}
    return {**rest, "policy_kwargs": {**entry, **theirs, **ours}}


def spaces(algo: str, entry: Settings) -> tuple[Choice, Choice]:
    """A sampler, and a converter of the flat settings of a trial found again by --trial-id."""
    usual = "td3" if algo == "proxy_td3" else algo
    sample, convert = SAMPLERS[usual], CONVERTERS[usual]

    def sampler(trial: optuna.Trial, *rest: Any) -> Settings:
        return add(sample(trial, *rest), spikes(trial, algo), entry)

    def converter(params: Settings) -> Settings:
        names = ("sim_steps", "neuron", "memory_size", *OF_NEURONS)
        flat = {name: params[name] for name in names if name in params}
        rest = {name: value for name, value in params.items() if name not in flat}
        if rest.get("noise_type", "") is None:  # the trial had the entry's
            del rest["noise_type"], rest["noise_std"]
        return add(convert(rest), flat, entry)

    return sampler, converter


class Manager(exp_manager.ExperimentManager):
    """rl_zoo3's, with these spaces over what the entry it reads says of the policy."""

    def read_hyperparameters(self) -> tuple[Settings, Settings]:
        trial, self.trial_id = self.trial_id, None
        found = super().read_hyperparameters()  # of the entry alone
        if self.algo in ALGORITHMS:
            given = found[0].get("policy_kwargs", {})
            entry = eval(given, vars(exp_manager)) if isinstance(given, str) else given
            tables = hyperparams_opt.HYPERPARAMS_SAMPLER, hyperparams_opt.HYPERPARAMS_CONVERTER
            for table, new in zip(tables, spaces(self.algo, entry), strict=True):
                table[self.algo] = new
        self.trial_id = trial
        return super().read_hyperparameters() if trial else found
