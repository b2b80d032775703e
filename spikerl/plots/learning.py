"""Learning curves of training runs: return against time steps. Imports drawing and statistics."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikerl.errors import SpikerlError, listed
from spikerl.plots.drawing import COLOURS, STYLES, Drawing, drawn
from spikerl.statistics import over_runs

FILE = "evaluations.npz"
Found = tuple[NDArray[np.int64], NDArray[np.float64]]


def learning(runs: Mapping[str, Sequence[str | os.PathLike[str]]], what: str = "return") -> Drawing:
    """Interquartile mean of the returns by time step, one line per name, with a 95 % interval.

    runs: folders of training runs by name, each with the evaluations.npz that SB3's EvalCallback
          (in rl-zoo: --eval-freq) writes. The interval is a bootstrap over the runs of a name and
          their episodes; of a single run it is about the episodes alone.
    Raises SpikerlError for anything but folders by name, and with every folder that has none, or
    was judged at other time steps.
    """
    if not isinstance(runs, Mapping):
        raise SpikerlError(
            f"runs is {type(runs).__name__}; wanted folders of training runs by name, such as "
            "{'spiking': [folder, ...]}"
        )
    for name, folders in runs.items():
        several = isinstance(folders, Sequence) and not isinstance(folders, (str, bytes))
        if not several or not all(isinstance(path, (str, os.PathLike)) for path in folders):
            raise SpikerlError(f"the runs of {name!r} are {folders!r}; wanted a list of folders")
    if not runs or not all(runs.values()):
        raise SpikerlError("wanted folders of training runs, found a name without any")
    found = {name: _read(name, folders) for name, folders in runs.items()}
    with drawn(height=3.2 + 0.18 * len(runs)) as drawing:
        axes = drawing.axes
        for i, (name, (steps, returns)) in enumerate(found.items()):
            points = [over_runs(list(at)) for at in returns.transpose(1, 0, 2)]
            colour = COLOURS[i % len(COLOURS)]
            middle = [point.value for point in points]
            low, high = [point.low for point in points], [point.high for point in points]
            label = f"{name}, {len(returns)} run{'s' * (len(returns) > 1)}"
            axes.plot(steps, middle, color=colour, ls=STYLES[i % len(STYLES)], lw=1.5, label=label)
            axes.fill_between(steps, low, high, color=colour, alpha=0.18, lw=0)
        axes.set_xlabel("time steps of training")
        axes.set_ylabel(f"{what}, interquartile mean")
        axes.set_xlim(0, max(steps[-1] for steps, _ in found.values()))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        axes.locator_params(axis="x", nbins=5)
        axes.set_title("bands: 95 % interval", loc="right", fontsize=8)
        figure = axes.get_figure()
        assert figure is not None  # they were made with one
        figure.legend(loc="outside lower left", ncols=2, fontsize=8)
    return drawing


def _read(name: str, folders: Sequence[str | os.PathLike[str]]) -> Found:
    """Time steps [K] and returns [runs, K, episodes] of the runs of one name."""
    problems: list[str] = []
    found: list[Found] = []
    for folder in map(Path, folders):
        path = folder if folder.name == FILE else folder / FILE
        try:
            with np.load(path) as file:
                steps, results = file["timesteps"], file["results"]
        except (OSError, KeyError, ValueError):
            problems.append(f"{folder} has no {FILE} of SB3's EvalCallback")
            continue
        if results.ndim != 2 or len(results) != len(steps) or not results.size:
            problems.append(f"{path} has results {results.shape} for {len(steps)} time steps")
        elif found and not np.array_equal(found[0][0], steps):
            problems.append(f"{path} was judged at other time steps than the first run of {name!r}")
        elif found and found[0][1].shape != results.shape:
            problems.append(
                f"{path} has {results.shape[1]} episodes each time, the first run of {name!r} "
                f"{found[0][1].shape[1]}"
            )
        else:
            found.append((steps, results.astype(np.float64)))
    if problems:
        raise SpikerlError(listed("these runs cannot be drawn", problems))
    return found[0][0], np.stack([results for _, results in found])
