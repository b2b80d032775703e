"""Estimates with intervals. Imports numpy and errors only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spikerl.errors import SpikerlError, checked_whole

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution

EXACT = 20  # pairs up to which every assignment of signs is tried, 2^19 of them
DRAWN = 20_000  # assignments drawn at random beyond that

Runs = Sequence[ArrayLike]  # of each run, the returns of its episodes; lengths may differ

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
    Raises SpikerlError where there are no values, one is neither true nor false (1 nor 0), or
    groups are not as many.
    """
    array = _some(hits)
    labels, wrong = _labels(array, groups), np.flatnonzero((array != 0) & (array != 1))
    if len(wrong):
        raise SpikerlError(
            f"a share is of values that are true or false, 1 or 0: {len(wrong)} of {len(array)} "
            f"are neither, the first is {array[wrong[0]]} at index {wrong[0]}; mean() takes others"
        )
    n, p = len(array), float(array.mean())
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n)) / (1 + Z95**2 / n)
    # At the ends the formula is exact but for rounding.
    low = 0.0 if p == 0.0 else max(0.0, centre - half)
    high = 1.0 if p == 1.0 else min(1.0, centre + half)
    method = "wilson"
    if labels is not None and n > 1:
        spread = mean(array, labels, seed, unit=unit)
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
    Raises SpikerlError where there are no values, one is not finite, groups are not as many, or
    there are no resamples.
    """
    array = _some(values)
    given = _labels(array, groups)
    _check_resamples(resamples)
    if len(array) == 1:
        return Estimate(float(array[0]), nan, nan, 1, "no interval: one value")
    labels, method = np.arange(len(array)), "bootstrap"
    if given is not None:
        labels, method = given, f"bootstrap over {unit}"
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
    Raises SpikerlError where the rows are empty, of different length or not finite.
    """
    ours, theirs = _some(first, "the first values"), _some(second, "the second values")
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


def iqm(values: ArrayLike) -> float:
    """The interquartile mean: of the middle half, int(n / 4) values cut off at either end.

    Less at the mercy of single runs than a mean, steadier than a median (Agarwal et al. 2021).
    Raises SpikerlError where there are no values, or one is not finite.
    """
    ordered = np.sort(_some(values))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def optimality_gap(values: ArrayLike, target: float) -> float:
    """How far values fall short of a target on average; what is beyond it makes up for nothing.

    Raises SpikerlError where there are no values, or one or the target is not finite.
    """
    return float(np.maximum(_number("target", target) - _some(values), 0.0).mean())


def over_runs(
    runs: Runs | Mapping[str, Runs],
    statistic: Callable[[NDArray[np.float64]], float] = iqm,
    seed: int = 0,
    resamples: int = 2000,
) -> Estimate:
    """A statistic of all episodes of some training runs, with an interval that knows of the runs.

    A stratified bootstrap (Agarwal et al. 2021): within each task runs are drawn, and within each
    of these its episodes. runs: of one task, or a mapping from tasks to theirs; scores of several
    tasks must be in one unit already. One run alone says nothing about others: the interval is then
    about its episodes, and the method says so.
    Raises SpikerlError where there are no runs or resamples, a run has no episodes, or a value is
    not finite.
    """
    _check_resamples(resamples)
    named = runs.items() if isinstance(runs, Mapping) else [(None, runs)]
    tasks = [_runs(found, "" if name is None else f" of task {name}") for name, found in named]
    if not tasks:
        raise SpikerlError("wanted training runs to estimate from, found no task")
    everything = np.concatenate([run for task in tasks for run in task])
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        drawn = []
        for task in tasks:
            chosen = rng.integers(len(task), size=len(task))
            drawn += [rng.choice(task[i], len(task[i])) for i in chosen]
        found.append(statistic(np.concatenate(drawn)))
    low, high = np.quantile(found, [0.025, 0.975])
    fewest = min(len(task) for task in tasks)
    method = (
        "bootstrap over runs and episodes" if fewest > 1 else "bootstrap over episodes of a run"
    )
    return Estimate(float(statistic(everything)), float(low), float(high), len(everything), method)


def improvement(
    first: ArrayLike | Mapping[str, ArrayLike],
    second: ArrayLike | Mapping[str, ArrayLike],
    seed: int = 0,
    resamples: int = 2000,
) -> Estimate:
    """The probability that a run of the first does better than one of the second; 0.5: no more.

    Mann-Whitney's U over the number of pairs: ties count half. A score for each run, of one task or
    of several (a mapping, over whose tasks the mean is taken); the interval is a bootstrap over
    runs within each task (Agarwal et al. 2021). Where every task has one run of each there is
    nothing to draw, and no interval: low and high are NaN.
    Raises SpikerlError where scores are missing or not finite, the tasks are not the same, or there
    are no resamples.
    """
    _check_resamples(resamples)
    ours = first if isinstance(first, Mapping) else {"": first}
    theirs = second if isinstance(second, Mapping) else {"": second}
    if set(ours) != set(theirs) or not ours:
        raise SpikerlError(f"wanted the same tasks of both, found {[*ours]} and {[*theirs]}")
    rng = np.random.default_rng(seed)
    value, drawn, n, alone = 0.0, np.zeros(resamples), 0, False
    for task, scores in ours.items():
        where = f" of task {task}" if task else ""
        a = _some(scores, f"scores of the first{where}")
        b = _some(theirs[task], f"scores of the second{where}")
        better = (a[:, None] > b) + 0.5 * (a[:, None] == b)
        value += float(better.mean()) / len(ours)
        # how often each run is drawn, in every resample
        one = rng.multinomial(len(a), np.full(len(a), 1 / len(a)), resamples)
        other = rng.multinomial(len(b), np.full(len(b), 1 / len(b)), resamples)
        drawn += np.einsum("ri,ij,rj->r", one, better, other) / better.size / len(ours)
        n, alone = n + better.size, alone or 1 in better.shape
    if n == len(ours):
        return Estimate(value, nan, nan, n, "no interval: one run of each")
    low, high = np.quantile(drawn, [0.025, 0.975])
    method = "bootstrap over runs" + ", where there are several" * alone
    return Estimate(value, float(low), float(high), n, method)


def profile(
    runs: Runs, thresholds: ArrayLike, seed: int = 0, resamples: int = 2000
) -> list[Estimate]:
    """The share of episodes beyond each threshold: a performance profile (Dolan & More 2002).

    Intervals are of over_runs(), each for its threshold alone.
    Raises SpikerlError as over_runs() does, and for thresholds that are missing or not finite.
    """
    return [
        over_runs(runs, lambda found, t=t: float((found > t).mean()), seed, resamples)  # type: ignore[misc]
        for t in _some(np.atleast_1d(_array(thresholds, "the thresholds")), "the thresholds")
    ]


def _runs(runs: Runs, where: str = "") -> list[NDArray[np.float64]]:
    if not isinstance(runs, (Sequence, np.ndarray)) or isinstance(runs, (str, bytes)):
        raise SpikerlError(
            f"wanted training runs{where}, a list with the returns of each, found "
            f"{type(runs).__name__}"
        )
    found = [_some(run, f"run {number}{where}") for number, run in enumerate(runs)]
    if not found:
        raise SpikerlError(f"wanted training runs to estimate from, found none{where}")
    return found


def _some(values: ArrayLike, what: str = "the values") -> NDArray[np.float64]:
    """A row of finite numbers, at least one; whatever else was given is refused."""
    array = _array(values, what)
    if array.ndim != 1 or not len(array):
        found = f"found no values in {array!r}" if not array.size else f"found shape {array.shape}"
        raise SpikerlError(f"wanted a row of values to estimate from, {found}")
    wrong = np.flatnonzero(~np.isfinite(array))
    if len(wrong):
        raise SpikerlError(
            f"{what} must be finite numbers: {len(wrong)} of {len(array)} are not, the first is "
            f"{array[wrong[0]]} at index {wrong[0]}; leave them out, or find their cause"
        )
    return array


def _array(values: Any, what: str) -> NDArray[np.float64]:
    """Numbers, or true and false, of any shape; what is neither is refused in a sentence."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise SpikerlError(
            f"{what} must be a row of numbers: found rows unlike in length"
        ) from None
    if array.dtype.kind in "biuf" or (array.dtype.kind == "O" and array.ndim):
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise SpikerlError(f"{what} must be a row of numbers: {error}") from None
    found = "texts" if array.ndim and array.dtype.kind in "US" else repr(values)
    found = found if len(found) <= 60 else f"{found[:57]}..."
    raise SpikerlError(f"{what} must be a row of numbers: found {found}")


def _labels(values: ArrayLike, groups: ArrayLike | None) -> NDArray[Any] | None:
    """The group of each value."""
    if groups is None:
        return None
    n = len(np.asarray(values))
    try:
        labels = np.asarray(groups)
    except ValueError:
        raise SpikerlError("groups must be a row: found rows unlike in length") from None
    if labels.shape != (n,):
        raise SpikerlError(
            f"wanted a group for each of the {n} values, found groups of shape {labels.shape}"
        )
    return labels


def _number(name: str, value: float) -> float:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not (number and np.isfinite(value)):
        raise SpikerlError(f"{name} must be a finite number, found {value!r}")
    return float(value)


def _check_resamples(resamples: Any) -> None:
    for problem in checked_whole("resamples", resamples):
        raise SpikerlError(problem)
