"""convert(): a trained SB3 policy becomes a SpikingAgent, with a report of how faithful it is.

Imports torch and SB3. The steps: read the source (sources, checkpoints), take its network apart
(algorithms, tracing) and check that it was understood (verification), get observations
(observations, environments), make a network (candidate: ramps, thresholds, build), perhaps of the
cheapest setting that will do (search), and measure it (fidelity).
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from inspect import signature
from typing import Any

import numpy as np

from spikerl import backends
from spikerl.agent import SpikingAgent
from spikerl.conversion import build, candidate, export, fidelity, search
from spikerl.conversion import observations as observing
from spikerl.conversion.sources import Source, open_source
from spikerl.conversion.stack import PlainStack
from spikerl.conversion.thresholds import RULES
from spikerl.conversion.verification import verify
from spikerl.errors import ConversionError, ConversionWarning, checked_seed, checked_whole
from spikerl.network import RESETS, Reset
from spikerl.operations import dense_macs

_RULES = {
    "v_init": 0.5,
    "encoder": "constant",
    "decoder": "potential",
    "readout": "auto",
    "delay_steps": 0,
    "neurons_per_unit": None,
    "tolerance": 0.002,
    "rate_scale": None,
    "weight_bits": None,
    "first_reset": None,
    "target": None,
    "target_agreement": None,
    "target_error": None,
    "max_sim_steps": None,
    "max_neurons": None,
    "vecnormalize": None,
    "algo": None,
    "observation_space": None,
    "action_space": None,
}

STEPS = 32  # per decision, unless asked for others
_NO_SETTINGS = ("source", "observations", "env", "rules")


def convert(
    source: Any,
    *,
    observations: Any = None,
    env: Any = None,
    n_calibration: int = 10_000,
    sim_steps: int | None = None,
    reset: Reset = "subtract",
    threshold: str = "neuron",
    percentile: float = 99.9,
    seed: int = 0,
    **rules: Any,
) -> SpikingAgent:
    """Turn a trained policy into a spiking agent.

    Rate conversion after Diehl et al. (2015) and Rueckauer et al. (2017): each ReLU becomes an
    integrate-and-fire neuron whose spikes per step stand for its activation; any other activation
    (tanh, ELU, SiLU, GELU, ...) becomes a sum of ramps, one neuron each.

    source:       an SB3 or sb3-contrib model, its policy, a .zip, an rl-zoo directory, or a plain
                  torch.nn.Sequential with observation_space= and action_space=.
    observations: raw observations [B, ...] (or a Dict of them, or a replay buffer) to calibrate on;
                  a fifth of them is held out for the report.
    env:          else where to collect them on-policy: an id, an environment or a VecEnv. Without
                  either: the checkpoint's environment, the model's, or its replay buffer.
    n_calibration: observations to calibrate on.
    sim_steps:    steps per decision, T; 32 unless the policy spikes already and has its own.
    reset:        "subtract" or "zero".
    threshold, percentile: "neuron" or "layer" percentile of the activations (100: the maximum), or
                  "model", from the weights alone.
    seed:         of everything random.

    rules: v_init (0.5 thresholds), encoder ("constant", "poisson", "equidistant"), decoder
    ("potential"; "residual_potential": the host adds what the last hidden neurons received, spikes
    and remaining potential; "spike_count", "signed_spike_count", "first_spike"), readout ("copied":
    the last layer is the source's; "fitted": it is fitted by ridge regression to what the spiking
    layers really send within T steps; "auto": whichever does best on calibration observations kept
    out of the fit), delay_steps (of every hidden layer), neurons_per_unit (k: a unit resolves k * T
    levels; None: 1 for a ReLU, for another activation as many as keep the tolerance), tolerance
    (mean error of the ramps as a share of the activation's standard deviation), rate_scale (spikes
    per step for the largest activation; None: 1, and for reset "zero" the best of 1, 1/2 and 1/4 on
    calibration observations kept out of the fit), weight_bits (None, or the bits of a target's
    weights and biases, to which those of every layer are rounded before the next thing is fitted),
    first_reset (of the first layer, if not reset: where a target's host computes it and the
    read-out, whose weights are then not rounded),
    target (the name of a back end: resets, delay_steps and weight_bits as it needs them),
    vecnormalize (path or object), algo (the algorithm a file must be of), observation_space,
    action_space.

    With target_agreement (a share) or, for continuous actions, target_error (in %) the cheapest
    setting that meets it is searched, up to max_sim_steps (sim_steps) steps and max_neurons (any
    number of) spiking neurons: sim_steps and neurons_per_unit are chosen by calibration
    observations alone, provenance["search"] holds what was tried.

    Raises ConversionError and other SpikerlErrors; warns with ConversionWarning.
    """
    if rules.get("target") is not None:
        reset, rules = _for_target(reset, rules)
    recipe, goal, options = _checked(
        rules,
        sim_steps=sim_steps,
        reset=reset,
        threshold=threshold,
        percentile=percentile,
        n_calibration=n_calibration,
        seed=seed,
    )
    with _noted() as notes:
        origin = open_source(source, env, options)
        spikes = origin.stack.layers[0].spikes
        if spikes is not None:
            usual, _, _ = _checked({}, **_settings())
            export.check_settings(recipe, usual, spikes.sim_steps, sim_steps)
            recipe = replace(recipe, sim_steps=spikes.sim_steps)
            n_calibration = observing.FEWEST
        sets = _observe(origin, observations, env, n_calibration, seed)
    preprocessing = origin.preprocessing
    verify(origin, sets.held_out)
    rows = preprocessing(sets.calibration)
    tried: list[search.Tried] = []
    if goal is not None and spikes is None:
        with _noted() as more:
            recipe, tried = search.cheapest(origin, rows, recipe, goal, seed)
        notes += more
    if spikes is None:
        made = candidate.made(origin, rows, recipe, seed)
    else:
        made = export.exported(origin.stack)
        held_out = preprocessing(sets.held_out)
        export.check_exported(origin, made, held_out, sets.groups, spikes.sim_steps)
    trial = fidelity.Trial(
        source=origin.stack,
        made=made,
        action_space=origin.action_space,
        sim_steps=recipe.sim_steps,
        calibration=rows,
        held_out=preprocessing(sets.held_out),
        groups=sets.groups,
        unit=sets.unit,
        seed=seed,
        trained=spikes is not None,
    )
    return SpikingAgent(
        network=made.network,
        preprocessing=preprocessing,
        encoder=made.encoder,
        decoder=made.decoder,
        sim_steps=recipe.sim_steps,
        observation_space=origin.observation_space,
        action_space=origin.action_space,
        provenance={
            "source": dict(origin.details) | _plain_macs(origin.stack),
            "environment": origin.env_id,
            "observations": sets.origin,
            "n_calibration": len(rows),
            "seed": seed,
            "recipe": (
                {**asdict(recipe), "penalty": made.penalty, "rate_scale": made.rate_scale}
                if spikes is None
                else export.recipe(spikes, made)
            ),
            "search": [asdict(entry) for entry in tried],
            "versions": _versions(),
        },
        report=fidelity.make_report(trial, notes),
        stateful=spikes is not None and spikes.stateful,
    )


def _plain_macs(stack: PlainStack) -> dict[str, int]:
    """Multiply-accumulates of a decision before conversion; none of a network that spikes."""
    if stack.layers[0].spikes is not None:
        return {}
    return {"macs": dense_macs(layer.core for layer in stack.layers)}


def _for_target(reset: Reset, rules: dict[str, Any]) -> tuple[Reset, dict[str, Any]]:
    """Reset and rules as a target needs them; refuses others that were asked for beside it."""
    name = rules["target"]
    wanted = backends.rules(name)
    if rules.get("first_reset") is not None:  # there is a choice where it is among the rules
        wanted.pop("first_reset", None)
    given = {"reset": reset, **{key: rules[key] for key in wanted if key in rules}}
    usual = {"reset": "subtract", **_RULES}
    problems = [
        f"{key}={value!r}, where {name!r} needs {wanted[key]!r}"
        for key, value in given.items()
        if value not in (usual[key], wanted[key])
    ]
    can = backends.capabilities(name)
    if can is not None and can.min_refractory_steps:
        problems.append(
            f"{name!r} has neurons that rest for {can.min_refractory_steps} step after a spike, "
            "which no conversion allows for"
        )
    if problems:
        raise ConversionError("these settings do not fit the target", problems)
    others = {key: value for key, value in wanted.items() if key != "reset"}
    return wanted["reset"], {**rules, **others}


def check_arguments(**arguments: Any) -> None:
    """Refuse what convert() would refuse of its keywords; raises ConversionError with all of it."""
    given = signature(convert).bind(None, **arguments)
    given.apply_defaults()
    values = given.arguments
    _checked(values["rules"], **_settings(values))


def usual_arguments() -> dict[str, Any]:
    """Every setting and rule convert() knows by name, but for where it gets observations."""
    return {**_settings(), **_RULES}


def _settings(values: dict[str, Any] | None = None) -> dict[str, Any]:
    """The settings among convert()'s arguments, or its defaults."""
    if values is None:
        bound = signature(convert).bind(None)
        bound.apply_defaults()
        values = bound.arguments
    return {name: values[name] for name in values if name not in _NO_SETTINGS}


def _checked(
    rules: dict[str, Any], **given: Any
) -> tuple[build.Recipe, search.Goal | None, dict[str, Any]]:
    """The recipe, the goal of a search if there is one, and the source's options.

    Raises ConversionError with every bad argument.
    """
    unknown = sorted(set(rules) - set(_RULES))
    options = {**_RULES, **rules}
    percentile, v_init, delay = given["percentile"], options["v_init"], options["delay_steps"]
    per_unit, tolerance = options["neurons_per_unit"], options["tolerance"]
    rate_scale, bits = options["rate_scale"], options["weight_bits"]
    choices = (
        ("reset", given["reset"], RESETS),
        ("threshold", given["threshold"], RULES),
        ("encoder", options["encoder"], build.ENCODERS),
        ("decoder", options["decoder"], build.DECODERS),
        ("readout", options["readout"], build.READOUTS),
        ("first_reset", options["first_reset"], (None, *RESETS)),
    )
    problems = [f"there is no rule {name!r}; there are {', '.join(_RULES)}" for name in unknown]
    sim_steps = STEPS if given["sim_steps"] is None else given["sim_steps"]
    problems += checked_whole("sim_steps", sim_steps) + checked_seed(given["seed"])
    problems += checked_whole("n_calibration", given["n_calibration"])
    problems += checked_whole("delay_steps", delay, least=0)
    if given["seed"] is None:
        problems.append("seed must be a number, so that the conversion can be repeated")
    problems += [
        f"{name} is {value!r}; wanted one of {', '.join(map(str, wanted))}"
        for name, value, wanted in choices
        if value not in wanted
    ]
    if per_unit is not None:
        problems += checked_whole("neurons_per_unit", per_unit)
    if not (_is_number(tolerance) and tolerance > 0):
        problems.append(f"tolerance must be a number > 0, found {tolerance!r}")
    if bits is not None:
        problems += checked_whole("weight_bits", bits, least=2)
    if rate_scale is not None and not (_is_number(rate_scale) and 0 < rate_scale <= 1):
        problems.append(f"rate_scale is spikes per step in (0, 1], found {rate_scale!r}")
    if not (_is_number(percentile) and 0 < percentile <= 100):
        problems.append(f"percentile must be in (0, 100], found {percentile!r}")
    if not (_is_number(v_init) and 0 <= v_init < 1):
        problems.append(f"v_init is a share of the threshold in [0, 1), found {v_init!r}")
    problems += _goal_problems(options)
    if problems:
        raise ConversionError("these arguments cannot be used", problems)
    recipe = build.Recipe(
        sim_steps=int(sim_steps),
        reset=given["reset"],
        threshold=given["threshold"],
        percentile=float(percentile),
        v_init=float(v_init),
        encoder=options["encoder"],
        decoder=options["decoder"],
        readout=options["readout"],
        delay_steps=int(delay),
        neurons_per_unit=None if per_unit is None else int(per_unit),
        tolerance=float(tolerance),
        rate_scale=None if rate_scale is None else float(rate_scale),
        weight_bits=None if bits is None else int(bits),
        first_reset=options["first_reset"],
    )
    return recipe, _goal(options, recipe.sim_steps), options


def _goal_problems(options: dict[str, Any]) -> Iterator[str]:
    share, error = options["target_agreement"], options["target_error"]
    limits = {name: options[name] for name in ("max_sim_steps", "max_neurons")}
    if share is not None and not (_is_number(share) and 0 < share <= 1):
        yield f"target_agreement is a share in (0, 1], found {share!r}"
    if error is not None and not (_is_number(error) and error > 0):
        yield f"target_error must be a number of per cent > 0, found {error!r}"
    if share is not None and error is not None:
        yield "target_agreement is for choices, target_error for continuous actions: pass one"
    for name, value in limits.items():
        if value is not None:
            yield from checked_whole(name, value)
            if share is None and error is None:
                yield f"{name} limits a search: pass target_agreement= or target_error= too"
    if options["neurons_per_unit"] is not None and (share is not None or error is not None):
        yield "neurons_per_unit is what a search finds: leave it out, or the target"


def _goal(options: dict[str, Any], sim_steps: int) -> search.Goal | None:
    share, error = options["target_agreement"], options["target_error"]
    if share is None and error is None:
        return None
    return search.Goal(
        target=float(error if share is None else share),
        continuous=share is None,
        max_sim_steps=int(options["max_sim_steps"] or sim_steps),
        max_neurons=options["max_neurons"],
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _observe(
    origin: Source, observations: Any, env: Any, n_calibration: int, seed: int
) -> observing.ObservationSets:
    """The observations, from the first place that has any."""
    if observations is None and env is None:
        buffer = origin.replay_buffer
        if origin.environment is not None:
            env = origin.environment()
        elif getattr(buffer, "pos", 0) or getattr(buffer, "full", False):
            observations = buffer
        else:
            raise ConversionError(
                "there is nothing to calibrate on, or compare on, as no environment that can be "
                "made anew is known: pass observations= (raw, as the environment returns them) or "
                "env= (an id, an environment or a VecEnv)"
            )
    if observations is not None:
        return observing.given(observations, origin.preprocessing, n_calibration, seed)
    return observing.collected(origin.stack, origin.preprocessing, env, n_calibration, seed)


@contextmanager
def _noted() -> Iterator[list[str]]:
    """What ConversionWarnings say inside: shown to the user, and listed for the report."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConversionWarning)
        yield notes
    for entry in caught:
        if issubclass(entry.category, ConversionWarning):
            notes.append(str(entry.message))
        warnings.warn(entry.message, entry.category, stacklevel=4)


def _versions() -> dict[str, str]:
    packages = ("spikerl", "numpy", "torch", "stable-baselines3", "sb3-contrib", "gymnasium")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
