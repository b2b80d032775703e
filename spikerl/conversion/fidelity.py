"""The report of a conversion: the finished network against its source, on held-out observations.

Imports the cpu back end through the registry, numpy and the network core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from spikerl import backends
from spikerl.conversion.build import fitted, last_layer
from spikerl.conversion.stack import PlainLayer, PlainStack
from spikerl.decoding import Categorical
from spikerl.encoding import Encoder
from spikerl.metrics import percent_of_range
from spikerl.network import FloatArray, Recording, SpikingNetwork
from spikerl.report import ConversionReport, LayerReport
from spikerl.statistics import Estimate, mean, share

BATCH = 250
FIT_ROWS = 3000
LONGEST = 1024  # steps: the search for a sufficient T ends here
TARGETS = {"agreement": 0.99, "action_error": 1.0}  # per cent of the range for the error


def recordings(
    network: SpikingNetwork, encoder: Encoder, rows: FloatArray, sim_steps: int, seed: int
) -> Recording:
    """One decision of sim_steps for every row, on the cpu back end."""
    parts = []
    rng = np.random.default_rng(seed)
    with backends.get("cpu").compile(network, batch_size=min(BATCH, len(rows))) as session:
        for start in range(0, len(rows), BATCH):
            session.reset()
            parts.append(session.run(encoder.encode(rows[start : start + BATCH], sim_steps, rng)))
    return Recording.joined(parts)


def rates_by_steps(
    network: SpikingNetwork,
    layer: int,
    encoder: Encoder,
    rows: FloatArray,
    steps: list[int],
    seed: int,
) -> Iterator[FloatArray]:
    """Spikes per step [B, n] of one spiking layer after each of the growing numbers of steps.

    One simulation that goes on from one number to the next, so all of them cost what the last does.
    """
    rng = np.random.default_rng(seed)
    counts = np.zeros((len(rows), network.spiking_layers[layer].n_out), dtype=np.int64)
    starts = range(0, len(rows), BATCH)
    sessions = [
        backends.get("cpu").compile(network, batch_size=min(BATCH, len(rows) - s)) for s in starts
    ]
    try:
        done = 0
        for total in steps:
            for start, session in zip(starts, sessions, strict=True):
                part = slice(start, start + BATCH)
                drive = encoder.encode(rows[part], total - done, rng)
                counts[part] += session.run(drive).counts[layer]
            done = total
            yield counts / total
    finally:
        for session in sessions:
            session.close()


def action_quality(
    values: FloatArray,
    source_values: FloatArray,
    stack: PlainStack,
    action_space: spaces.Space[Any],
    episodes: NDArray[np.int64] | None,
) -> Estimate:
    """Agreement of the greedy actions, or their error in % of the range for a Box."""
    rng = np.random.default_rng(0)  # unused: the actions are deterministic
    ours = stack.head.action(values, True, rng)
    theirs = stack.head.action(source_values, True, rng)
    if isinstance(action_space, spaces.Box):
        return mean(percent_of_range(ours - theirs, action_space), episodes)
    return share((ours == theirs).reshape(len(ours), -1).all(axis=1), episodes)


def make_report(
    *,
    stack: PlainStack,
    network: SpikingNetwork,
    read: Callable[[Recording], FloatArray],
    encoder: Encoder,
    theta: list[FloatArray],
    fit: bool,
    action_space: spaces.Space[Any],
    sim_steps: int,
    calibration: FloatArray,
    held_out: FloatArray,
    episodes: NDArray[np.int64] | None,
    seed: int,
    warnings: list[str],
) -> ConversionReport:
    """Measure the network on held-out rows [B, n_in]; see ConversionReport for the figures."""
    source_values = stack.activations(held_out)[-1]
    recording = recordings(network, encoder, held_out, sim_steps, seed + 2)
    values = read(recording)
    quality = action_quality(values, source_values, stack, action_space, episodes)
    continuous = isinstance(action_space, spaces.Box)
    target = TARGETS["action_error" if continuous else "agreement"]

    by_steps = {sim_steps: quality}
    if theta:
        by_steps |= _longer(
            stack,
            network,
            encoder,
            theta,
            fit,
            action_space,
            sim_steps,
            calibration,
            held_out,
            episodes,
            seed,
            target,
        )
    met = [t for t, e in by_steps.items() if _meets(e, target, continuous)]
    error = np.abs(values - source_values)
    coarse = None
    if isinstance(stack.head, Categorical):
        coarse = _coarse_share(source_values, error, stack.head)
    layers = _layer_reports(stack, theta, held_out, recording)
    notes = [*warnings, *_advice(quality, continuous, coarse, layers, met, sim_steps, target)]
    return ConversionReport(
        sim_steps=sim_steps,
        agreement=None if continuous else quality,
        action_error=quality if continuous else None,
        value_error=float(error.mean() / (source_values.std() or 1.0)),
        by_steps=by_steps,
        target=target,
        steps_needed=min(met) if met else None,
        coarse=coarse,
        layers=layers,
        calibration=len(calibration),
        held_out=len(held_out),
        episodes=0 if episodes is None else len(np.unique(episodes)),
        warnings=tuple(notes),
    )


def _longer(
    stack: PlainStack,
    network: SpikingNetwork,
    encoder: Encoder,
    theta: list[FloatArray],
    fit: bool,
    action_space: spaces.Space[Any],
    sim_steps: int,
    calibration: FloatArray,
    held_out: FloatArray,
    episodes: NDArray[np.int64] | None,
    seed: int,
    target: float,
) -> dict[int, Estimate]:
    """What the same recipe gives with twice the steps, four times, ... until the target is met.

    The last layer is linear, so its values follow from the spikes of the last hidden layer; where
    it is fitted, it is fitted anew for every number of steps, as a conversion with that T would.
    """
    steps = [sim_steps * 2**k for k in range(1, 12) if sim_steps * 2**k <= LONGEST]
    if not steps:
        return {}
    hidden = len(theta) - 1
    source_values = stack.activations(held_out)[-1]
    fit_rows, _ = fitting_rows(calibration, seed)
    wanted = stack.activations(fit_rows)[-1]
    found = {}
    for total, seen, ours in zip(
        steps,
        rates_by_steps(network, hidden, encoder, fit_rows, steps, seed + 3),
        rates_by_steps(network, hidden, encoder, held_out, steps, seed + 4),
        strict=True,
    ):
        last: PlainLayer = last_layer(stack, theta, encoder)
        if fit:
            last = fitted(last, seen, wanted, stack.head)
        values = ours @ last.weight.T + last.bias
        found[total] = action_quality(values, source_values, stack, action_space, episodes)
        if _meets(found[total], target, isinstance(action_space, spaces.Box)):
            break
    return found


def fitting_rows(calibration: FloatArray, seed: int) -> tuple[FloatArray, FloatArray]:
    """Calibration rows to fit the last layer on and others to judge the fit, chosen at random."""
    order = np.random.default_rng(seed).permutation(len(calibration))
    n = min(FIT_ROWS, -(-2 * len(calibration) // 3))
    return calibration[order[:n]], calibration[order[n : n + FIT_ROWS // 2]]


def _meets(estimate: Estimate, target: float, continuous: bool) -> bool:
    return estimate.value <= target if continuous else estimate.value >= target


def _coarse_share(source: FloatArray, error: FloatArray, head: Categorical) -> float:
    """Share of decisions whose best two values are closer than the mean error of such a pair."""
    ends = np.cumsum(head.nvec)
    close = np.zeros(len(source), dtype=bool)
    for end, n in zip(ends, head.nvec, strict=True):
        if n > 1:
            best = np.sort(source[:, end - n : end], axis=1)
            close |= best[:, -1] - best[:, -2] < error[:, end - n : end].mean()
    return float(close.mean())


def _layer_reports(
    stack: PlainStack, theta: list[FloatArray], held_out: FloatArray, recording: Recording
) -> tuple[LayerReport, ...]:
    found = []
    hidden = zip(stack.layers, theta, stack.activations(held_out), recording.counts, strict=False)
    for layer, largest, activation, counts in hidden:
        beyond = (activation > largest).mean(axis=0)
        found.append(
            LayerReport(
                name=layer.name,
                neurons=counts.shape[1],
                rate=float(counts.mean()) / recording.sim_steps,
                saturated=int((beyond > 0.01).sum()),
                silent=int((counts.sum(axis=0) == 0).sum()),
            )
        )
    return tuple(found)


def _advice(
    quality: Estimate,
    continuous: bool,
    coarse: float | None,
    layers: tuple[LayerReport, ...],
    met: list[int],
    sim_steps: int,
    target: float,
) -> Iterator[str]:
    if coarse is not None and quality.value < target and coarse > 0.01:
        yield (
            f"the network is too coarse for its action gaps: on {coarse:.0%} of the held-out "
            "observations the best two actions are closer than its error; "
            + (
                f"sim_steps={min(met)} would reach {target:.0%}"
                if met
                else f"no T up to {LONGEST} reached {target:.0%}"
            )
        )
    elif not _meets(quality, target, continuous):
        goal = f"{target:g} % error" if continuous else f"{target:.0%} agreement"
        yield (
            f"{goal} needs sim_steps={min(met)}"
            if met
            else f"{goal} was not reached with any T up to {LONGEST}"
        )
    for layer in layers:
        if layer.silent == layer.neurons:
            yield f"{layer.name}: all neurons are silent at T = {sim_steps}; raise sim_steps"
        elif layer.saturated > layer.neurons // 10:
            yield (
                f"{layer.name}: {layer.saturated} of {layer.neurons} neurons saturate; a higher "
                "percentile= gives them room"
            )
