"""Running an experiment: cells are handed out, rows come in and are stored at once.

Imports table, cell and crew. The same cells give the same rows whoever works on them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from spikerl.experiment.cell import Cell, described
from spikerl.experiment.columns import Row, made_row
from spikerl.experiment.crew import Crew, Finished
from spikerl.experiment.table import Table

DEATHS = 3  # workers that one cell may cost
PATIENCE_S = 60.0  # without any worker that could go on


@dataclass
class Outcome:
    """What became of the cells of a run.

    rows:     of all cells that have one, in the order of the cells.
    before:   how many of them were stored when the run began; elsewhere: by other runs meanwhile.
    deaths:   what is known of each worker that died.
    not_run:  cells no worker could take, and why. They are not in the table: a later run has them.
    """

    rows: list[Row] = field(default_factory=list)
    before: int = 0
    elsewhere: int = 0
    deaths: list[str] = field(default_factory=list)
    not_run: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[Row]:
        """Rows of the cells that went wrong."""
        return [row for row in self.rows if row["status"] == "failed"]


class _Run:
    """The cells on their way: waiting, given to a worker, claimed by another run."""

    def __init__(self, cells: Sequence[Cell], table: Table, crew: Crew) -> None:
        self.table, self.crew = table, crew
        self.outcome = Outcome(before=sum(cell.id in table.rows for cell in cells))
        self.waiting = [cell for cell in cells if cell.id not in table.rows]
        self.busy: dict[str, Cell] = {}
        self.claimed: set[str] = set()
        self.costs: Counter[str] = Counter()

    def hand_out(self, present: Mapping[str, Mapping[str, str]]) -> None:
        """Give every free worker the first cell it can do and no other run works on."""
        for worker, lacks in present.items():
            if worker in self.busy:
                continue
            for cell in self.waiting:
                if cell.backend.name in lacks and cell.backend.python is None:
                    continue
                if cell.id not in self.claimed and not self.table.claim(cell.id):
                    continue  # stored, or being worked on, by another run
                self.claimed.add(cell.id)
                self.waiting.remove(cell)
                self.busy[worker] = cell
                self.crew.start(worker, cell)
                break

    def take_in(self, entry: Finished) -> None:
        """Store a row; after a death the cell waits again, unless it cost too many workers."""
        del self.busy[entry.worker]
        row = entry.row
        if row is None:
            self.costs[entry.cell.id] += 1
            self.outcome.deaths.append(f"{entry.worker}: {entry.death}")
            if self.costs[entry.cell.id] < DEATHS:
                self.waiting.insert(0, entry.cell)
                return
            text = f"its worker died {DEATHS} times, at last so: {entry.death}"
            row = made_row({**described(entry.cell), "status": "failed", "error": text})
        self.table.add(row)
        self.claimed.discard(row["cell"])

    def drop_stored(self) -> None:
        """Cells that other runs have stored meanwhile need not be done."""
        self.table.refresh()
        left = [cell for cell in self.waiting if cell.id not in self.table.rows]
        self.outcome.elsewhere += len(self.waiting) - len(left)
        self.waiting = left

    def give_up(self, present: Mapping[str, Mapping[str, str]]) -> None:
        """Nobody has come who could do the rest: say of each cell why."""
        for cell in self.waiting:
            if self.claimed.isdisjoint({cell.id}) and not self.table.claim(cell.id):
                continue  # another run works on it
            self.table.give_back(cell.id)
            self.claimed.discard(cell.id)
            name = cell.backend.name
            reasons = [f"{worker}: {lacks[name]}" for worker, lacks in present.items()]
            self.outcome.not_run[str(cell)] = "; ".join(reasons) or "there is no worker"


def run_cells(
    cells: Sequence[Cell],
    table: Table,
    crew: Crew,
    *,
    progress: Callable[[int], None] | None = None,
    patience: float = PATIENCE_S,
) -> Outcome:
    """Have every cell done that the table lacks, and store each row as it comes.

    progress: called with the number of cells that have a row.
    patience: seconds to wait for a worker, where there is none that could go on.
    Raises SpikerlError where the table cannot be written, or the crew is lost.
    """
    run = _Run(cells, table, crew)

    def tell() -> None:
        if progress is not None:
            progress(sum(cell.id in table.rows for cell in cells))

    tell()
    last = time.monotonic()  # when something went on
    with crew:
        while run.waiting or run.busy:
            present = crew.workers()
            run.hand_out(present)
            if run.busy:
                last = time.monotonic()
                for entry in crew.finished(1.0):
                    run.take_in(entry)
                    tell()
                continue
            left = len(run.waiting)
            run.drop_stored()
            tell()
            if run.waiting and _elsewhere(run, present):
                last = time.monotonic()
            elif len(run.waiting) == left and time.monotonic() - last > patience:
                run.give_up(present)
                break
            time.sleep(0.2 if run.waiting else 0.0)
    run.outcome.rows = [table.rows[cell.id] for cell in cells if cell.id in table.rows]
    return run.outcome


def _elsewhere(run: _Run, present: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether some worker here could do a cell that waits: then another run has it."""
    return any(
        cell.backend.python is not None or cell.backend.name not in lacks
        for cell in run.waiting
        for lacks in present.values()
    )
