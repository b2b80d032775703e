"""A Dask cluster as a crew. Imports cell, crew and errors; dask.distributed late.

spikerl places the cells itself, one at a time on each worker process: simulators are global to a
process, and a cell must not wait for a worker that is gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Self

from spikerl import __version__, backends
from spikerl.errors import SpikerlError, listed
from spikerl.experiment.cell import Cell, run_cell
from spikerl.experiment.crew import Finished

CONNECT_S = 30.0


class DaskCluster:
    """The workers of a scheduler such as tcp://host:8786, those that join later included.

    Each is asked, when it is first seen, whether it has this spikerl, sees the same files and which
    back ends it has. One that cannot work is not used; `notes` says why, by name.
    Raises SpikerlError where no scheduler answers, or no worker of it can do some cell.
    """

    def __init__(self, address: str, cells: Iterable[Cell], folder: str) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise SpikerlError(
                "a Dask cluster needs distributed; install it: pip install 'spikerl[dask]'"
            ) from None
        cells = tuple(cells)
        self._folder = folder
        self._names = {c.backend.name for c in cells if c.backend.python is None}
        self._files = {c.agent.source: str(c.origin["sha256"]) for c in cells}
        self._known: dict[str, Mapping[str, str] | None] = {}  # None: not to be used
        self._running: dict[Any, tuple[str, Cell]] = {}
        self._numbers = count()
        self.notes: list[str] = []
        try:
            self._client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:  # a timeout is an OSError
            raise SpikerlError(f"no Dask scheduler answers at {address}: {error}") from None
        try:
            self._start(address)
        except BaseException:
            self._client.close()
            raise

    def _start(self, address: str) -> None:
        present = self.workers()
        if not self._known:
            raise SpikerlError(f"the Dask scheduler at {address} has no workers; start some")
        lacking = [name for name in sorted(self._names) if all(name in x for x in present.values())]
        if lacking or not present:
            what = f"back end {', '.join(lacking)}" if present else "this experiment"
            raise SpikerlError(listed(f"no worker of the cluster can run {what}", self.notes))

    def workers(self) -> Mapping[str, Mapping[str, str]]:
        """See Crew."""
        addresses = self._present()
        new = [address for address in addresses if address not in self._known]
        if new:
            answers = self._client.run(
                look_around, self._names, list(self._files), workers=new, on_error="return"
            )
            for address in new:
                # else it is gone already, or has to be asked again
                if address in answers and not isinstance(answers[address], OSError):
                    self._known[address] = self._usable(address, answers[address])
        found = {address: self._known.get(address) for address in addresses}
        return {address: lacks for address, lacks in found.items() if lacks is not None}

    def start(self, worker: str, cell: Cell) -> None:
        """See Crew."""
        future = self._client.submit(
            run_cell,
            cell,
            self._folder,
            worker,
            key=f"spikerl-{cell.id[:16]}-{next(self._numbers)}",
            pure=False,
            retries=0,
            workers=[worker],
            allow_other_workers=False,
        )
        self._running[future] = (worker, cell)

    def finished(self, seconds: float) -> list[Finished]:
        """See Crew."""
        from distributed import wait

        with suppress(TimeoutError), self._client.as_current():
            wait(list(self._running), timeout=seconds, return_when="FIRST_COMPLETED")
        found = []
        present = self._present()
        for future, (worker, cell) in list(self._running.items()):
            if future.status == "finished":
                row, death = future.result(), None
            elif future.status in ("error", "cancelled", "lost"):
                reason = future.exception() if future.status == "error" else future.status
                row, death = None, " ".join(str(reason).split())[:300]
            elif worker not in present:
                row, death = None, "it has left the cluster"
                future.cancel()  # or Dask would wait for the worker to come back
            else:
                continue
            del self._running[future]
            future.release()
            found.append(Finished(worker, cell, row, death))
        return found

    def _present(self) -> list[str]:
        """Addresses of the workers; raises SpikerlError where the scheduler is gone."""
        try:
            if self._client.status == "running":
                return list(self._client.nthreads())
        except OSError:
            pass
        raise SpikerlError(
            "the Dask scheduler is gone; rows so far are stored, and the same command goes on"
        )

    def _usable(self, worker: str, answer: Any) -> Mapping[str, str] | None:
        """The back ends a worker lacks, with reasons; None where it cannot be used at all."""
        problems = []
        if not isinstance(answer, dict):
            problems.append(f"it cannot run spikerl: {type(answer).__name__}: {answer}")
        elif answer["spikerl"] != __version__:
            problems.append(f"it has spikerl {answer['spikerl']}, this is {__version__}")
        else:
            for path, digest in answer["files"].items():
                if digest is None:
                    problems.append(f"it sees no checkpoint at {path}")
                elif digest != self._files[path]:
                    problems.append(f"it sees another file at {path}")
        if problems:
            self.notes.append(f"worker {worker} is not used: {'; '.join(problems)}")
            return None
        lacks: dict[str, str] = answer["lacks"]
        self.notes += [f"worker {worker}: {reason}" for reason in lacks.values()]
        return lacks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for future in self._running:
            future.cancel()
        self._running.clear()
        self._client.close()


def look_around(names: Iterable[str], paths: Iterable[str]) -> dict[str, Any]:
    """What a worker says of itself: version, back ends it lacks, files as it sees them."""
    lacks = {}
    for name in names:
        try:
            backends.get(name)
        except SpikerlError as error:
            lacks[name] = str(error).splitlines()[0]
    return {
        "spikerl": __version__,
        "lacks": lacks,
        "files": {path: _sum(path) for path in paths},
    }


def _sum(path: str) -> str | None:
    from spikerl.conversion.checkpoints import checkpoint_file

    try:
        return hashlib.sha256(Path(checkpoint_file(path)).read_bytes()).hexdigest()
    except (SpikerlError, OSError):
        return None
