"""The cheapest setting that is faithful enough: how many steps, how many neurons per unit.

Chosen by calibration rows alone, so that the report's held-out observations stay unseen.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

from gymnasium import spaces

from spikerl.conversion import candidate
from spikerl.conversion.build import Recipe
from spikerl.conversion.simulation import recordings
from spikerl.conversion.sources import Source
from spikerl.errors import ConversionError, ConversionWarning
from spikerl.network import FloatArray

PER_UNIT = (1, 2, 4, 8)
FEWEST_STEPS = 4


@dataclass(frozen=True)
class Goal:
    """What is wanted, and what it may cost.

    target:        least agreement, or largest action error in % for continuous actions.
    max_sim_steps: T; max_neurons: spiking neurons in all, None for any number.
    """

    target: float
    continuous: bool
    max_sim_steps: int
    max_neurons: int | None


@dataclass(frozen=True)
class Tried:
    """One setting and what it gave on calibration rows that it was not fitted to."""

    sim_steps: int
    neurons_per_unit: int
    neurons: int
    quality: float


def cheapest(
    origin: Source, rows: FloatArray, recipe: Recipe, goal: Goal, seed: int
) -> tuple[Recipe, list[Tried]]:
    """The recipe with the fewest neurons times steps that meets the goal, and what was tried.

    Where none meets it, the most faithful one, and a ConversionWarning that says what limits it.
    Raises ConversionError where the goal is not one for these actions, or no setting is allowed.
    """
    if isinstance(origin.action_space, spaces.Box) != goal.continuous:
        name = "target_agreement" if goal.continuous else "target_error"  # the other one
        raise ConversionError(f"for the actions {origin.action_space} the goal is {name}=")
    units = [layer.core.n_out for layer in origin.stack.layers[:-1]]
    steps = [FEWEST_STEPS * 2**k for k in range(12) if FEWEST_STEPS * 2**k < goal.max_sim_steps]
    settings = [
        (per_unit * sum(units), t, per_unit)
        for t in (*steps, goal.max_sim_steps)
        for per_unit in PER_UNIT
        if t > recipe.delay_steps * len(units)
        and (goal.max_neurons is None or per_unit * sum(units) <= goal.max_neurons)
    ]
    if not settings:
        raise ConversionError(
            f"no setting is allowed: with one neuron per unit there are {sum(units)}, at most "
            f"{goal.max_neurons} are wanted, in up to {goal.max_sim_steps} steps"
        )
    _, kept = candidate.fitting_rows(rows, seed)
    kept = kept if len(kept) else rows
    wanted = origin.stack.values(kept)
    tried: list[tuple[float, Recipe, Tried]] = []
    for neurons, t, per_unit in sorted(settings, key=lambda s: (s[0] * s[1], s[1])):
        option = replace(recipe, sim_steps=t, neurons_per_unit=per_unit)
        made = candidate.made(origin, rows, option, seed)
        recording = recordings(
            made.network, made.encoder, kept, t, seed + 5, made.decoder.read.needs_spikes
        )
        value = candidate.action_quality(
            made.decoder.values(recording), wanted, origin.stack.head, origin.action_space
        ).value
        better = -value if goal.continuous else value
        tried.append((better, option, Tried(t, per_unit, neurons, value)))
        if (value <= goal.target) if goal.continuous else (value >= goal.target):
            return option, [entry for *_, entry in tried]
    _, option, best = max(tried, key=lambda entry: entry[0])
    unit = "% error" if goal.continuous else "agreement"
    note = (
        f"no setting met the goal of {goal.target:g} {unit}: the best, {best.quality:.3g}, has "
        f"{best.neurons_per_unit} neurons per unit and T = {best.sim_steps}; max_sim_steps="
        f"{goal.max_sim_steps}, max_neurons={goal.max_neurons} and {PER_UNIT[-1]} neurons per unit "
        "limit it"
    )
    warnings.warn(note, ConversionWarning, stacklevel=2)
    return option, [entry for *_, entry in tried]
