"""Who works on cells: this process, or processes of this machine. Imports cell; joblib late.

A crew is workers with one cell each at a time. A worker that dies takes one cell with it, and it is
known which.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self

from spikerl.errors import SpikerlError
from spikerl.experiment.cell import Cell, run_cell
from spikerl.experiment.columns import Row


@dataclass(frozen=True)
class Finished:
    """What became of a cell: its row, or how its worker died."""

    worker: str
    cell: Cell
    row: Row | None = None
    death: str | None = None


class Crew(Protocol):
    """Workers that come and go; used in a `with`, which ends those it started."""

    def workers(self) -> Mapping[str, Mapping[str, str]]:
        """Those present now, and why each lacks the back ends it lacks."""

    def start(self, worker: str, cell: Cell) -> None:
        """Give a worker that has none a cell."""

    def finished(self, seconds: float) -> list[Finished]:
        """Cells that were finished, or whose worker died; waits so long for the first."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Alone:
    """This process, one cell after the other; folder: of converted agents."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._cells: list[Cell] = []

    def workers(self) -> Mapping[str, Mapping[str, str]]:
        """See Crew."""
        return {"here": {}}

    def start(self, worker: str, cell: Cell) -> None:
        """See Crew."""
        self._cells.append(cell)

    def finished(self, seconds: float) -> list[Finished]:
        """See Crew; the work is done here, however long it takes."""
        cells, self._cells = self._cells, []
        return [Finished("here", cell, run_cell(cell, self._folder)) for cell in cells]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._cells.clear()


class Processes:
    """Processes of this machine, by joblib's executor; one that dies is replaced.

    Raises SpikerlError where joblib is missing.
    """

    def __init__(self, folder: str, count: int) -> None:
        try:
            from joblib.externals.loky import ProcessPoolExecutor
        except ImportError:
            raise SpikerlError(
                "several workers need joblib; install it: pip install 'spikerl[experiment]'"
            ) from None
        self._folder = folder
        # One executor each: in a common one nobody could tell whose cell was the death of it.
        self._make: Any = partial(ProcessPoolExecutor, max_workers=1, timeout=None)
        self._executors: dict[str, Any] = {f"process {i + 1}": None for i in range(count)}
        self._running: dict[Future[Row], tuple[str, Cell]] = {}

    def workers(self) -> Mapping[str, Mapping[str, str]]:
        """See Crew."""
        return {name: {} for name in self._executors}

    def start(self, worker: str, cell: Cell) -> None:
        """See Crew."""
        if self._executors[worker] is None:
            self._executors[worker] = self._make()
        future = self._executors[worker].submit(run_cell, cell, self._folder, worker)
        self._running[future] = (worker, cell)

    def finished(self, seconds: float) -> list[Finished]:
        """See Crew."""
        done, _ = wait(self._running, seconds, FIRST_COMPLETED)
        found = []
        for future in done:
            worker, cell = self._running.pop(future)
            try:
                found.append(Finished(worker, cell, future.result()))
            except BrokenProcessPool as error:
                self._end(worker)
                reason = str(error).strip().splitlines()[-1] if str(error).strip() else "it ended"
                found.append(Finished(worker, cell, death=reason))
        return found

    def _end(self, worker: str) -> None:
        executor, self._executors[worker] = self._executors[worker], None
        if executor is not None:
            executor.shutdown(wait=True, kill_workers=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._executors:
            self._end(worker)
        self._running.clear()
