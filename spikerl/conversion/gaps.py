"""How far apart the source's two best actions are, and how finely the network tells them apart.

Imports numpy, decoding and report.
"""

from __future__ import annotations

import numpy as np

from spikerl.decoding import Categorical
from spikerl.network import FloatArray
from spikerl.report import GapReport

BINS = 24  # and one more, as the grid is shifted to meet the resolution
DECADES = 5  # powers of ten the bins span at most, but for that one


def gap_report(source: FloatArray, ours: FloatArray, head: Categorical) -> GapReport | None:
    """The histogram of the gaps, on a logarithmic scale, and the mean error in them.

    source, ours: values [B, n_values] for the same observations. Where the head chooses several
    times, the gaps of all choices are together.
    None where there is nothing to choose, or all values are equal.
    """
    gaps, errors = [], []
    for end, n in zip(np.cumsum(head.nvec), head.nvec, strict=True):
        if n > 1:
            best = end - n + np.argsort(source[:, end - n : end], axis=1)[:, -2:]
            wanted = np.diff(np.take_along_axis(source, best, axis=1), axis=1)[:, 0]
            found = np.diff(np.take_along_axis(ours, best, axis=1), axis=1)[:, 0]
            gaps.append(wanted)
            errors.append(np.abs(found - wanted))
    if not gaps or not np.max(gaps) > 0:
        return None
    every, resolution = np.concatenate(gaps), float(np.mean(errors))
    edges = _edges(every, resolution)
    # what lies beyond the edges goes into the first or the last bin
    where = np.searchsorted(edges[1:-1], every, side="right")
    counts = np.bincount(where, minlength=len(edges) - 1)
    return GapReport(
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
        resolution=resolution,
    )


def _edges(gaps: FloatArray, resolution: float) -> FloatArray:
    """Edges from small to large gaps, by equal factors; the resolution is one of them."""
    high = max(float(gaps.max()), resolution) * 1.05
    low = max(min(float(np.quantile(gaps, 0.01)), resolution) / 1.05, high / 10**DECADES)
    width = np.log(high / low) / BINS
    middle = min(max(resolution, low), high)
    before = int(np.ceil(np.log(middle / low) / width - 1e-9))
    edges: FloatArray = middle * np.exp(width * np.arange(-before, BINS - before + 2))
    return edges
