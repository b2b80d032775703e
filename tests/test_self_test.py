"""The self-test of compile(): wrong results are refused, ties between rounded sums are not."""

import numpy as np
import pytest
from defective import DEFECTS, Right

from spikerl.backends import get
from spikerl.backends.base import Capabilities, self_tested, tie_free
from spikerl.errors import BackendError
from spikerl.network import Dense, SpikingNetwork


def network(seed, digits):
    """Two layers of weights rounded to this many decimal digits."""
    rng = np.random.default_rng(seed)
    weights = (rng.normal(0, 1, (30, 10)), rng.normal(0, 1, (30, 30)))
    return SpikingNetwork([Dense(weight=np.round(weight, digits)) for weight in weights])


@pytest.mark.parametrize("name", ["FloorAtZero", "TransposedSquareWeights", "SpontaneousSpikes"])
def test_a_wrong_session_is_closed_and_refused(name):
    backend, _ = DEFECTS[name]
    net = SpikingNetwork(
        [Dense(weight=np.random.default_rng(1).normal(0, 1, (8, 8)), v_threshold=0.75)]
    )
    session = backend.session(net, 2)
    with pytest.raises(BackendError, match=r"failed its self-test: .* spiking layers \[0\]"):
        self_tested(session, Capabilities())
    assert session.closed


def test_a_right_session_is_left_in_its_start_state():
    net = network(0, 6)
    with self_tested(Right(net, 2), Capabilities()) as session, Right(net, 2) as fresh:
        assert all(np.array_equal(a, b) for a, b in zip(session.v, fresh.v, strict=True))
        assert not any(sent.any() for sent in session.sent)


@pytest.mark.parametrize("name", ["cpu", "torch"])
def test_networks_of_short_decimal_numbers_are_not_refused(name):
    for seed in range(20):
        with get(name).compile(network(seed, 1)) as session:
            assert not session.closed


def test_a_row_whose_sum_meets_the_threshold_is_not_free_of_ties():
    net = SpikingNetwork([Dense(weight=[[0.1]])])
    drive = np.ones((12, 3, 1)) * np.array([1.0, 1.003, 0.0])[:, None]
    assert tie_free(net, drive).tolist() == [False, True, True]
