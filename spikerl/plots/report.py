"""Plots of a report and an evaluation as SVG text. Imports report and evaluation."""

from __future__ import annotations

from math import isfinite

import numpy as np

from spikerl.evaluation import Evaluation, Side
from spikerl.plots.drawing import MARK, ORIGINAL, QUIET, SPIKING, drawn
from spikerl.report import ConversionReport, GapReport


def by_steps(report: ConversionReport) -> str:
    """Agreement (or action error) with its interval after every number of steps tried."""
    scale = 1.0 if report.agreement is None else 100.0
    steps = sorted(report.by_steps)
    found = [report.by_steps[t] for t in steps]
    values = np.array([e.value for e in found]) * scale
    reach = np.array([[e.value - e.low, e.high - e.value] for e in found]).T * scale
    with drawn() as drawing:
        axes = drawing.axes
        axes.errorbar(
            range(len(steps)),
            values,
            yerr=np.nan_to_num(reach).clip(0),
            fmt="o-",
            color=SPIKING,
            capsize=3,
            lw=1.5,
            ms=5,
        )
        target = report.target * scale
        axes.axhline(target, color=MARK, lw=1, ls="--")
        axes.annotate(
            f"aim:\n{target:g} %",
            (1, target),
            (4, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            color=MARK,
        )
        axes.set_xticks(range(len(steps)), [str(t) for t in steps])
        axes.set_xlim(-0.5, len(steps) - 0.5)
        axes.set_xlabel("steps per decision, T")
        axes.set_ylabel("agreement, %" if report.agreement is not None else "action error, %")
        if report.agreement is None:
            axes.set_ylim(bottom=0)
        else:
            low, _ = axes.get_ylim()
            axes.set_ylim(low, 100 + 0.03 * (100 - low))  # more than all cannot agree
    return drawing.svg


def gaps(report: GapReport) -> str:
    """Histogram of the source's action gaps; those below the network's resolution stand out."""
    edges, counts = np.array(report.edges), np.array(report.counts)
    shares = 100 * counts / max(1, counts.sum())
    below = edges[1:] <= report.resolution
    with drawn() as drawing:
        axes = drawing.axes
        colours = np.where(below, MARK, SPIKING)
        axes.bar(edges[:-1], shares, np.diff(edges), align="edge", color=colours, lw=0, alpha=0.85)
        axes.axvline(report.resolution, color=MARK, lw=1.5)
        right = report.resolution > np.sqrt(edges[0] * edges[-1])
        axes.annotate(
            f"resolution {report.resolution:.3g}",
            (report.resolution, 1),
            (-4 if right else 4, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top",
            color=MARK,
        )
        axes.set_xscale("log")
        axes.set_xlim(edges[0], edges[-1])
        axes.margins(y=0.15)
        axes.set_xlabel("gap between the two best actions, in the source's values")
        axes.set_ylabel("observations, %")
    return drawing.svg


def rates(report: ConversionReport, evaluation: Evaluation | None) -> str:
    """Spikes per neuron and step of every layer: on held-out observations, and acting."""
    names = [layer.name for layer in report.layers]
    acting = () if evaluation is None else evaluation.rates[: len(names)]
    rows = np.arange(len(names))
    with drawn(height=max(1.7, 1.0 + 0.5 * len(names))) as drawing:
        axes = drawing.axes
        thick = 0.36 if acting else 0.6
        shift = thick / 2 if acting else 0.0
        held_out = [layer.rate for layer in report.layers]
        bars = [axes.barh(rows - shift, held_out, thick, color=ORIGINAL, label="held out")]
        if acting:
            bars.append(axes.barh(rows + shift, acting, thick, color=SPIKING, label="acting"))
            figure = axes.get_figure()
            assert figure is not None  # they were made with one
            figure.legend(loc="outside upper right", ncols=2)
        for container in bars:
            axes.bar_label(container, fmt="%.3f", padding=3, fontsize=9)
        axes.set_yticks(rows, names)
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.set_xlabel("spikes per neuron and step")
    return drawing.svg


def returns(evaluation: Evaluation) -> str:
    """Every episode's return, a line for each seed, with the means and their intervals."""
    sides = [side for side in (evaluation.original, evaluation.spiking) if side is not None]
    with drawn() as drawing:
        axes = drawing.axes
        if len(sides) == 2:
            for pair in zip(sides[0].returns, sides[1].returns, strict=True):
                axes.plot((0.12, 0.88), pair, color=QUIET, lw=0.9, zorder=1)
        for at, side in enumerate(sides):
            outside = -1 if at == 0 and len(sides) == 2 else 1
            inside = at - 0.12 * outside if len(sides) == 2 else at
            axes.plot([inside] * len(side.returns), side.returns, "o", color=_colour(side), ms=3.5)
            estimate = side.mean_return
            reach = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
            axes.errorbar(
                [at + 0.08 * outside],
                [estimate.value],
                yerr=np.nan_to_num(reach).clip(0),
                fmt="D",
                color=_colour(side),
                capsize=4,
                ms=6,
                lw=1.5,
            )
        axes.set_xticks(range(len(sides)), [side.name for side in sides])
        axes.set_xlim(-0.5, len(sides) - 0.5)
        axes.set_ylabel("return of an episode")
        low, high = axes.get_ylim()
        least = 0.02 * max(1.0, abs(low), abs(high))  # equal returns are no place to zoom into
        if isfinite(low) and high - low < 2 * least:
            middle = (low + high) / 2
            axes.set_ylim(middle - least, middle + least)
    return drawing.svg


def _colour(side: Side) -> str:
    return ORIGINAL if side.name == "original" else SPIKING
