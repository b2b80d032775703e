"""The soak test: hours of work in one command, with workers killed, disks full and files damaged.

    from spikerl.testing.soak import soak
    for row in soak(decisions=100_000):
        print(row)

Imports the numpy core and experiment; every trial runs in processes of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from spikerl import backends
from spikerl.errors import checked_seed, checked_whole, problems_of, refuse
from spikerl.testing.soak import deaths, decisions, files, tables
from spikerl.testing.soak.trial import Trial

__all__ = ["Trial", "soak", "usable"]

LONGER = {"cpu": 10}  # what most agents run on decides this many times as often


def usable() -> list[str]:
    """The back ends of this machine that simulate: no board, and not one that is missing."""
    found = []
    for name, state in backends.available().items():
        can = backends.capabilities(name) if state.usable else None
        if can is not None and not can.hardware:
            found.append(name)
    return found


def soak(
    decisions_each: int = 100_000,
    names: Sequence[str] | None = None,
    *,
    seed: int = 0,
    on_trial: Callable[[str], None] | None = None,
) -> Iterator[Trial]:
    """Every trial as it is finished; one that fails does not stop the others.

    decisions_each: of every back end (ten times as many of cpu), and what other trials scale with.
    names:          of back ends; None: all that are usable here.
    on_trial:       called with what begins.
    Raises SpikerlError for a back end that cannot be used here, before anything runs.
    """
    problems = checked_whole("decisions", decisions_each) + checked_seed(seed)
    problems += problems_of(*(lambda n=n: backends.ready(n) for n in names or ()))
    refuse("the soak cannot be run", problems)
    names = usable() if names is None else list(names)
    some = max(4, min(2_000, decisions_each // 50))  # damages, rows and moments
    with tempfile.TemporaryDirectory(prefix="spikerl-soak-") as folder:
        place = Path(folder)
        trials: list[tuple[str, Callable[[], Trial]]] = [
            (
                f"decisions on {n}",
                lambda n=n: decisions.trial(n, decisions_each * LONGER.get(n, 1), seed),  # type: ignore[misc]
            )
            for n in names
        ]
        trials += [
            ("workers killed", lambda: deaths.trial(decisions_each, max(2, some // 20), seed)),
            ("disk full, agent", lambda: files.full_disk(place, some, seed)),
            ("disk full, table", lambda: tables.full_disk(place, some, seed)),
            ("two writers, one killed", lambda: tables.two_writers(place, some, seed)),
            ("damaged agents", lambda: files.damaged(place, some, seed)),
            ("damaged tables", lambda: tables.damaged(place, some, seed)),
        ]
        for name, run in trials:
            if on_trial is not None:
                on_trial(name)
            try:
                yield run()
            except Exception as error:  # of whatever was tried
                yield Trial(name, 0, wrong=f"{type(error).__name__}: {error}")
