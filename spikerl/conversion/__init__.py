"""convert(): a trained SB3 policy becomes a SpikingAgent, with a report of how faithful it is.

Imports torch and SB3. The steps: read the source (checkpoints), take its network apart (stack), get
observations (observations, environments), set thresholds and build (thresholds, build), measure
(fidelity).
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from inspect import signature
from typing import Any

import numpy as np
from gymnasium import spaces

from spikerl.agent import SpikingAgent, checked_seed, checked_whole
from spikerl.conversion import build, fidelity
from spikerl.conversion import observations as observing
from spikerl.conversion.ramps import rewritten
from spikerl.conversion.sources import Source, open_source
from spikerl.conversion.stack import PlainLayer
from spikerl.conversion.thresholds import RULES, thresholds
from spikerl.conversion.verification import verify
from spikerl.encoding import Encoder
from spikerl.errors import ConversionError, ConversionWarning
from spikerl.network import RESETS, FloatArray, Reset, SpikingNetwork

_RULES = {
    "v_init": 0.5,
    "encoder": "constant",
    "decoder": "potential",
    "readout": "auto",
    "delay_steps": 0,
    "neurons_per_unit": None,
    "tolerance": 0.002,
    "vecnormalize": None,
    "algo": None,
    "observation_space": None,
    "action_space": None,
}

_NO_SETTINGS = ("source", "observations", "env", "rules")


def convert(
    source: Any,
    *,
    observations: Any = None,
    env: Any = None,
    n_calibration: int = 10_000,
    sim_steps: int = 32,
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
    sim_steps:    steps per decision, T.
    reset:        "subtract" or "zero".
    threshold, percentile: "neuron" or "layer" percentile of the activations (100: the maximum), or
                  "model", from the weights alone.
    seed:         of everything random.

    rules: v_init (0.5 thresholds), encoder ("constant", "poisson", "equidistant"), decoder
    ("potential", "spike_count", "signed_spike_count", "first_spike"), readout ("copied": the last
    layer is the source's; "fitted": it is fitted by ridge regression to what the spiking layers
    really send within T steps; "auto": whichever does best on calibration observations kept out
    of the fit), delay_steps (of every hidden layer), neurons_per_unit (k: a unit resolves k * T
    levels; None: 1 for a ReLU, for another activation as many as keep the tolerance), tolerance
    (mean error of the ramps as a share of the activation's standard deviation), vecnormalize (path
    or object), algo (the algorithm a file must be of), observation_space, action_space.

    Raises ConversionError and other SpikerlErrors; warns with ConversionWarning.
    """
    recipe, options = _checked(
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
        sets = _observe(origin, observations, env, n_calibration, seed)
    preprocessing = origin.preprocessing
    verify(origin, sets.held_out)
    rows = preprocessing(sets.calibration)
    stack, ramps = rewritten(
        origin.stack,
        rows,
        recipe.threshold,
        recipe.percentile,
        recipe.neurons_per_unit,
        recipe.tolerance,
    )
    under_way = recipe.delay_steps * (len(stack.layers) - 1)
    if under_way >= recipe.sim_steps:
        raise ConversionError(
            f"spikes take delay_steps={recipe.delay_steps} after each of {len(stack.layers) - 1} "
            f"spiking layers, {under_way} in all: none arrives within sim_steps={recipe.sim_steps}"
        )
    theta = thresholds(stack, rows, recipe.threshold, recipe.percentile)
    encoder = build.make_encoder(recipe, rows)
    hidden = build.make_hidden(stack, theta, encoder, recipe)
    last = build.last_layer(stack, theta, encoder)
    penalty = None
    if recipe.readout != "copied" and hidden:
        spiking = SpikingNetwork((*hidden, *build.read_out(last)))
        last, penalty = _fitted(origin, spiking, encoder, last, rows, recipe, seed)
    values = origin.stack.values(rows)
    network, decoder = build.close_network(hidden, last, values, stack, recipe)
    trial = fidelity.Trial(
        source=origin.stack,
        stack=stack,
        ramps=ramps,
        network=network,
        decoder=decoder,
        encoder=encoder,
        theta=theta,
        penalty=penalty,
        action_space=origin.action_space,
        sim_steps=sim_steps,
        calibration=rows,
        held_out=preprocessing(sets.held_out),
        groups=sets.groups,
        unit=sets.unit,
        seed=seed,
    )
    return SpikingAgent(
        network=network,
        preprocessing=preprocessing,
        encoder=encoder,
        decoder=decoder,
        sim_steps=sim_steps,
        observation_space=origin.observation_space,
        action_space=origin.action_space,
        provenance={
            "source": dict(origin.details),
            "environment": origin.env_id,
            "observations": sets.origin,
            "n_calibration": len(rows),
            "seed": seed,
            "recipe": {**asdict(recipe), "penalty": penalty},
            "versions": _versions(),
        },
        report=fidelity.make_report(trial, notes),
    )


def check_arguments(**arguments: Any) -> None:
    """Refuse what convert() would refuse of its keywords; raises ConversionError with all of it."""
    given = signature(convert).bind(None, **arguments)
    given.apply_defaults()
    values = given.arguments
    settings = {name: values[name] for name in values if name not in _NO_SETTINGS}
    _checked(values["rules"], **settings)


def _checked(rules: dict[str, Any], **given: Any) -> tuple[build.Recipe, dict[str, Any]]:
    """The recipe and the source's options; raises ConversionError with every bad argument."""
    unknown = sorted(set(rules) - set(_RULES))
    options = {**_RULES, **rules}
    percentile, v_init, delay = given["percentile"], options["v_init"], options["delay_steps"]
    per_unit, tolerance = options["neurons_per_unit"], options["tolerance"]
    choices = (
        ("reset", given["reset"], RESETS),
        ("threshold", given["threshold"], RULES),
        ("encoder", options["encoder"], build.ENCODERS),
        ("decoder", options["decoder"], build.DECODERS),
        ("readout", options["readout"], build.READOUTS),
    )
    problems = [f"there is no rule {name!r}; there are {', '.join(_RULES)}" for name in unknown]
    problems += checked_whole("sim_steps", given["sim_steps"]) + checked_seed(given["seed"])
    problems += checked_whole("n_calibration", given["n_calibration"])
    problems += checked_whole("delay_steps", delay, least=0)
    if given["seed"] is None:
        problems.append("seed must be a number, so that the conversion can be repeated")
    problems += [
        f"{name} is {value!r}; wanted one of {', '.join(wanted)}"
        for name, value, wanted in choices
        if value not in wanted
    ]
    if per_unit is not None:
        problems += checked_whole("neurons_per_unit", per_unit)
    if not (_is_number(tolerance) and tolerance > 0):
        problems.append(f"tolerance must be a number > 0, found {tolerance!r}")
    if not (_is_number(percentile) and 0 < percentile <= 100):
        problems.append(f"percentile must be in (0, 100], found {percentile!r}")
    if not (_is_number(v_init) and 0 <= v_init < 1):
        problems.append(f"v_init is a share of the threshold in [0, 1), found {v_init!r}")
    if problems:
        raise ConversionError("these arguments cannot be used", problems)
    recipe = build.Recipe(
        sim_steps=int(given["sim_steps"]),
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
    )
    return recipe, options


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _fitted(
    origin: Source,
    network: SpikingNetwork,
    encoder: Encoder,
    last: PlainLayer,
    rows: FloatArray,
    recipe: build.Recipe,
    seed: int,
) -> tuple[PlainLayer, float | None]:
    """The last layer fitted to the hidden layers' spikes, and the penalty of the fit.

    "auto" compares copied weights and fits of several penalties on rows kept out of the fit.
    """
    stack = origin.stack
    some, kept = fidelity.fitting_rows(rows, seed)
    both = np.concatenate([some, kept])
    counts = fidelity.recordings(network, encoder, both, recipe.sim_steps, seed + 1).counts[-1]
    rates, target = build.seen(last, counts / recipe.sim_steps), stack.values(both)
    n = len(some)

    def fit(penalty: float) -> PlainLayer:
        return build.fitted(last, rates[:n], target[:n], stack.head, penalty)

    if recipe.readout == "fitted" or not len(kept):
        return fit(build.RIDGE[0]), build.RIDGE[0]
    candidates: list[tuple[PlainLayer, float | None]] = [(fit(p), p) for p in build.RIDGE]
    candidates.append((last, None))

    def quality(candidate: tuple[PlainLayer, float | None]) -> float:
        layer, _ = candidate
        values = rates[n:] @ layer.weight.T + layer.bias
        estimate = fidelity.action_quality(values, target[n:], stack, origin.action_space)
        continuous = isinstance(origin.action_space, spaces.Box)
        return -estimate.value if continuous else estimate.value

    return max(candidates, key=quality)


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
                "there is nothing to calibrate on: pass observations= (raw, as the environment "
                "returns them) or env= (an id, an environment or a VecEnv)"
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
