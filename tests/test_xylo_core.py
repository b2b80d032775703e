"""The integer model of the Xylo core against the simulator of the chip's maker, slot by slot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spikerl.backends.xylo import built
from spikerl.backends.xylo_core import (
    HIGHEST,
    LOWEST,
    MAX_SPIKES,
    Core,
    CoreRecording,
    IntArray,
    simulate_core,
    start,
)

pytest.importorskip("xylosim", reason="xylosim is not installed")

RANGES = {"small": (60, 20), "middle": (3000, 2000), "whole": (HIGHEST, 2**15)}


def random_core(rng: np.random.Generator, size: str) -> Core:
    n_in, hidden, n_out = rng.integers(1, 6), rng.integers(1, 14), rng.integers(1, 5)
    threshold, bias = RANGES[size]
    return Core(
        weights_in=rng.integers(-128, 128, (2, n_in, hidden)),
        weights_rec=rng.integers(-128, 128, (2, hidden, hidden)),
        weights_out=rng.integers(-128, 128, (hidden, n_out)),
        shift_in=int(rng.integers(0, 8)),
        shift_rec=int(rng.integers(0, 8)),
        shift_out=int(rng.integers(0, 8)),
        threshold=rng.integers(1, threshold + 1, hidden),
        bias=rng.integers(-bias, bias, hidden),
        dash_mem=rng.integers(0, 16, hidden),
        dash_syn=rng.integers(0, 16, hidden),
        threshold_out=rng.integers(1, threshold + 1, n_out),
        bias_out=rng.integers(-bias, bias, n_out),
        dash_mem_out=rng.integers(0, 16, n_out),
        dash_syn_out=rng.integers(0, 16, n_out),
    )


def random_events(rng: np.random.Generator, core: Core, steps: int = 40) -> IntArray:
    """More than 15 in a slot too: the core counts 15."""
    shape = (steps, 1, core.n_in)
    return rng.integers(0, 20, shape) * (rng.random(shape) < 0.4)


def slots(layer: Any, spikes_out: list[list[int]]) -> dict[str, IntArray]:
    """What the simulator recorded in its last run: [T, n] each."""
    return {
        "spikes": np.array(layer.rec_recurrent_spikes),
        "v": np.array(layer.rec_v_mem).T,
        "i1": np.array(layer.rec_i_syn).T,
        "i2": np.array(layer.rec_i_syn2).T,
        "spikes_out": np.array(spikes_out),
        "v_out": np.array(layer.rec_v_mem_out).T,
        "i_out": np.array(layer.rec_i_syn_out).T,
    }


def ours(found: CoreRecording, row: int = 0) -> dict[str, IntArray]:
    return {
        "spikes": found.spikes[:, row],
        "v": found.v[:, row],
        "i1": found.i[:, 0, row],
        "i2": found.i[:, 1, row],
        "spikes_out": found.spikes_out[:, row],
        "v_out": found.v_out[:, row],
        "i_out": found.i_out[:, row],
    }


def assert_equal(found: dict[str, IntArray], wanted: dict[str, IntArray]) -> None:
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("size", RANGES)
def test_every_slot_of_random_cores_is_the_simulators(size: str) -> None:
    bursts, full, outputs = 0, 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        core = random_core(rng, size)
        events = random_events(rng, core)
        alive, (layer,) = built(core, 1)
        found = simulate_core(core, events)
        assert_equal(ours(found), slots(layer, layer.evolve(events[:, 0].tolist())))
        assert len(alive) == 3
        bursts += int((found.spikes == MAX_SPIKES).sum())
        full += int(((found.v == LOWEST) | (found.v == HIGHEST)).sum())
        outputs += int(found.spikes_out.sum())
    assert outputs > 100
    assert bursts > 100 or size == "whole"
    assert full > 100 or size == "small"


def test_state_goes_on_from_run_to_run_and_copies_do_not_meet() -> None:
    rng = np.random.default_rng(1)
    core = random_core(rng, "middle")
    events = np.concatenate([random_events(rng, core) for _ in range(3)], axis=1)
    whole = simulate_core(core, events)
    state = start(core, 3)
    parts = [simulate_core(core, part, state) for part in (events[:13], events[13:])]
    np.testing.assert_array_equal(np.concatenate([p.v for p in parts]), whole.v)
    alive, layers = built(core, 3)
    for row, layer in enumerate(layers):
        first = slots(layer, layer.evolve(events[:13, row].tolist()))
        second = slots(layer, layer.evolve(events[13:, row].tolist()))
        both = {name: np.concatenate([first[name], second[name]]) for name in first}
        assert_equal(ours(whole, row), both)
    assert len(alive) == 3


def test_a_weight_arrives_by_halves_and_a_membrane_leaks_a_unit_per_step() -> None:
    one = np.ones(1, dtype=np.int64)
    core = Core(
        *(np.array([[[100]], [[0]]]), np.zeros((2, 1, 1), np.int64), np.zeros((1, 1), np.int64)),
        *(0, 0, 0),
        *(1000 * one, 0 * one, 15 * one, one),
        *(1000 * one, 0 * one, 15 * one, one),
    )
    found = simulate_core(core, np.array([1] + [0] * 9).reshape(10, 1, 1))
    assert found.i[:, 0, 0, 0].tolist() == [50, 25, 13, 7, 4, 2, 1, 0, 0, 0]
    assert found.v[:, 0, 0].tolist() == [50, 74, 86, 92, 95, 96, 96, 95, 94, 93]
