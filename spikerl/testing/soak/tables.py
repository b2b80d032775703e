"""Result tables: full disks, two writers of which one is killed, damaged files.

Imports trial, files and experiment.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from spikerl.errors import SpikerlError
from spikerl.experiment.cell import Cell, described
from spikerl.experiment.columns import Row, made_row
from spikerl.experiment.grid import AgentEntry, BackendEntry, ConversionEntry
from spikerl.experiment.table import Table
from spikerl.testing.soak.files import LIMIT, damages
from spikerl.testing.soak.trial import Trial, answer, started

_HEAD = "from spikerl.testing.soak.tables import *\n"


def made_row_of(number: int) -> Row:
    """A row like those of experiments, each of another cell."""
    origin = {"sha256": "0" * 64, "vecnormalize": None, "algorithm": "dqn", "environment": "E-v0"}
    agent, backend = AgentEntry("soak", "/soak"), BackendEntry("cpu", "cpu")
    cell = Cell(agent, ConversionEntry("soak"), backend, 8, number, 1, origin)
    return made_row({**described(cell), "return": number / 3, "returns": f"[{number / 3}]"})


def full_disk(folder: Path, count: int, seed: int) -> Trial:
    """Add rows where the disk has no room for a whole one: those before are still there."""
    path = folder / "full.csv"
    kept = [made_row_of(number) for number in range(3)]
    with Table(path) as table:
        for row in kept:
            table.add(row)
    before = path.read_bytes()
    length = len(before.splitlines(keepends=True)[1])
    rng = np.random.default_rng([seed, 5])
    room = rng.integers(0, length - 10, count).tolist()
    code = (
        LIMIT
        + _HEAD
        + (
            f"told, table = 0, Table({str(path)!r})\n"
            f"for number, room in enumerate({room}, start=10):\n"
            f"    row = made_row_of(number)\n"
            f"    limited({len(before)} + room)\n"
            "    try:\n"
            "        table.add(row)\n"
            "    except SpikerlError as error:\n"
            "        told += 'cannot be written' in str(error)\n"
            "print(told)\n"
        )
    )
    told = int(answer(code))
    wrong = [f"{count - told} rows told of no full disk"] if told != count else []
    wrong += ["the table is another"] if path.read_bytes() != before else []
    return Trial("disk full, table", count, note=f"{told} refused", wrong="; ".join(wrong))


def two_writers(folder: Path, count: int, seed: int) -> Trial:
    """Two processes fill one table, one is killed, a third goes on: every row once, and whole."""
    path = folder / "two.csv"
    code = _HEAD + (
        f"table = Table({str(path)!r})\n"
        "print('open', flush=True)\n"
        f"for number in range({count}):\n"
        "    row = made_row_of(number)\n"
        "    if table.claim(row['cell']):\n"
        "        table.add(row)\n"
    )
    rng = np.random.default_rng([seed, 6])
    with started(code) as one, started(code) as other:
        for process in (one, other):
            assert process.stdout is not None
            process.stdout.readline()
        time.sleep(float(rng.uniform(0, 0.02)))
        one.kill()
        one.wait()
        _, errors = other.communicate()
        if other.returncode:
            return Trial("two writers, one killed", count, wrong=" ".join(errors.split())[-300:])
    answer(code + "print('done')\n")
    with Table(path) as table:
        found = sorted(row["seed"] for row in table.rows.values())
        same = all(table.rows.get(row["cell"]) == row for row in map(made_row_of, range(count)))
    lines = path.read_bytes().count(b"\n") - 1
    whole = found == list(range(count)) and lines == count and same
    wrong = "" if whole else f"{lines} rows, {len(set(found))} of {count} cells"
    return Trial("two writers, one killed", count, note=f"{lines} rows", wrong=wrong)


def damaged(folder: Path, count: int, seed: int) -> Trial:
    """Open damaged tables: an error that says so, or the rows that can be read; never a crash."""
    path = folder / "damaged.csv"
    with Table(path) as table:
        for number in range(3):
            table.add(made_row_of(number))
    whole, refused = path.read_bytes(), 0
    for data in damages(whole, count, np.random.default_rng([seed, 7])):
        path.write_bytes(data)
        try:
            Table(path).close()
        except SpikerlError:
            refused += 1
    return Trial("damaged tables", count, note=f"{refused} refused")
