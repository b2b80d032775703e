"""A network made by one recipe from calibration rows; nothing here sees held-out observations.

Imports numpy, the plain stack, build and simulation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from spikerl.conversion import build
from spikerl.conversion.ramps import Ramps, rewritten
from spikerl.conversion.simulation import recordings
from spikerl.conversion.sources import Source
from spikerl.conversion.stack import PlainLayer, PlainStack
from spikerl.conversion.thresholds import thresholds
from spikerl.decoding import Decoder, Head
from spikerl.encoding import Encoder
from spikerl.errors import ConversionError
from spikerl.metrics import percent_error
from spikerl.network import FloatArray, SpikingNetwork
from spikerl.statistics import Estimate, mean, share

FIT_ROWS = 3000
RATE_SCALES = (1.0, 0.5, 0.25)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network and how it came about.

    stack:   the source's with ReLUs only, which the network was built from; ramps: how.
    theta:   [units] per hidden layer.
    penalty: of the fit of the last layer, None if it is copied.
    rate_scale: spikes per step that theta has been divided by.
    rounded: whether weights are those of a target with few bits.
    """

    stack: PlainStack
    ramps: list[Ramps]
    theta: list[FloatArray]
    encoder: Encoder
    network: SpikingNetwork
    decoder: Decoder
    penalty: float | None
    rate_scale: float = 1.0
    rounded: bool = False


def made(origin: Source, rows: FloatArray, recipe: build.Recipe, seed: int) -> Candidate:
    """The network of a recipe, from calibration rows [B, n_in]; raises ConversionError."""
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
    whole = thresholds(stack, rows, recipe.threshold, recipe.percentile)
    encoder = build.make_encoder(recipe, rows)
    if recipe.decoder == "residual_potential" and (problems := _no_residual(recipe, stack)):
        raise ConversionError("residual potentials cannot be read", problems)
    found: list[tuple[float, Candidate]] = []
    for scale in _rate_scales(stack, recipe):
        theta = [part / scale for part in whole]
        hidden = build.make_hidden(stack, theta, encoder, recipe)
        # Where the first layer has a reset of its own, a host computes it and the read-out.
        host = recipe.first_reset is not None
        first = 1 if host else 0
        chip = [build.rounded(layer, recipe.weight_bits) for layer in hidden[first:]]
        hidden = [*hidden[:first], *chip]
        fit = _Fit(build.last_layer(stack, theta, encoder), None, 0.0)
        if hidden:
            spiking = SpikingNetwork((*hidden, *build.read_out(fit.last)))
            fit = _fitted(origin, spiking, encoder, fit.last, rows, recipe, seed)
        values = origin.stack.values(rows)
        network, decoder = build.close_network(hidden, fit.last, values, stack, recipe)
        if recipe.weight_bits is not None and not host:
            *others, end = network.layers
            network = replace(network, layers=(*others, build.rounded(end, recipe.weight_bits)))
        one = Candidate(stack, ramps, theta, encoder, network, decoder, fit.penalty, scale)
        one = replace(one, rounded=recipe.weight_bits is not None)
        found.append((fit.quality, one))
    return max(found, key=lambda pair: pair[0])[1]


def _rate_scales(stack: PlainStack, recipe: build.Recipe) -> tuple[float, ...]:
    """Spikes per step that the largest activation may be given: those to choose from.

    A neuron that is reset to zero loses what exceeds its threshold; with more steps from spike to
    spike that is less of each, but spikes are fewer. Ramps end where their neurons saturate, so
    their rates are given.
    """
    if recipe.rate_scale is not None:
        return (recipe.rate_scale,)
    ramps = any(layer.ceiling is not None for layer in stack.layers)
    return (1.0,) if recipe.reset == "subtract" or ramps or len(stack.layers) < 2 else RATE_SCALES


def _no_residual(recipe: build.Recipe, stack: PlainStack) -> list[str]:
    """Every reason against decoder="residual_potential"."""
    found = []
    if recipe.reset != "subtract":
        found.append("reset='zero' loses what exceeds the threshold, so it cannot be added up")
    if len(stack.layers) < 2:
        found.append("the policy has no hidden layer whose potentials could be read")
    if stack.layers[-1].pool is not None:
        found.append("there is pooling before the last layer")
    return found


@dataclass(frozen=True)
class _Fit:
    """The last layer, the penalty of its fit (None: copied), and how well it does on kept rows."""

    last: PlainLayer
    penalty: float | None
    quality: float


def _fitted(
    origin: Source,
    network: SpikingNetwork,
    encoder: Encoder,
    last: PlainLayer,
    rows: FloatArray,
    recipe: build.Recipe,
    seed: int,
) -> _Fit:
    """The last layer fitted to the spikes that reach it in time.

    "auto" compares copied weights and fits of several penalties on rows kept out of the fit.
    """
    stack = origin.stack
    some, kept = fitting_rows(rows, seed)
    both = np.concatenate([some, kept])
    residual = recipe.decoder == "residual_potential"
    # The spikes of the last steps are still under way when a decision ends.
    steps = recipe.sim_steps - (0 if residual else recipe.delay_steps)
    recording = recordings(network, encoder, both, steps, seed + 1)
    sent = recording.counts[-1] / recipe.sim_steps
    if residual:
        sent = build.residual(last, recipe).rates(recording, layer=-2)
    rates, target = build.seen(last, sent), stack.values(both)
    n = len(some)

    def judged(layer: PlainLayer, penalty: float | None) -> _Fit:
        if not len(kept):
            return _Fit(layer, penalty, 0.0)
        values = rates[n:] @ layer.weight.T + layer.bias
        quality = action_quality(values, target[n:], stack.head, origin.action_space).value
        worse = isinstance(origin.action_space, spaces.Box)
        return _Fit(layer, penalty, -quality if worse else quality)

    def fit(penalty: float) -> _Fit:
        layer = build.fitted(last, rates[:n], target[:n], stack.head, penalty)
        return judged(layer, penalty)

    if recipe.readout == "copied":
        return judged(last, None)
    if recipe.readout == "fitted" or not len(kept):
        return fit(build.RIDGE[0])
    fits = [*(fit(penalty) for penalty in build.RIDGE), judged(last, None)]
    return max(fits, key=lambda one: one.quality)


def fitting_rows(calibration: FloatArray, seed: int) -> tuple[FloatArray, FloatArray]:
    """Calibration rows to fit the last layer on and others to judge the fit, chosen at random."""
    order = np.random.default_rng(seed).permutation(len(calibration))
    n = min(FIT_ROWS, -(-2 * len(calibration) // 3))
    return calibration[order[:n]], calibration[order[n : n + FIT_ROWS // 2]]


def action_quality(
    values: FloatArray,
    source_values: FloatArray,
    head: Head,
    action_space: spaces.Space[Any],
    groups: NDArray[np.int64] | None = None,
    unit: str = "episodes",
) -> Estimate:
    """Agreement of the greedy actions, or their error in % of the range for a Box.

    groups: [B], rows that are alike, for the interval; unit: what a group is.
    """
    rng = np.random.default_rng(0)  # unused: the actions are deterministic
    ours = head.action(values, True, rng)
    theirs = head.action(source_values, True, rng)
    if isinstance(action_space, spaces.Box):
        return mean(percent_error(ours, theirs, action_space), groups, unit=unit)
    return share((ours == theirs).reshape(len(ours), -1).all(axis=1), groups, unit=unit)
