"""Encoders: rows of numbers to drives [T, B, channels]."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spikerl.encoding import (
    ENCODERS,
    ConstantCurrent,
    EquidistantSpikes,
    LatencySpike,
    PoissonSpikes,
    PopulationCode,
    split_signed,
)
from spikerl.errors import SpikerlError

EXACT = settings(max_examples=200, derandomize=True, deadline=None, database=None)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rows(*values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float64)


@EXACT
@given(hnp.arrays(np.float64, (2, 3), elements=st.floats(-1e6, 1e6)))
def test_the_two_halves_of_split_signed_give_the_numbers_back(x: np.ndarray) -> None:
    halves = split_signed(x)
    assert halves.shape == (2, 6)
    assert (halves >= 0).all()
    assert np.array_equal(halves[:, :3] - halves[:, 3:], x)
    assert (halves[:, :3] * halves[:, 3:] == 0).all()


def test_a_constant_current_is_the_row_at_every_step_without_a_copy() -> None:
    x = rows([0.5, -2.0])
    drive = ConstantCurrent().encode(x, 4, rng())
    assert drive.shape == (4, 1, 2)
    assert (drive == x).all()
    assert drive.strides[0] == 0


def test_equidistant_spikes_by_hand() -> None:
    drive = EquidistantSpikes(signed=False).encode(rows([0.25, 0.5, 1.0, 0.0]), 8, rng())
    assert drive[:, 0, 0].tolist() == [0, 1, 0, 0, 0, 1, 0, 0]
    assert drive[:, 0, 1].tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    assert drive[:, 0, 2].tolist() == [1] * 8
    assert drive[:, 0, 3].tolist() == [0] * 8


@EXACT
@given(st.floats(0, 1), st.integers(1, 200))
def test_equidistant_spikes_are_round_t_p_and_evenly_spread(p: float, sim_steps: int) -> None:
    spikes = EquidistantSpikes(signed=False).encode(rows([p]), sim_steps, rng())[:, 0, 0]
    assert set(spikes) <= {0.0, 1.0}
    assert spikes.sum() == np.floor(sim_steps * p + 0.5)
    gaps = np.diff(np.flatnonzero(spikes))
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_poisson_spikes_have_the_mean_rate_and_no_memory(p: float) -> None:
    sim_steps = 20_000
    spikes = PoissonSpikes(signed=False).encode(rows([p, p]), sim_steps, rng(1))[:, 0]
    assert set(spikes.ravel()) == {0.0, 1.0}
    deviation = np.sqrt(p * (1 - p) / sim_steps)
    assert np.abs(spikes.mean(axis=0) - p).max() < 5 * deviation
    # neither the step before nor the neighbour tells anything
    before = np.corrcoef(spikes[1:, 0], spikes[:-1, 0])[0, 1]
    neighbour = np.corrcoef(spikes[:, 0], spikes[:, 1])[0, 1]
    assert max(abs(before), abs(neighbour)) < 5 / np.sqrt(sim_steps)


def test_poisson_spikes_come_from_the_generator_alone() -> None:
    x = rows([0.5, 0.2])
    first, again, other = (PoissonSpikes().encode(x, 50, rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_poisson_spikes_at_the_ends_are_certain() -> None:
    spikes = PoissonSpikes(scale=2.0, signed=False).encode(rows([0.0, 2.0, 5.0, -1.0]), 99, rng())
    assert spikes.sum(axis=0).tolist() == [[0.0, 99.0, 99.0, 0.0]]


def test_a_latency_spike_comes_the_earlier_the_larger() -> None:
    drive = LatencySpike(signed=False).encode(rows([1.0, 0.5, 0.01, 0.0, 3.0]), 5, rng())
    assert drive.sum(axis=0).tolist() == [[1, 1, 1, 0, 1]]
    when = drive[:, 0].argmax(axis=0)
    assert when.tolist() == [0, 2, 4, 0, 0]
    assert LatencySpike(signed=False).encode(rows([0.3]), 1, rng()).tolist() == [[[1.0]]]


@EXACT
@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=5), st.integers(1, 40))
def test_latencies_are_ordered_as_the_values(values: list[float], sim_steps: int) -> None:
    drive = LatencySpike(signed=False).encode(rows(values), sim_steps, rng())[:, 0]
    assert drive.sum(axis=0).tolist() == [float(v > 0) for v in values]
    when = np.where(drive.any(axis=0), drive.argmax(axis=0), sim_steps)
    assert (np.diff(when[np.argsort(values, kind="stable")]) <= 0).all()


@pytest.mark.parametrize("kind", [PoissonSpikes, EquidistantSpikes, LatencySpike])
def test_signed_encoders_speak_on_the_channel_of_the_sign(kind: Any) -> None:
    encoder = kind(scale=[1.0, 4.0])
    assert encoder.n_channels(2) == 4
    drive = encoder.encode(rows([-1.0, 4.0]), 6, rng())
    assert (drive[:, 0, [0, 3]] == 0).all()
    assert (drive[:, 0, [1, 2]].sum(axis=0) > 0).all()
    assert kind(signed=False).n_channels(2) == 2


def test_scales_are_per_input() -> None:
    drive = EquidistantSpikes(scale=[1.0, 4.0]).encode(rows([0.5, 2.0]), 8, rng())
    assert drive.sum(axis=0).tolist() == [[4, 4, 0, 0]]


def test_population_activity_by_hand() -> None:
    code = PopulationCode(3, low=[-1.0, 0.0], high=[1.0, 4.0], sigma=0.5)
    assert code.n_channels(2) == 6
    activity = code.activity(rows([0.0, 1.0]))
    near, far = np.exp(-0.5 * 4), np.exp(-0.5 * 36)
    # centres -1, 0, 1 for the first input, then 0, 2, 4 for the second
    assert np.allclose(activity, [[near, 1.0, near, near, near, far]])
    drive = code.encode(rows([0.0, 1.0]), 3, rng())
    assert (drive == activity).all()


def test_population_activity_enters_as_current_or_spikes() -> None:
    x = rows([0.1])
    activity = PopulationCode(4).activity(x)
    counts = {
        kind: PopulationCode(4, spikes=kind).encode(x, 4000, rng()).sum(axis=0)  # type: ignore[arg-type]
        for kind in ("equidistant", "poisson")
    }
    assert np.array_equal(counts["equidistant"], np.floor(4000 * activity + 0.5))
    assert np.abs(counts["poisson"] / 4000 - activity).max() < 5 * np.sqrt(0.25 / 4000)
    assert not np.array_equal(counts["equidistant"], counts["poisson"])


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_gives_one_finite_drive_per_row(name: str) -> None:
    encoder = ENCODERS[name]()
    drive = encoder.encode(rows([0.2, -0.7, 9.0], [0.0, 0.0, -9.0]), 7, rng())
    assert drive.shape == (7, 2, encoder.n_channels(3))
    assert drive.dtype == np.float64
    assert np.isfinite(drive).all()


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, [[1.0]]])
def test_a_scale_that_cannot_be_is_refused(scale: Any) -> None:
    with pytest.raises(SpikerlError, match="scale must be finite and > 0"):
        PoissonSpikes(scale=scale)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"n_neurons": 1}, "n_neurons must be >= 2"),
        ({"sigma": 0.0}, "sigma finite and > 0"),
        ({"low": 1.0}, "low must be below high"),
        ({"high": np.inf}, "both finite"),
        ({"spikes": "some"}, "spikes is 'some', wanted none, equidistant or poisson"),
    ],
)
def test_a_population_that_cannot_be_is_refused(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(SpikerlError, match=reason):
        PopulationCode(**arguments)
