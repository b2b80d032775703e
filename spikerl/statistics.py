"""Estimates with intervals. Imports numpy and errors only."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spikerl.errors import SpikerlError

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution

EXACT = 20  # pairs up to which every assignment of signs is tried, 2^19 of them
DRAWN = 20_000  # assignments drawn at random beyond that

BLOCKS = 50  # a stretch of time is cut into, where nothing else tells which values are alike


@dataclass(frozen=True)
class Estimate:
    """A mean of n values with its 95 % interval; method says how the interval was made."""

    value: float
    low: float
    high: float
    n: int
    method: str

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def share(
    hits: ArrayLike, groups: ArrayLike | None = None, seed: int = 0, unit: str = "episodes"
) -> Estimate:
    """The share of true values, with Wilson's interval (Wilson 1927).

    groups: the episode of each value. Decisions of one episode are not independent, so a bootstrap
    over whole episodes is made too and the wider of the two intervals is given.
    unit: what the groups are, for the method's name.
    Raises SpikerlError where there are no values.
    """
    array = _some(hits)
    n, p = len(array), float(array.mean())
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n)) / (1 + Z95**2 / n)
    # At the ends the formula is exact but for rounding.
    low = 0.0 if p == 0.0 else max(0.0, centre - half)
    high = 1.0 if p == 1.0 else min(1.0, centre + half)
    method = "wilson"
    if groups is not None and n > 1:
        spread = mean(array, groups, seed, unit=unit)
        low, high = min(low, spread.low), max(high, spread.high)
        method = f"wilson and {spread.method}"
    return Estimate(p, low, high, n, method)


def mean(
    values: ArrayLike,
    groups: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = 2000,
    unit: str = "episodes",
) -> Estimate:
    """The mean with a percentile bootstrap interval (Efron 1979), over whole groups if given.

    One group alone cannot be resampled: it is cut into blocks, so its values must be in the order
    of time (Kuensch 1989). One value alone has no interval: low and high are NaN.
    """
    array = _some(values)
    if len(array) == 1:
        return Estimate(float(array[0]), nan, nan, 1, "no interval: one value")
    labels, method = np.arange(len(array)), "bootstrap"
    if groups is not None:
        labels, method = np.asarray(groups), f"bootstrap over {unit}"
        if len(np.unique(labels)) == 1:
            labels = np.arange(len(array)) * min(BLOCKS, len(array)) // len(array)
            method = "bootstrap over blocks of time"
    _, index = np.unique(labels, return_inverse=True)
    sums, sizes = np.bincount(index, weights=array), np.bincount(index)
    n = len(sums)
    rng = np.random.default_rng(seed)
    # In blocks: a bootstrap of many values must not need resamples x n numbers at once.
    means: list[Any] = []
    block = max(1, 4_000_000 // n)
    while len(means) < resamples:
        draw = rng.integers(n, size=(min(block, resamples - len(means)), n))
        means.extend(sums[draw].sum(axis=1) / sizes[draw].sum(axis=1))
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(array.mean()), float(low), float(high), len(array), method)


@dataclass(frozen=True)
class Paired:
    """Whether two rows of values that belong together in pairs differ.

    difference: mean of first - second with its 95 % interval.
    p_value:    how often chance alone gives a mean difference at least as far from 0, if each pair
                might as well have been the other way round.
    pairs:      how many there are; method: how p_value was found.
    """

    difference: Estimate
    p_value: float
    pairs: int
    method: str


def paired(first: ArrayLike, second: ArrayLike, seed: int = 0) -> Paired:
    """Compare values in pairs, two-sided: such as two policies' returns on the same seeds.

    A sign-flip permutation test of the mean difference (Fisher 1935): exact up to 20 pairs that
    differ, beyond that from random flips, of which what was found is one (Phipson & Smyth 2010).
    Raises SpikerlError where the rows are empty or of different length.
    """
    ours, theirs = _some(first), _some(second)
    if len(ours) != len(theirs):
        raise SpikerlError(
            f"values in pairs are wanted, found {len(ours)} and {len(theirs)}: run both policies "
            "on the same seeds"
        )
    difference = ours - theirs
    moving = difference[difference != 0]  # turning round a 0 changes nothing
    n = len(moving)
    least = abs(moving.sum()) - 1e-9 * np.abs(moving).sum()  # sums round in another order
    if n <= EXACT:
        # The first sign stands: turning all of them round gives the same distance from 0.
        sums = moving[:1].copy() if n else np.zeros(1)
        for value in moving[1:]:
            sums = np.concatenate([sums + value, sums - value])
        p_value, method = float((np.abs(sums) >= least).mean()), "sign flips, exact"
    else:
        rng = np.random.default_rng(seed)
        hits = 1
        block = max(1, 4_000_000 // n)
        for start in range(0, DRAWN, block):
            flips = rng.integers(2, size=(min(block, DRAWN - start), n), dtype=np.int8) * 2 - 1
            hits += int((np.abs(flips @ moving) >= least).sum())
        p_value, method = hits / (DRAWN + 1), f"sign flips, {DRAWN:,} drawn"
    return Paired(mean(difference, seed=seed), p_value, len(difference), method)


def _some(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise SpikerlError(f"wanted a row of values to estimate from, found no values in {array!r}")
    return array
