"""How far apart the source's two best actions are, and how finely the network tells them apart.

Imports numpy, decoding and report.
"""

from __future__ import annotations

import numpy as np

from spikerl.decoding import Categorical
from spikerl.network import FloatArray
from spikerl.report import GapReport

BINS = 24
DECADES = 5  # the bins span at most as many powers of ten


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
    high = max(float(every.max()), resolution) * 1.05
    low = min(float(np.quantile(every, 0.01)), resolution) / 1.05
    edges = np.geomspace(max(low, high / 10**DECADES), high, BINS + 1)
    counts, _ = np.histogram(np.clip(every, edges[0], edges[-1]), edges)
    return GapReport(
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
        resolution=resolution,
    )
