"""Gaps between actions against the resolution of the network."""

from __future__ import annotations

import numpy as np
import pytest
from policies import model

import spikerl
from spikerl.conversion.gaps import BINS, DECADES, gap_report
from spikerl.decoding import Categorical

ONE = Categorical((3,))


def test_the_resolution_is_the_mean_error_of_the_gap_between_the_two_best() -> None:
    source = np.array([[1.0, 5.0, 3.0], [7.0, 0.0, 6.0]])  # gaps 2 and 1
    ours = np.array([[9.0, 6.0, 3.0], [7.0, 0.0, 5.0]])  # in the same actions 3 and 2
    found = gap_report(source, ours, ONE)
    assert found is not None
    assert found.resolution == 1.0
    assert found.resolution in found.edges
    assert sum(found.counts) == 2
    assert found.edges[0] <= 1.0 < 2.0 <= found.edges[-1]
    for gap in (1.0, 2.0):
        (here,) = (i for i in range(BINS + 1) if found.edges[i] <= gap < found.edges[i + 1])
        assert found.counts[here] == 1
    # what all actions have in common is no error
    same = gap_report(source, source + 10, ONE)
    assert same is not None
    assert same.resolution == 0.0


def test_all_choices_count() -> None:
    source = np.array([[0.0, 1.0, 5.0, 0.0, 3.0]])
    several = gap_report(source, source * 2, Categorical((2, 1, 2), multi=True))
    assert several is not None
    assert (sum(several.counts), several.resolution) == (2, 2.0)  # errors 1 and 3


def test_what_lies_beyond_the_bins_is_in_the_outermost() -> None:
    gaps = np.concatenate([np.full(50, 1.0), np.full(50, 0.0)])
    found = gap_report(np.stack([gaps, 0 * gaps], axis=1), np.zeros((100, 2)), Categorical((2,)))
    assert found is not None
    assert (len(found.counts), found.counts[0], sum(found.counts)) == (BINS + 1, 50, 100)
    assert 10**DECADES <= found.edges[-1] / found.edges[0] < 2 * 10**DECADES
    assert list(found.edges) == sorted(set(found.edges))


def test_without_a_choice_there_are_no_gaps() -> None:
    assert gap_report(np.ones((4, 1)), np.ones((4, 1)), Categorical((1,))) is None
    assert gap_report(np.ones((4, 3)), np.ones((4, 3)), ONE) is None


@pytest.mark.parametrize(("kind", "has"), [("dqn", True), ("sac", False)])
def test_a_conversion_reports_them_where_actions_are_chosen(kind: str, has: bool) -> None:
    report = spikerl.convert(model(kind), n_calibration=200, sim_steps=8).report
    assert report is not None
    assert (report.gaps is not None) == has
    if report.gaps is not None:
        assert sum(report.gaps.counts) == report.held_out
        at = report.gaps.edges.index(report.gaps.resolution)
        assert sum(report.gaps.counts[:at]) / report.held_out == report.coarse
    assert type(report).from_dict(report.to_dict()) == report
