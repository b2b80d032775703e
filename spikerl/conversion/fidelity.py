"""The report of a conversion: the finished network against its source, on held-out observations.

Imports the cpu back end through the registry, numpy and the network core.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from spikerl.conversion.build import fitted, last_layer, seen
from spikerl.conversion.candidate import FIT_ROWS, Candidate, action_quality, fitting_rows
from spikerl.conversion.gaps import gap_report
from spikerl.conversion.sequences import recording_in_order, values_in_order
from spikerl.conversion.simulation import rates_by_steps, recordings
from spikerl.conversion.stack import PlainStack
from spikerl.decoding import Categorical
from spikerl.metrics import error_unit
from spikerl.network import FloatArray, Recording, SpikingNetwork
from spikerl.report import ConversionReport, LayerReport
from spikerl.statistics import Estimate

LONGEST = 1024  # steps: the search for a sufficient T ends here,
WORK = 2.5e11  # or where it would take more additions than this, some seconds
TARGETS = {"agreement": 0.99, "action_error": 1.0}  # per cent of the range for the error


@dataclass(frozen=True, eq=False)
class Trial:
    """A finished conversion and what it is to be measured with.

    source: the plain stack of the source.
    calibration, held_out: rows [B, n_in].
    groups: [B], the episode or block of time (unit) of each held-out row.
    trained: the network was trained for its number of steps, and for no other.
    """

    source: PlainStack
    made: Candidate
    action_space: spaces.Space[Any]
    sim_steps: int
    calibration: FloatArray
    held_out: FloatArray
    groups: NDArray[np.int64]
    unit: str
    seed: int
    trained: bool = False

    @cached_property
    def source_values(self) -> FloatArray:
        """What the source gives for the held-out rows, in order if it remembers."""
        return values_in_order(self.source, self.held_out, self.groups)

    @property
    def continuous(self) -> bool:
        """Whether the action space is a Box."""
        return isinstance(self.action_space, spaces.Box)

    @property
    def target(self) -> float:
        """What steps_needed aims at."""
        return TARGETS["action_error" if self.continuous else "agreement"]

    def quality(self, values: FloatArray) -> Estimate:
        """Agreement or action error of values for the held-out rows."""
        return action_quality(
            values, self.source_values, self.source.head, self.action_space, self.groups, self.unit
        )

    def meets(self, estimate: Estimate) -> bool:
        """Whether an agreement or error is good enough."""
        value = estimate.value
        return value <= self.target if self.continuous else value >= self.target


def make_report(trial: Trial, notes: list[str]) -> ConversionReport:
    """Measure the network on the held-out rows; see ConversionReport for the figures."""
    recording = _decisions(trial, trial.sim_steps)
    values = trial.made.decoder.values(recording)
    quality = trial.quality(values)
    by_steps = {trial.sim_steps: quality}
    for steps, longer_values in _longer(trial):
        by_steps[steps] = trial.quality(longer_values)
        if trial.meets(by_steps[steps]):
            break
    error = np.abs(values - trial.source_values)
    coarse, gaps = None, None
    in_units = trial.made.decoder.read.in_units
    if isinstance(trial.source.head, Categorical) and in_units:
        coarse = _coarse_share(trial.source_values, values, trial.source.head)
        gaps = gap_report(trial.source_values, values, trial.source.head)
    layers = _layer_reports(trial, recording)
    return ConversionReport(
        sim_steps=trial.sim_steps,
        agreement=None if trial.continuous else quality,
        action_error=quality if trial.continuous else None,
        value_error=float(error.mean() / (trial.source_values.std() or 1.0)) if in_units else None,
        by_steps=by_steps,
        target=trial.target,
        steps_needed=_enough(trial, by_steps),
        coarse=coarse,
        layers=layers,
        calibration=len(trial.calibration),
        held_out=len(trial.held_out),
        episodes=len(np.unique(trial.groups)) if trial.unit == "episodes" else 0,
        warnings=(*notes, *_advice(trial, by_steps, coarse, layers)),
        gaps=gaps,
    )


def _decisions(trial: Trial, sim_steps: int) -> Recording:
    if trial.source.stateful:
        made = (trial.made.network, trial.made.encoder)
        return recording_in_order(*made, trial.held_out, trial.groups, sim_steps, trial.seed + 2)
    return recordings(
        trial.made.network,
        trial.made.encoder,
        trial.held_out,
        sim_steps,
        trial.seed + 2,
        record_spikes=trial.made.decoder.read.needs_spikes,
    )


def _longer(trial: Trial) -> Iterator[tuple[int, FloatArray]]:
    """What the same recipe gives with twice the steps, four times, ...: steps and values.

    A read-out is linear, so its values follow from the spikes of the last hidden layer; where it is
    fitted, it is fitted anew for every number of steps, as a conversion with that T would. Other
    decoders, rounded weights, and delays (spikes under way at the end do not count), are simulated
    as they are.
    """
    rows = len(trial.held_out) + min(FIT_ROWS, len(trial.calibration))
    longest = min(LONGEST, int(WORK / (rows * _work(trial.made.network))))
    steps = [trial.sim_steps * 2**k for k in range(1, 12) if trial.sim_steps * 2**k <= longest]
    if trial.trained or not trial.made.decoder.read.in_units:
        return  # its weights or its threshold were set for this number of steps
    delayed = any(layer.delay_steps for layer in trial.made.network.spiking_layers)
    delayed = delayed or trial.made.rounded
    if not trial.made.theta or trial.made.network.readout.spiking or delayed:
        for total in steps:
            yield total, trial.made.decoder.values(_decisions(trial, total))
        return
    hidden = len(trial.made.theta) - 1
    fit_rows, _ = fitting_rows(trial.calibration, trial.seed)
    wanted = trial.source.values(fit_rows)
    copied = last_layer(trial.made.stack, trial.made.theta, trial.made.encoder)
    over = (trial.made.network, hidden, trial.made.encoder)
    for total, rates, ours in zip(
        steps,
        rates_by_steps(*over, fit_rows, steps, trial.seed + 3),
        rates_by_steps(*over, trial.held_out, steps, trial.seed + 4),
        strict=True,
    ):
        last = copied
        if trial.made.penalty is not None:
            last = fitted(
                copied, seen(copied, rates), wanted, trial.source.head, trial.made.penalty
            )
        yield total, seen(copied, ours) @ last.weight.T + last.bias


def _work(network: SpikingNetwork) -> float:
    """Additions per row and step if every neuron fired: n_in for each neuron."""
    return float(sum(layer.n_out * layer.weight[0].size for layer in network.neuron_layers))  # type: ignore[attr-defined]


def _enough(trial: Trial, by_steps: dict[int, Estimate]) -> int | None:
    """The fewest steps that met the target."""
    return min((t for t, estimate in by_steps.items() if trial.meets(estimate)), default=None)


def _coarse_share(source: FloatArray, ours: FloatArray, head: Categorical) -> float:
    """Share of decisions whose gap between the best two options is below the gaps' mean error.

    An error that all options have in common changes no decision and does not count.
    """
    close = np.zeros(len(source), dtype=bool)
    for end, n in zip(np.cumsum(head.nvec), head.nvec, strict=True):
        if n > 1:
            best = end - n + np.argsort(source[:, end - n : end], axis=1)[:, -2:]
            wanted = np.diff(np.take_along_axis(source, best, axis=1), axis=1)
            found = np.diff(np.take_along_axis(ours, best, axis=1), axis=1)
            close |= (wanted < np.abs(found - wanted).mean())[:, 0]
    return float(close.mean())


def _layer_reports(trial: Trial, recording: Recording) -> tuple[LayerReport, ...]:
    """Saturation is known where thresholds stand for activations of the source."""
    beyond = [0] * len(recording.counts)
    if trial.made.theta:
        activations = trial.made.stack.activations(trial.held_out)
        hidden = zip(trial.made.stack.layers, trial.made.theta, activations, strict=False)
        for i, (layer, largest, activation) in enumerate(hidden):
            share = (layer.by_unit(activation) > largest).mean(axis=0)
            beyond[i] = int((share > 0.01).sum())
    spikes = trial.made.stack.layers[0].spikes
    names = [layer.name for layer in trial.made.stack.layers[:-1]]
    if spikes is not None:
        names = [f"spiking layer {i + 1}" for i in range(len(recording.counts))]
    return tuple(
        LayerReport(
            name=name,
            neurons=counts.shape[1],
            rate=float(counts.mean()) / recording.sim_steps,
            saturated=saturated,
            silent=int((counts.sum(axis=0) == 0).sum()),
        )
        for name, counts, saturated in zip(names, recording.counts, beyond, strict=False)
    )


def _advice(
    trial: Trial,
    by_steps: dict[int, Estimate],
    coarse: float | None,
    layers: tuple[LayerReport, ...],
) -> Iterator[str]:
    if isinstance(trial.action_space, spaces.Box) and not trial.action_space.is_bounded("both"):
        yield f"some actions have no bounds: the error is in % of {error_unit(trial.action_space)}"
    known = {row.tobytes() for row in trial.calibration}
    seen = float(np.mean([row.tobytes() in known for row in trial.held_out]))
    if seen > 0.01:
        yield f"{seen:.0%} of the held-out observations occur among those calibrated on as well"
    goal = f"{trial.target:g} % error" if trial.continuous else f"{trial.target:.0%} agreement"
    enough = _enough(trial, by_steps)
    remedy = (
        f"{goal} needs sim_steps={enough}" if enough else f"no T up to {max(by_steps)} gave {goal}"
    )
    if not trial.meets(by_steps[trial.sim_steps]):
        if coarse is not None and coarse > 0.01:
            yield (
                f"the network is too coarse for its action gaps: on {coarse:.0%} of the held-out "
                f"observations the gap is smaller than the error in it; {remedy}"
            )
        else:
            yield remedy
    for ramp in trial.made.ramps:
        if ramp.error > 5:
            yield (
                f"{ramp.name}: {ramp.per_unit} ramps per unit miss the activation by up to "
                f"{ramp.error:.0f} % of its range; percentile=100 covers all of it, and more "
                "neurons_per_unit= (without them, a smaller tolerance=) come closer within it"
            )
    for layer in layers:
        if layer.silent == layer.neurons:
            yield f"{layer.name}: all neurons are silent at T = {trial.sim_steps}; raise sim_steps"
        elif layer.saturated > layer.neurons // 10:
            yield (
                f"{layer.name}: {layer.saturated} of {layer.neurons} neurons saturate; a higher "
                "percentile= gives them room"
            )
