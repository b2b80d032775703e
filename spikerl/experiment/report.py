"""The results of an experiment as one HTML page that needs nothing but a browser.

Imports columns and page; plots are of the extra `plots`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spikerl.errors import SpikerlError
from spikerl.experiment.columns import Row
from spikerl.page import NOTHING, plot_entry, rendered, write_text
from spikerl.plots.experiment import against_steps

_HEADINGS = (
    *("conversion", "back end", "T", "seeds", "return", "original", "like the original"),
    *("rate", "operations", "decisions/s"),
)
_VERSIONS = ("spikerl", "python", "numpy", "gymnasium", "torch", "stable_baselines3", "simulator")


def write_report(rows: Sequence[Row], path: str | os.PathLike[str], title: str) -> None:
    """Write the page of these rows; raises SpikerlError as make_report(), or if it cannot."""
    write_text(make_report(rows, title), path)


def make_report(rows: Sequence[Row], title: str) -> str:
    """The page as text.

    Raises SpikerlError where there are no rows, or the extra `plots` is not installed.
    """
    if not rows:
        raise SpikerlError("there are no results yet to make a page of")
    done = [row for row in rows if row["status"] == "done"]
    names = list(dict.fromkeys(str(row["agent"]) for row in done))
    of = {name: [row for row in done if row["agent"] == name] for name in names}
    count = f"{len(rows)} cells"
    return rendered(
        "experiment.html",
        title=title,
        subtitle=f"{count}, {len(rows) - len(done)} of them failed."
        if len(done) < len(rows)
        else f"{count}.",
        cards=[],
        failed=[f"{_place(row)}: {row['error']}" for row in rows if row["status"] != "done"],
        plots=[plot for name in names for plot in _plots(name, of[name])],
        headings=_HEADINGS,
        agents=[
            {"name": name, "rows": list(_lines(of[name])), "note": _note(of[name])}
            for name in names
        ],
        settings=list(_settings(rows)),
    )


def _plots(name: str, rows: Sequence[Row]) -> Iterator[dict[str, str]]:
    for column, scale, what in (
        ("agreement", 100.0, "agreement, %"),
        ("action_error", 1.0, "action error, %"),
        ("return", 1.0, "return"),
    ):
        series: dict[str, dict[int, list[float]]] = {}
        for row in rows:
            if row[column] is not None:
                of = series.setdefault(f"{row['conversion']}, {row['backend']}", {})
                of.setdefault(row["sim_steps"], []).append(scale * row[column])
        if series:
            level = None if column != "return" else _mean(rows, "original_return")
            yield plot_entry(
                f"{what.split(',')[0].capitalize()}: {name}",
                against_steps(series, what, level),
                "Means over the seeds; bars reach from the lowest to the highest seed.",
            )


def _lines(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["conversion"], row["backend"], row["sim_steps"]), []).append(row)
    for (conversion, backend, steps), group in groups.items():
        if group[0]["agreement"] is not None:
            like = f"{100 * _mean(group, 'agreement'):.1f} %"
        else:
            like = f"{_mean(group, 'action_error'):.2f} % error"
        yield (
            conversion,
            backend,
            str(steps),
            str(len(group)),
            _spread(group, "return"),
            _spread(group, "original_return"),
            like,
            f"{np.mean([_rate(row) for row in group]):.3f}",
            f"{_mean(group, 'synaptic_operations'):,.0f}",
            f"{_mean(group, 'decisions_per_second'):,.0f}",
        )


def _note(rows: Sequence[Row]) -> str:
    episodes = sorted({row["episodes"] for row in rows})
    each = " or ".join(map(str, episodes))
    return (
        f"{each} episodes per seed, of other starts for each seed, both policies acting "
        "deterministically. Means over seeds, \u00b1 their standard deviation; rate: spikes per "
        "neuron and step, mean of the layers; operations: additions of a weight per decision that "
        "spikes cause."
    )


def _settings(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    for what, name, column in (
        ("conversion", "conversion", "settings"),
        ("back end", "backend", "backend_settings"),
        ("SHA-256 of", "agent", "source_sha256"),
    ):
        # a conversion whose target is the cell's back end has several
        for pair in dict.fromkeys((row[name], row[column]) for row in rows):
            yield f"{what} {pair[0]}", str(pair[1])
    for name in _VERSIONS:
        found = sorted({str(row[name]) for row in rows if row[name] is not None})
        if found:
            yield name.replace("_", "-"), "; ".join(found)
    hosts = sorted({str(row["host"]) for row in rows if row["host"] is not None})
    started = sorted(str(row["started"]) for row in rows if row["started"] is not None)
    if started:
        yield "run", f"on {', '.join(hosts)}, from {started[0]} to {started[-1]}"


def _place(row: Row) -> str:
    return (
        f"{row['agent']}, {row['conversion']}, {row['backend']}, T = {row['sim_steps']}, "
        f"seed {row['seed']}"
    )


def _rate(row: Row) -> float:
    return float(np.mean(json.loads(row["rates"]) or [0.0]))


def _mean(rows: Sequence[Row], column: str) -> float:
    return float(np.mean([row[column] for row in rows if row[column] is not None]))


def _spread(rows: Sequence[Row], column: str) -> str:
    values = [row[column] for row in rows if row[column] is not None]
    if not values:
        return NOTHING
    more = f" \u00b1 {np.std(values):,.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):,.1f}{more}"
