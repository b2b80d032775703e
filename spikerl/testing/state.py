"""Checks of what a session remembers from run to run, and of what reset() forgets."""

from __future__ import annotations

from typing import Any

import numpy as np

from spikerl.backends.base import Backend, Capabilities
from spikerl.network import SpikingNetwork
from spikerl.reference import initial_state, simulate
from spikerl.testing import dyadic
from spikerl.testing.check import (
    Catalogue,
    comparable,
    compare,
    cut_rows,
    fail,
    matches,
    opened,
    run,
)
from spikerl.testing.networks import everything, reset_of
from spikerl.testing.neuron import delays, neurons

_catalogue = Catalogue()
check = _catalogue.add
CHECKS = _catalogue.checks

ROWS = 4


def _half(c: Capabilities) -> int:
    """Steps of each of two runs that stay exact together."""
    return dyadic.steps(c, 0.5) // 2


@check(lambda c: c.keeps_state)
def split_run_equals_one_run(backend: Backend) -> None:
    """Two runs without a reset between them equal one run of both drives, cut anywhere."""
    c = backend.capabilities
    network = everything(c, seed=200)
    sim_steps = 2 * _half(c)
    drive = dyadic.drive(np.random.default_rng(201), c, network, sim_steps, ROWS)
    for cut in (1, sim_steps // 2):
        with opened(backend, network, ROWS) as session:
            state = initial_state(session.network, ROWS)
            rows = comparable(c, session.network, drive)
            for part, name in ((drive[:cut], "first"), (drive[cut:], "second")):
                want = simulate(session.network, part, state)
                where = f"{name} run, cut after {cut} steps"
                compare(c, run(session, backend, part), want, where, rows)


@check()
def reset_restores_start(backend: Backend) -> None:
    """After reset() a session does exactly what a new one does, in every layer."""
    c = backend.capabilities
    network = everything(c, seed=210)
    before, after = (
        dyadic.drive(np.random.default_rng(seed), c, network, _half(c), ROWS) for seed in (211, 212)
    )
    with opened(backend, network, ROWS) as session:
        for again in range(2):
            run(session, backend, before)
            session.reset()
            matches(backend, session, after, f"after reset {again + 1}")
            session.reset()


@check(lambda c: c.keeps_state and c.partial_reset)
def partial_reset_leaves_others(backend: Backend) -> None:
    """reset(rows) starts those rows anew and leaves the others alone; no rows means none."""
    c = backend.capabilities
    network = everything(c, seed=220)
    before, after = (
        dyadic.drive(np.random.default_rng(seed), c, network, _half(c), ROWS) for seed in (221, 222)
    )
    mask = np.array([False, True, False, True])
    for rows, reset in ((mask, mask), ([1, 3], mask), ([], np.zeros(ROWS, dtype=np.bool_))):
        with opened(backend, network, ROWS) as session:
            state = initial_state(session.network, ROWS)
            simulate(session.network, before, state)
            goes_on = simulate(session.network, after, state)
            anew = simulate(session.network, after)
            run(session, backend, before)
            session.reset(rows)
            got = run(session, backend, after)
            kept = ~reset & comparable(c, session.network, before, after)
            anew_rows = reset & comparable(c, session.network, after)
            compare(c, got, goes_on, f"rows kept by reset({rows!r})", kept)
            compare(c, got, anew, f"rows chosen by reset({rows!r})", anew_rows)


@check(lambda c: c.current or c.adaptation)
def currents_and_lifts_are_state(backend: Backend) -> None:
    """Synaptic currents and lifted thresholds go on from run to run and begin anew with reset()."""
    c = backend.capabilities
    kinds: dict[str, Any] = {"reset": reset_of(c)}
    kinds |= {"current_decay": 0.5} if c.current else {}
    kinds |= {"adaptation": 0.5, "adaptation_decay": 0.5} if c.adaptation else {}
    network = dyadic.stack(np.random.default_rng(225), c, **kinds)
    drive = dyadic.drive(np.random.default_rng(226), c, network, 2 * _half(c), ROWS)
    first, second = np.split(drive, 2)
    with opened(backend, network, ROWS) as session:
        state = initial_state(session.network, ROWS)
        same = comparable(c, session.network, first, second)
        simulate(session.network, first, state)
        goes_on = simulate(session.network, second, state)
        run(session, backend, first)
        if c.keeps_state:
            compare(c, run(session, backend, second), goes_on, "the second run", same)
            session.reset()
            run(session, backend, first)
        if c.keeps_state and c.partial_reset:
            reset = np.array([True, False, True, False])
            session.reset(reset)
            got = run(session, backend, second)
            anew = simulate(session.network, second)
            fresh = reset & comparable(c, session.network, second)
            compare(c, got, goes_on, "rows that were not reset", ~reset & same)
            compare(c, got, anew, "rows that were reset", fresh)
        session.reset()
        matches(backend, session, second, "after reset")


@check()
def fewer_rows_than_batch_size(backend: Backend) -> None:
    """A run of fewer rows than batch_size moves the first rows and no others."""
    c = backend.capabilities
    network = everything(c, seed=230)
    few, full = (
        dyadic.drive(np.random.default_rng(seed), c, network, _half(c), rows)
        for seed, rows in ((231, 2), (232, ROWS))
    )
    with opened(backend, network, ROWS) as session:
        matches(backend, session, few, "2 rows of 4")
        if c.keeps_state:
            state = initial_state(session.network, 2)
            simulate(session.network, few, state)
            first = simulate(session.network, full[:, :2], state)
            got = run(session, backend, full)
            same = comparable(c, session.network, few, full[:, :2])
            compare(c, cut_rows(got, 0, 2), first, "the 2 rows that had run, in the next run", same)
            rest = simulate(session.network, full[:, 2:])
            same = comparable(c, session.network, full[:, 2:])
            compare(
                c, cut_rows(got, 2, ROWS), rest, "the 2 rows that had not, in the next run", same
            )


@check(lambda c: c.max_delay_steps is None or c.max_delay_steps > 0)
def in_flight_spikes_do_not_leak(backend: Backend) -> None:
    """Spikes still travelling when reset() is called never arrive in the next decision."""
    c = backend.capabilities
    for delay in delays(c, 1, 3):
        layers = (neurons(c, [[1.0]], delay_steps=delay), neurons(c, [[1.0]]))
        fire, silent = np.ones((delay, 1, 1)), np.zeros((delay + 3, 1, 1))
        with opened(backend, SpikingNetwork(layers)) as session:
            run(session, backend, fire)
            session.reset()
            matches(backend, session, silent, f"delay {delay}, silence after the reset")


@check()
def recordings_do_not_change_later(backend: Backend) -> None:
    """What a run returned stays as it was while the session runs on and is reset."""
    c = backend.capabilities
    network = everything(c, seed=240)
    drive = dyadic.drive(np.random.default_rng(241), c, network, _half(c), ROWS)
    with opened(backend, network, ROWS) as session:
        kept = run(session, backend, drive)
        arrays = [*kept.counts, *kept.potentials, *(kept.spikes or ())]
        copies = [None if array is None else array.copy() for array in arrays]
        run(session, backend, drive)
        session.reset()
        for i, (now, then) in enumerate(zip(arrays, copies, strict=True)):
            if now is None or then is None:
                continue
            if not np.array_equal(now, then, equal_nan=True):
                fail(f"array {i} of a Recording changed by a later run or reset", "its own copy")
