"""Values nothing can be estimated from: refused in a sentence that says where they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from spikerl.errors import SpikerlError
from spikerl.statistics import (
    improvement,
    iqm,
    mean,
    optimality_gap,
    over_runs,
    paired,
    profile,
    share,
)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("call", "where"),
    [
        (lambda x: share([1, 0, x]), "the values .* 1 of 3 .* at index 2"),
        (lambda x: share([1, 0, x], [0, 0, 1]), "at index 2"),
        (lambda x: mean([x, 1.0, x]), "2 of 3 are not.* at index 0"),
        (lambda x: mean([x]), "1 of 1"),
        (lambda x: iqm([x, 1, 2, 3]), "1 of 4"),
        (lambda x: optimality_gap([1, x], 2), "at index 1"),
        (lambda x: optimality_gap([1, 2], x), "target must be a finite number"),
        (lambda x: paired([1, 2, 3, x, 5, 6], [1, 2, 2, 3, 4, 4]), "the first values.* index 3"),
        (lambda x: paired([1, 2], [1, x]), "the second values .* at index 1"),
        (lambda x: over_runs([[2, 3], [1, x]]), "run 1 must be .* 1 of 2 .* at index 1"),
        (lambda x: over_runs({"a": [[1.0]], "b": [[x]]}), "run 0 of task b must be"),
        (lambda x: improvement([x, 500], [1, 2]), "scores of the first must be .* index 0"),
        (lambda x: improvement({"a": [1]}, {"a": [x]}), "scores of the second of task a must"),
        (lambda x: profile([[1.0], [x]], [0.0]), "run 1 must be"),
        (lambda x: profile([[1.0], [2.0]], [0.0, x]), "the thresholds must be .* at index 1"),
    ],
)
def test_values_that_are_not_finite_are_refused_with_their_place(
    call: Callable[[float], object], where: str, odd: float
) -> None:
    with pytest.raises(SpikerlError, match=where) as caught:
        call(odd)
    assert str(odd) in str(caught.value)


@pytest.mark.parametrize("groups", [[0, 1], [], [[0], [0], [1]], 0])
def test_groups_that_are_not_as_many_as_the_values_are_refused(groups: object) -> None:
    for measure in (mean, share):
        with pytest.raises(SpikerlError, match=r"a group for each of the 3 values, found groups"):
            measure([1, 0, 1], groups=groups)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        lambda: iqm([]),
        lambda: optimality_gap([], 1.0),
        lambda: paired([], []),
        lambda: over_runs({"a": []}),
        lambda: improvement([1.0], []),
        lambda: profile([], [1.0]),
        lambda: profile([[1.0], [2.0]], []),
    ],
)
def test_nothing_is_never_something(call: Callable[[], object]) -> None:
    with pytest.raises(SpikerlError, match="found no"):
        call()


@pytest.mark.parametrize(
    ("values", "count", "first"),
    [([2, 2], "2 of 2", "2.0 at index 0"), ([1, -1], "1 of 2", "-1.0 at index 1"), ([0.5], "1", 0)],
)
def test_a_share_is_of_what_is_true_or_false(
    values: list[float], count: str, first: object
) -> None:
    with pytest.raises(SpikerlError, match=f"true or false, 1 or 0: {count}.*is .*{first}"):
        share(values)
    assert share([True, np.False_]) == share([1, 0])


@pytest.mark.parametrize("resamples", [0, -1, 1.5, True, None])
@pytest.mark.parametrize(
    "call",
    [
        lambda n: mean([1.0, 2.0], resamples=n),
        lambda n: mean([1.0], resamples=n),
        lambda n: over_runs([[1.0, 2.0]], resamples=n),
        lambda n: improvement([1.0, 2.0], [1.0], resamples=n),
        lambda n: profile([[1.0, 2.0]], [1.0], resamples=n),
    ],
)
def test_an_interval_without_resamples_is_refused(
    call: Callable[[object], object], resamples: object
) -> None:
    with pytest.raises(SpikerlError, match="resamples must be a whole number >= 1, found"):
        call(resamples)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ("abc", "found 'abc'"),
        (["1", "2"], "found texts"),
        ([[1, 2], [3]], "found rows unlike in length"),
        ({"a": 1}, "found {'a': 1}"),
        ({1, 2}, "found {1, 2}"),
        (None, "found None"),
        ([1j], "found"),
        (np.array([1, "x"], dtype=object), "could not convert string to float: 'x'"),
    ],
)
@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda x: mean(x), "the values"),
        (lambda x: share(x), "the values"),
        (lambda x: share(x, [0, 1]), "the values"),
        (lambda x: iqm(x), "the values"),
        (lambda x: optimality_gap(x, 1.0), "the values"),
        (lambda x: paired([1, 2], x), "the second values"),
        (lambda x: over_runs([[1, 2], x]), "run 1"),
        (lambda x: improvement({"t": x}, {"t": [1]}), "scores of the first of task t"),
        (lambda x: profile([[1, 2]], x), "the thresholds"),
    ],
)
def test_what_is_no_row_of_numbers_is_refused_in_one_line(
    call: Callable[[object], object], what: str, values: object, found: str
) -> None:
    with pytest.raises(SpikerlError) as caught:
        call(values)
    assert f"{what} must be a row of numbers: {found}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runs", [3, "abc", None, {"a": 3}])
def test_what_is_no_list_of_runs_is_refused(runs: object) -> None:
    with pytest.raises(SpikerlError, match=r"wanted training runs.*, a list with the returns"):
        over_runs(runs)  # type: ignore[arg-type]


def test_a_target_and_groups_of_another_kind_are_refused() -> None:
    with pytest.raises(SpikerlError, match="target must be a finite number, found 'a'"):
        optimality_gap([1], "a")  # type: ignore[arg-type]
    with pytest.raises(SpikerlError, match="groups must be a row: found rows unlike in length"):
        mean([1, 2], groups=[[1], [2, 3]])  # type: ignore[list-item]


def test_values_in_rows_and_columns_are_refused() -> None:
    with pytest.raises(SpikerlError, match=r"a row of values .*, found shape \(2, 2\)"):
        mean([[1, 2], [3, 4]])
