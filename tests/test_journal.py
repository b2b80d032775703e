"""The journal of a worker: what it keeps is enough, and not more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from spikerl.backends import journal
from spikerl.backends.journal import Journal, Resets
from spikerl.errors import BackendError

ROWS = 3


@pytest.fixture
def made() -> Iterator[Journal]:
    journal = Journal(ROWS, 2**20)
    yield journal
    journal.close()
    journal.close()


def message(i: int, resets: Resets, rows: int) -> bytes:
    plain = resets.tolist() if isinstance(resets, np.ndarray) else resets
    return json.dumps([i, plain, rows, "padding " * 5]).encode()


def apply(state: list[list[int]], text: bytes) -> None:
    """A device whose row remembers which runs it has seen since its reset."""
    i, resets, rows, _ = json.loads(text)
    for row in range(ROWS):
        if resets == "all" or (resets is not None and resets[row]):
            state[row].clear()
        if row < rows:
            state[row].append(i)


def replayed(made: Journal) -> list[list[int]]:
    state: list[list[int]] = [[] for _ in range(ROWS)]
    for text in made.messages():
        apply(state, text)
    return state


@pytest.mark.parametrize("seed", range(20))
def test_replaying_the_journal_leads_to_the_present_state(
    made: Journal, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_COMPACT", 150)
    rng = np.random.default_rng(seed)
    state: list[list[int]] = [[] for _ in range(ROWS)]
    for i in range(150):
        masks: list[Any] = [None, rng.random(ROWS) < 0.4, "all" if rng.random() < 0.1 else None]
        resets, rows = masks[rng.integers(3)], int(rng.integers(1, ROWS + 1))
        text = message(i, resets, rows)
        apply(state, text)
        made.add(text, resets, rows)
        assert replayed(made) == state


def test_rows_whose_episodes_end_at_different_times_do_not_let_it_grow(
    made: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_COMPACT", 1000)
    sizes = []
    for i in range(3000):
        resets = np.arange(ROWS) == i % ROWS if i % 5 == 0 else None
        made.add(message(i, resets, ROWS), resets, ROWS)
        sizes.append(made._end)
    assert max(sizes) < 10_000


def test_one_run_is_kept_in_memory_where_all_rows_are_reset_before_each(made: Journal) -> None:
    for i in range(100):
        made.add(message(i, "all", 1), "all", 1)
    assert made._file is None
    assert [json.loads(text)[0] for text in made.messages()] == [99]


def test_a_full_journal_says_so_and_starts_anew_with_the_next_reset() -> None:
    made = Journal(ROWS, 500)
    for i in range(20):
        made.add(message(i, None, 1), None, 1)
    assert "past 500 bytes" in made.lost
    with pytest.raises(BackendError, match="cannot be rebuilt"):
        list(made.messages())
    made.add(message(20, "all", 1), "all", 1)
    assert made.lost == ""
    assert replayed(made) == [[20], [], []]
    made.close()
