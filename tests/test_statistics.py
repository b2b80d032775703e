"""Estimates and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from spikerl.errors import SpikerlError
from spikerl.statistics import (
    Estimate,
    improvement,
    iqm,
    mean,
    optimality_gap,
    over_runs,
    paired,
    profile,
    share,
)


def test_wilsons_interval_against_values_computed_by_hand() -> None:
    # 8 of 10: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) with z = 1.96
    got = share([1] * 8 + [0] * 2)
    assert got.value == 0.8
    assert (round(got.low, 4), round(got.high, 4)) == (0.4902, 0.9433)
    assert (got.n, got.method) == (10, "wilson")


@pytest.mark.parametrize("hit", [0, 1])
def test_wilsons_interval_at_the_ends_stays_inside_and_has_width(hit: int) -> None:
    got = share([hit] * 20)
    assert got.value == hit
    assert got.low == (0.0 if not hit else pytest.approx(0.8389, abs=1e-4))
    assert got.high == (1.0 if hit else pytest.approx(0.1611, abs=1e-4))


def test_wilsons_interval_covers() -> None:
    rng = np.random.default_rng(0)
    covered = [e.low <= 0.9 <= e.high for e in (share(rng.random(100) < 0.9) for _ in range(500))]
    assert 0.92 <= np.mean(covered) <= 0.99


def test_the_bootstrap_of_a_mean_covers() -> None:
    rng = np.random.default_rng(0)
    draws = (mean(rng.exponential(2.0, 80), resamples=500) for _ in range(200))
    covered = [e.low <= 2.0 <= e.high for e in draws]
    assert 0.87 <= np.mean(covered) <= 0.99


def test_the_bootstrap_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 2000)
    got = mean(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert got.value == values.mean()
    assert np.allclose([got.low, got.high], [got.value - half, got.value + half], atol=0.02)
    assert (got.n, got.method) == (2000, "bootstrap")


def clustered(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """40 episodes of 50 decisions that are right or wrong together."""
    groups = np.repeat(np.arange(40), 50)
    return (rng.random(40) < 0.8)[groups], groups


def test_the_interval_over_episodes_is_wider_where_decisions_are_alike() -> None:
    hits, groups = clustered(np.random.default_rng(0))
    alone, together = share(hits), share(hits, groups)
    assert together.value == alone.value
    assert together.high - together.low > 3 * (alone.high - alone.low)
    assert together.method == "wilson and bootstrap over episodes"
    alone, together = mean(hits), mean(hits, groups)
    assert together.high - together.low > 3 * (alone.high - alone.low)


def test_the_interval_over_episodes_covers_where_the_plain_one_does_not() -> None:
    rng = np.random.default_rng(1)
    plain, grouped = [], []
    for _ in range(150):
        hits, groups = clustered(rng)
        for estimate, covered in ((share(hits), plain), (share(hits, groups), grouped)):
            covered.append(estimate.low <= 0.8 <= estimate.high)
    assert np.mean(plain) < 0.6
    assert np.mean(grouped) > 0.88


def test_the_interval_over_episodes_is_never_narrower() -> None:
    rng = np.random.default_rng(2)
    hits, groups = rng.random(500) < 0.5, np.repeat(np.arange(50), 10)
    alone, together = share(hits), share(hits, groups)
    assert together.low <= alone.low
    assert together.high >= alone.high


def test_one_episode_is_cut_into_blocks_of_time() -> None:
    """The interval covers where neighbours are alike, and the one that ignores it does not."""
    rng = np.random.default_rng(3)
    plain, blocks = [], []
    for _ in range(150):
        hits = np.repeat(rng.random(100) < 0.8, 40)  # one long episode
        for estimate, covered in ((share(hits), plain), (share(hits, np.zeros(4000)), blocks)):
            covered.append(estimate.low <= 0.8 <= estimate.high)
    assert np.mean(plain) < 0.6
    assert np.mean(blocks) > 0.88
    assert mean(hits, np.zeros(4000)).method == "bootstrap over blocks of time"


def test_one_value_has_no_interval() -> None:
    got = mean([2.5])
    assert got.value == 2.5
    assert np.isnan([got.low, got.high]).all()
    assert got.method == "no interval: one value"
    assert share([1], [0]) == share([1])


def test_a_share_of_none_or_all_ends_exactly_there() -> None:
    for n in (3, 7, 20, 1234):
        assert share([0] * n).low == 0.0
        assert share([1] * n).high == 1.0


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).random(50)
    assert mean(values, seed=3) == mean(values, seed=3)
    assert mean(values, seed=3) != mean(values, seed=4)


def test_groups_of_unequal_size_weigh_by_their_values() -> None:
    got = mean([1.0, 1.0, 1.0, 5.0], [0, 0, 0, 1])
    assert got.value == 2.0
    assert (got.low, got.high) == (1.0, 5.0)
    assert got.method == "bootstrap over episodes"


def test_estimates_print_with_their_interval() -> None:
    estimate = Estimate(0.9, 0.8512345, 0.95, 10, "wilson")
    assert str(estimate) == "0.9 [0.8512, 0.95]"
    assert float(estimate) == 0.9


@pytest.mark.parametrize("measure", [share, mean])
def test_no_values_have_no_estimate(measure: object) -> None:
    with pytest.raises(SpikerlError, match="no values"):
        measure([])  # type: ignore[operator]


# --- values in pairs ------------------------------------------------------------------------------


def test_the_sign_flip_test_against_values_computed_by_hand() -> None:
    # differences 1, 2, 3: of 8 assignments of signs only +++ and --- reach a sum of 6
    got = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (got.difference.value, got.p_value, got.pairs) == (2.0, 0.25, 3)
    assert got.method == "sign flips, exact"
    # differences 1, 2, -3 sum to 0, which every assignment reaches
    assert paired([1.0, 2.0, 0.0], [0.0, 0.0, 3.0]).p_value == 1.0
    # 1, 2, -1: a sum of 2 or more from 0 in 6 of 8 (not where the ones agree against the 2)
    assert paired([1.0, 2.0, 0.0], [0.0, 0.0, 1.0]).p_value == 0.75


def test_pairs_that_do_not_differ_are_no_evidence() -> None:
    same = paired([500.0] * 20, [500.0] * 20)
    assert (same.p_value, same.difference.value, same.pairs) == (1.0, 0.0, 20)
    some = paired([2.0, 4.0, 6.0] + [1.0] * 50, [1.0, 2.0, 3.0] + [1.0] * 50)
    assert (some.p_value, some.pairs, some.method) == (0.25, 53, "sign flips, exact")


def test_the_order_of_the_policies_changes_the_sign_only() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.5, 1, 15), rng.normal(size=15)
    there, back = paired(ours, theirs), paired(theirs, ours)
    assert there.p_value == back.p_value
    assert there.difference.value == -back.difference.value
    assert there.difference.low < there.difference.value < there.difference.high


def test_drawn_and_exact_flips_agree() -> None:
    rng = np.random.default_rng(1)
    difference = rng.normal(0.4, 1, 20)
    exact = paired(difference, np.zeros(20))
    # one pair more that changes hardly anything, and is beyond what is tried exactly
    drawn = paired([*difference, 1e-9], np.zeros(21))
    assert exact.method == "sign flips, exact"
    assert drawn.method == "sign flips, 20,000 drawn"
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.01)
    assert paired([*difference, 1e-9], np.zeros(21)).p_value == drawn.p_value


def test_where_there_is_no_difference_every_p_value_is_as_likely() -> None:
    rng = np.random.default_rng(2)
    p = [paired(rng.normal(size=10), rng.normal(size=10)).p_value for _ in range(400)]
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.08
    assert 0.4 <= np.mean(np.array(p) <= 0.5) <= 0.6


@pytest.mark.parametrize("n", [10, 40])
def test_a_clear_difference_is_found(n: int) -> None:
    rng = np.random.default_rng(3)
    seeds = rng.normal(0, 50, n)  # what a seed does to both is no part of the difference
    got = paired(seeds + rng.normal(3, 1, n), seeds)
    assert got.p_value < 0.01
    assert 2 < got.difference.low < got.difference.high < 4


def test_rows_of_different_length_are_refused() -> None:
    with pytest.raises(SpikerlError, match="in pairs are wanted, found 2 and 3"):
        paired([1, 2], [1, 2, 3])


# --- training runs --------------------------------------------------------------------------------


def test_the_interquartile_mean_by_hand() -> None:
    assert iqm([100, 1, 2, 3, 4, 5, 6, -100]) == 3.5  # two cut off at either end
    assert iqm([0, 1, 8]) == 3.0  # too few to cut any
    assert iqm([7]) == 7.0


def test_the_interquartile_mean_is_scipys_trimmed_mean() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for n in range(1, 30):
        values = rng.normal(size=n)
        assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_what_is_beyond_the_target_makes_up_for_nothing() -> None:
    assert optimality_gap([400, 500, 900], 500) == pytest.approx(100 / 3)


def trained(rng: np.random.Generator, runs: int, spread: float) -> list[np.ndarray]:
    """Runs whose means differ by chance, of ten episodes each."""
    return [rng.normal(rng.normal(3, spread), 1, 10) for _ in range(runs)]


def test_the_interval_over_runs_covers_where_one_over_episodes_does_not() -> None:
    rng = np.random.default_rng(0)
    inside, alone = [], []
    for _ in range(100):
        runs = trained(rng, 10, 2.0)
        got = over_runs(runs, lambda found: float(found.mean()), resamples=200)
        inside.append(got.low <= 3 <= got.high)
        plain = mean(np.concatenate(runs), resamples=200)
        alone.append(plain.low <= 3 <= plain.high)
    assert np.mean(alone) < 0.7
    assert 0.85 <= np.mean(inside) <= 1.0
    assert (got.n, got.method) == (100, "bootstrap over runs and episodes")


def test_episodes_are_drawn_within_runs() -> None:
    # All runs are alike, so whichever are drawn say the same: what is left is of the episodes.
    runs = [[0.0, 100.0] * 10] * 8
    got = over_runs(runs, lambda found: float(found.mean()))
    half = 1.96 * 50 / np.sqrt(160)
    assert np.allclose([got.low, got.high], [50 - half, 50 + half], atol=1.0)


def test_runs_may_be_of_different_length_and_one_alone_is_said_to_be() -> None:
    got = over_runs([[1.0, 2.0, 3.0]])
    assert (got.value, got.method) == (2.0, "bootstrap over episodes of a run")
    assert over_runs([[1.0], [1.0, 1.0]]).low == 1.0
    assert over_runs([[1.0, 5.0], [3.0]], optimality_of_five).value == 2.0


def optimality_of_five(values: np.ndarray) -> float:
    return optimality_gap(values, 5.0)


def test_runs_are_drawn_within_their_tasks() -> None:
    # Between the tasks lies more than within: drawn over both, the mean would move.
    tasks = {"near": [[0.0, 0.0], [1.0, 1.0]], "far": [[100.0, 100.0], [101.0, 101.0]]}
    got = over_runs(tasks, lambda found: float(found.mean()))
    assert got.value == 50.5
    assert (got.low, got.high) == (50.0, 51.0)
    assert over_runs([*tasks["near"], *tasks["far"]], lambda x: float(x.mean())).low < 30


def test_the_probability_of_improvement_is_mann_whitneys() -> None:
    got = improvement([3.0, 1.0, 2.0], [1.0, 0.0])
    assert got.value == (2 + 1.5 + 2) / 6  # a tie counts half
    assert (improvement([2, 2], [1]).value, improvement([1, 1], [1, 1]).value) == (1.0, 0.5)
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    a, b = rng.integers(9, size=12), rng.integers(7, size=8)
    wanted = stats.mannwhitneyu(a, b).statistic / (12 * 8)
    assert improvement(a, b).value == pytest.approx(wanted)


def test_the_probability_of_improvement_is_a_mean_over_tasks() -> None:
    got = improvement({"x": [1.0, 1.0], "y": [0.0]}, {"y": [1.0], "x": [0.0]})
    assert (got.value, got.low, got.high) == (0.5, 0.5, 0.5)  # always won one, always lost one
    with pytest.raises(SpikerlError, match=r"the same tasks of both, found \['x'\] and \['y'\]"):
        improvement({"x": [1.0]}, {"y": [1.0]})


def test_the_interval_of_an_improvement_covers() -> None:
    rng = np.random.default_rng(1)
    # normal, unit variance, one apart: P = Phi(1 / sqrt 2)
    found = [
        improvement(rng.normal(1, 1, 15), rng.normal(0, 1, 15), resamples=300) for _ in range(150)
    ]
    assert 0.88 <= np.mean([e.low <= 0.7602 <= e.high for e in found]) <= 1.0
    assert np.mean([e.value for e in found]) == pytest.approx(0.7602, abs=0.02)


def test_a_profile_falls_from_all_to_none() -> None:
    got = profile([[1.0, 2.0], [3.0, 4.0]], [0, 1, 2.5, 4])
    assert [e.value for e in got] == [1.0, 0.75, 0.5, 0.0]
    assert (got[2].low, got[2].high) == (0.0, 1.0)  # whole runs are beyond it or not


def test_nothing_to_estimate_from_is_said() -> None:
    for call in (lambda: over_runs([]), lambda: over_runs({}), lambda: over_runs([[1.0], []])):
        with pytest.raises(SpikerlError, match="found no"):
            call()
    with pytest.raises(SpikerlError, match="found no values"):
        improvement([], [1.0])


def test_exact_sign_flips_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(4)
    ours, theirs = rng.normal(0.6, 1, 9), rng.normal(size=9)
    wanted = stats.permutation_test(
        (ours - theirs,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert paired(ours, theirs).p_value == pytest.approx(wanted.pvalue)


def test_one_run_of_each_has_no_interval() -> None:
    for got in (improvement([1], [0]), improvement({"a": [1], "b": [0]}, {"a": [0], "b": [0]})):
        assert np.isnan([got.low, got.high]).all()
        assert got.method == "no interval: one run of each"
    assert improvement([1], [0]).value == 1.0
    got = improvement([1.0, 2.0], [1.5])
    assert (got.value, got.low, got.high) == (0.5, 0.0, 1.0)
    assert got.method == "bootstrap over runs, where there are several"
    assert improvement([1.0, 2.0], [1.5, 3.0]).method == "bootstrap over runs"
