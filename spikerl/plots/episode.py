"""Plots of a recorded episode: raster, potentials, rates, values. Imports episode.

They look as in the tutorials of neural simulators: a dot for every spike, time to the right,
neurons upwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.episode import EpisodeRecording
from spikerl.errors import SpikerlError, checked_whole, listed
from spikerl.network import FloatArray
from spikerl.plots.drawing import COLOURS, MARK, QUIET, STYLES, Drawing, drawn

_WIDE = 7.0  # inches
_LINES = 8  # more of them in one plot cannot be told apart
_NAMED = {
    "Q values": "Q value",
    "logits": "probability of the action",
    "odds": "probability of 1",
    "means": "action",
    "scores": "value of the action",
}


def raster(episode: EpisodeRecording, decisions: int = 10) -> Drawing:
    """A dot for every spike of the last decisions: neurons of each layer over simulated time, ms.

    Decisions are simulated one after the other; a line stands where one ends and the next begins.
    Raises SpikerlError for an episode that holds no decision.
    """
    _refuse_empty(episode, checked_whole("decisions", decisions))
    first = max(0, len(episode) - decisions)
    about = episode.about
    shown = [layer[first:].reshape(-1, layer.shape[2]) for layer in episode.spikes]
    sizes = [layer.shape[1] for layer in shown]
    ratios = [float(np.sqrt(n)) for n in sizes]
    with drawn(_WIDE, 1.2 + 1.5 * len(shown), len(shown), ratios) as drawing:
        each = about.sim_steps * about.dt_ms
        for i, (axes, layer) in enumerate(zip(drawing.all_axes, shown, strict=True)):
            steps, neurons = np.nonzero(layer)
            size = float(np.clip(90 / np.sqrt(layer.size / 10), 0.6, 4.0))
            times = (steps + 0.5) * about.dt_ms
            axes.plot(times, neurons, "o", color=COLOURS[i % 2], ms=size, mew=0, rasterized=True)
            for k in range(1, len(episode) - first):
                axes.axvline(k * each, color=QUIET, lw=0.8, zorder=0)
            axes.set_ylim(-0.7, sizes[i] - 0.3)
            axes.locator_params(axis="y", integer=True, nbins=5)
            axes.set_ylabel(f"layer {i}:\nneuron")
        last = drawing.all_axes[-1]
        last.set_xlim(0, (len(episode) - first) * each)
        held = f"decisions {first + _dropped(episode)} to {about.n_decisions - 1}"
        last.set_xlabel(f"simulated time, ms ({held}, {about.sim_steps} steps each)")
    return drawing


def potentials(
    episode: EpisodeRecording, layer: int = -1, neurons: list[int] | None = None
) -> Drawing:
    """Potentials of neurons of a layer after every decision; in the unit of the weights.

    layer:   of those with neurons; -1 is the read-out.
    neurons: up to 8, by default the first.
    Raises SpikerlError for neurons that are not there, or that the back end could not read.
    """
    _refuse_empty(episode)
    count = len(episode.potentials)
    if not -count <= layer < count:
        raise SpikerlError(f"layer is {layer}; the episode has layers 0 to {count - 1}")
    found = episode.potentials[layer]
    if found is None:
        raise SpikerlError(
            f"the back end {episode.about.backend!r} could not read the potentials of layer {layer}"
        )
    chosen = chosen_neurons(found.shape[1], neurons)
    with drawn(_WIDE, 2.8) as drawing:
        axes = drawing.axes
        for k, neuron in enumerate(chosen):
            _line(axes, k, episode.steps, found[:, neuron], f"neuron {neuron}")
        axes.set_ylabel(f"potential of layer {layer % count},\nunit of the weights")
        _legend(drawing, len(chosen))
        _decision_axis(axes, episode)
    return drawing


def firing(episode: EpisodeRecording) -> Drawing:
    """Spikes per neuron and step of each layer, decision by decision."""
    _refuse_empty(episode)
    found = episode.rates
    with drawn(_WIDE, 2.8) as drawing:
        axes = drawing.axes
        for i in range(found.shape[1]):
            _line(axes, i, episode.steps, found[:, i], f"layer {i}")
        axes.set_ylabel("spikes per neuron and step")
        axes.set_ylim(bottom=0)
        _legend(drawing, found.shape[1])
        _decision_axis(axes, episode)
    return drawing


def values(episode: EpisodeRecording, names: list[str] | None = None) -> Drawing:
    """What was decided on: Q values, probabilities (of logits), or continuous actions themselves.

    A mark at the top stands for each decision's action, in its colour, where actions are choices.
    names: of the actions, in their order.
    Raises SpikerlError for another number of names.
    """
    _refuse_empty(episode)
    about = episode.about
    shown: FloatArray = episode.values
    if about.meaning == "means":
        shown = np.asarray(episode.actions, dtype=np.float64).reshape(len(episode), -1)
    elif episode.probabilities is not None:
        shown = episode.probabilities
    labels = names if names is not None else [f"action {i}" for i in range(shown.shape[1])]
    if len(labels) != shown.shape[1]:
        raise SpikerlError(f"names has {len(labels)} entries for {shown.shape[1]} values")
    with drawn(_WIDE, 2.8) as drawing:
        axes = drawing.axes
        for k, label in enumerate(labels[:_LINES]):
            _line(axes, k, episode.steps, shown[:, k], label)
        if about.meaning in ("logits", "odds"):
            axes.set_ylim(-0.03, 1.03)
        if len(about.choices) == 1 and about.meaning != "means":
            taken = np.asarray(episode.actions).reshape(len(episode))
            for k in range(min(_LINES, shown.shape[1])):
                at = episode.steps[taken == k]
                axes.plot(
                    at,
                    np.full(len(at), 1.04),
                    "|",
                    color=COLOURS[k % len(COLOURS)],
                    transform=axes.get_xaxis_transform(),
                    clip_on=False,
                    ms=7,
                    mew=1.2,
                )
        rest = len(labels) - _LINES
        axes.set_ylabel(_NAMED[about.meaning] + (f"\n({rest} more not shown)" if rest > 0 else ""))
        _legend(drawing, len(labels))
        _decision_axis(axes, episode)
    return drawing


def chosen_neurons(n: int, neurons: list[int] | None) -> list[int]:
    """The neurons to draw; raises SpikerlError for some that a layer of n does not have."""
    chosen = list(range(min(n, _LINES))) if neurons is None else list(neurons)
    problems = []
    if not 1 <= len(chosen) <= _LINES:
        problems.append(f"{len(chosen)} neurons were chosen; 1 to {_LINES} can be told apart")
    absent = [i for i in chosen if not 0 <= i < n]
    if absent:
        problems.append(f"neurons {absent} are not there; the layer has 0 to {n - 1}")
    if problems:
        raise SpikerlError(listed("these neurons cannot be drawn", problems))
    return chosen


def _line(axes: Any, k: int, x: NDArray[Any], y: FloatArray, label: str) -> None:
    style = STYLES[k % len(STYLES)]
    axes.plot(x, y, style, color=COLOURS[k % len(COLOURS)], lw=1.3, label=label)


def _legend(drawing: Drawing, lines: int) -> None:
    if lines > 1:
        drawing.figure.legend(loc="outside upper center", ncols=min(4, lines), fontsize=9)


def _decision_axis(axes: Any, episode: EpisodeRecording) -> None:
    """Environment steps as the x axis; says where the beginning of the episode was not kept."""
    about = episode.about
    axes.set_xlabel(f"step of {about.environment or 'the environment'}")
    axes.margins(x=0.01)
    axes.locator_params(axis="x", integer=True)
    if _dropped(episode):
        axes.annotate(
            f"{_dropped(episode)} decisions\nbefore were not kept",
            (0, 1),
            (4, -3),
            xycoords="axes fraction",
            textcoords="offset points",
            va="top",
            fontsize=8,
            color=MARK,
        )


def _dropped(episode: EpisodeRecording) -> int:
    return max(0, episode.about.n_decisions - len(episode))


def _refuse_empty(episode: EpisodeRecording, problems: list[str] | None = None) -> None:
    found = list(problems or [])
    if not len(episode):
        found.append("the episode holds no decision")
    if found:
        raise SpikerlError(listed("there is nothing to draw", found))
