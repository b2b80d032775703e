"""Plots of an experiment's results as SVG text. Imports drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spikerl.plots.drawing import COLOURS, MARK, STYLES, drawn

Series = Mapping[int, Sequence[float]]


def against_steps(series: Mapping[str, Series], what: str, level: float | None = None) -> str:
    """A figure by steps per decision, one line per name: means, with the range over the seeds.

    series: values by steps by name; level: that of the original, as a dashed line.
    """
    steps = sorted({t for values in series.values() for t in values})
    place = {t: i for i, t in enumerate(steps)}
    with drawn(height=2.8 + 0.18 * len(series)) as drawing:
        axes = drawing.axes
        for i, (name, values) in enumerate(series.items()):
            shift = min(0.06, 0.6 / len(series)) * (
                i - (len(series) - 1) / 2
            )  # so that equal lines can be told apart
            at = [place[t] + shift for t in sorted(values)]
            rows = [np.asarray(values[t], dtype=np.float64) for t in sorted(values)]
            means = np.array([row.mean() for row in rows])
            reach = [means - [row.min() for row in rows], [row.max() for row in rows] - means]
            axes.errorbar(
                at,
                means,
                yerr=np.clip(reach, 0, None),
                fmt="o",
                ls=STYLES[i // len(COLOURS) % len(STYLES)],
                color=COLOURS[i % len(COLOURS)],
                capsize=3,
                lw=1.5,
                ms=4,
                label=name,
            )
        if level is not None:
            axes.axhline(level, color=MARK, lw=1, ls="--", label="original")
        axes.set_xticks(range(len(steps)), [str(t) for t in steps])
        axes.set_xlim(-0.5, len(steps) - 0.5)
        axes.set_xlabel("steps per decision, T")
        axes.set_ylabel(what)
        figure = axes.get_figure()
        assert figure is not None  # they were made with one
        figure.legend(loc="outside lower left", ncols=2, fontsize=8)
    return drawing.svg
