"""Any back end in a process of its own, or under another Python interpreter.

Imports numpy, base, the registry and the modules of the transport. A crash of a simulator ends its
worker, not this program: the worker is replaced, told again what led to the present state, and the
decision is made again.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.backends import wire
from spikerl.backends.base import Backend, Capabilities, Session
from spikerl.backends.journal import Journal, Resets
from spikerl.backends.worker_process import Told, Worker, WorkerDied
from spikerl.backends.worker_server import load
from spikerl.errors import BackendError, SpikerlError, WorkerWarning
from spikerl.network import FloatArray, Recording, SpikingNetwork

ATTEMPTS = 3  # workers that one call may cost
TIMEOUT_S = 600.0
JOURNAL_BYTES = 2**30


class WorkerBackend:
    """A back end whose sessions each have a process of their own.

    backend: a name of the registry, "module:Class", or a Backend that needs no arguments.
    python:  the interpreter to use, such as "venv/bin/python"; None: this one. A name is looked up
             there: that interpreter needs spikerl, numpy and the simulator, nothing else, and may
             have other versions of them.
    Raises BackendError for a Backend that another process could not make again.
    """

    def __init__(
        self, backend: str | Backend, python: str | os.PathLike[str] | None = None
    ) -> None:
        self._target = backend if isinstance(backend, str) else _target(backend)
        self._python = None if python is None else os.path.expanduser(os.fspath(python))
        self._here = self._python is None or self._python == sys.executable

    @cached_property
    def _described(self) -> tuple[str, Capabilities]:
        if self._here:
            found = load(self._target)
            name, capabilities = found.name, found.capabilities
        else:
            answer = self._ask({"op": "describe", "backend": self._target})
            name, capabilities = answer["name"], wire.capabilities_from(answer["capabilities"])
        if not capabilities.hardware:  # where one process has room for one, the next has its own
            capabilities = replace(capabilities, max_sessions=None)
        return name, capabilities

    @cached_property
    def name(self) -> str:
        """The name of the back end inside."""
        return self._described[0]

    @cached_property
    def capabilities(self) -> Capabilities:
        """Those of the back end inside; a simulator that is global no longer limits the sessions.

        Where the back end is under another interpreter, a worker is started to ask it.
        """
        return self._described[1]

    def problems(self, network: SpikingNetwork) -> list[str]:
        """Every reason the back end inside cannot run this network; empty if it can."""
        if self._here:
            return load(self._target).problems(network)
        data = wire.network_data(network)
        found: list[str] = self._ask({"op": "problems", "backend": self._target, "network": data})
        return found

    def _ask(self, question: dict[str, Any]) -> Any:
        told: Told = []
        try:
            worker = Worker(self._python, TIMEOUT_S)
            try:
                return worker.call(wire.encode(question), told)
            finally:
                worker.close()
        except WorkerDied as death:
            raise BackendError(f"the worker of back end {self._target!r} {death}") from None

    def compile(
        self,
        network: SpikingNetwork,
        *,
        batch_size: int = 1,
        seed: int | None = None,
        worker_timeout: float = TIMEOUT_S,
        worker_journal_bytes: int = JOURNAL_BYTES,
        **options: Any,
    ) -> Session:
        """Start a worker and build the network in it.

        worker_timeout: seconds after which a worker that does not answer is replaced; it must leave
                        room for building the network.
        worker_journal_bytes: what may be kept of a stateful session in a temporary file.
        Further options go to the back end inside. Raises what that raises, and BackendError where
        the interpreter cannot run a worker.
        """
        if not _positive(worker_timeout):
            raise BackendError(f"worker_timeout must be seconds > 0, found {worker_timeout!r}")
        if not _positive(worker_journal_bytes):
            raise BackendError(f"worker_journal_bytes must be > 0, found {worker_journal_bytes!r}")
        opening = {
            "op": "open",
            "backend": self._target,
            "network": wire.network_data(network),
            "batch_size": batch_size,
            "seed": seed,
            "options": options,
        }
        return WorkerSession(opening, self._python, worker_timeout, worker_journal_bytes)


class WorkerSession(Session):
    """A session in another process; its network is the effective one of the session inside.

    A worker that is killed, crashes, or does not answer in time is replaced up to 3 times per call,
    with one WorkerWarning. What the new one is told again is the drives since the last reset of
    every row: nothing, where all rows are reset before each run. So the result is the same, for a
    back end that is deterministic or whose random numbers start anew with a reset; another one
    goes on with numbers drawn again from its seed. The journal is bounded by the longest episode
    among the rows and by worker_journal_bytes; past that a death raises BackendError.

    A reset travels with the next run, in one message. restarts: workers replaced so far.
    """

    def __init__(
        self, opening: dict[str, Any], python: str | None, timeout: float, journal_bytes: int
    ) -> None:
        self._opening = wire.encode(opening)
        self._python, self._timeout = python, timeout
        self._worker: Worker | None = None
        self._journal: Journal | None = None
        self._pending: Resets = None
        self._told: Told = []
        self._label = str(opening["backend"])
        self.restarts = 0
        answer = self._call(None)
        capabilities = wire.capabilities_from(answer["capabilities"])
        self._partial = capabilities.partial_reset
        if capabilities.keeps_state:
            self._journal = Journal(answer["batch_size"], int(journal_bytes))
        super().__init__(answer["name"], wire.network_from(answer["network"]), answer["batch_size"])
        self._tell()

    @property
    def worker_pid(self) -> int | None:
        """The process id of the worker; None where there is none at the moment."""
        return None if self._worker is None or self._worker.dead else self._worker.pid

    @property
    def versions(self) -> dict[str, str]:
        """Versions of spikerl, Python and numpy in the worker; empty where there is none."""
        return {} if self.worker_pid is None or self._worker is None else self._worker.versions

    @property
    def output(self) -> str:
        """The last lines the worker printed; nothing of it appears elsewhere."""
        return "" if self.worker_pid is None or self._worker is None else self._worker.output()

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        resets = self._pending
        question = {
            "op": "run",
            "resets": resets,
            "sim_steps": len(drive),
            "drive": drive[:1] if drive.strides[0] == 0 else drive,
            "record_spikes": bool(record_spikes),
        }
        message = wire.encode(question)
        answer = self._call(message, afresh=isinstance(resets, str))
        self._pending = None
        if self._journal is not None:
            self._journal.add(message, resets, drive.shape[1])
        self._tell()
        return wire.recording_from(answer)

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        if rows is not None and not self._partial:  # let the back end say what it thinks of that
            self._call(wire.encode({"op": "reset", "resets": rows}))
        if rows is None:
            self._pending = "all"
        elif self._pending is None:
            self._pending = rows
        elif not isinstance(self._pending, str):
            self._pending = self._pending | rows

    def _close(self) -> None:
        if self._journal is not None:
            self._journal.close()
        if self._worker is not None:
            self._worker.close()

    def _call(self, message: bytes | None, afresh: bool = False) -> Any:
        """The answer to a message, or to the opening; by as many workers as it takes.

        afresh: the message begins by resetting all rows, so that no state has to be rebuilt.
        """
        deaths: list[str] = []
        while True:
            try:
                answer = None
                if self._worker is None or self._worker.dead:
                    answer = self._replaced(afresh)
                assert self._worker is not None
                if message is not None:
                    answer = self._worker.call(message, self._told)
                break
            except WorkerDied as death:
                deaths.append(str(death))
                if len(deaths) == ATTEMPTS:
                    lines = "".join(f"\n  - the worker {text}" for text in deaths)
                    raise BackendError(
                        f"back end {self._label!r} failed {ATTEMPTS} times in the same call:{lines}"
                    ) from None
            except SpikerlError as error:
                if deaths:
                    error.add_note(f"the worker before this one {deaths[-1]}")
                raise
        if deaths:
            self.restarts += len(deaths)
            told = f"the worker of back end {self._label!r} {deaths[-1]}\nIt was replaced, and what"
            self._told.append((f"{told} it was asked was done again.", WorkerWarning))
        return answer

    def _replaced(self, afresh: bool) -> Any:
        """Start a worker, open the session and bring it to the present state."""
        worker = Worker(self._python, self._timeout)
        try:
            answer = worker.call(self._opening, self._told)
            if self._journal is not None and not afresh:
                for message in self._journal.messages():
                    worker.call(message, [])
        except BaseException:
            worker.kill()
            raise
        self._worker = worker
        return answer

    def _tell(self) -> None:
        told, self._told = self._told, []
        for text, category in told:
            warnings.warn(text, category, stacklevel=4)


@dataclass(frozen=True)
class WorkerCost:
    """What a worker costs: seconds to its first decision, and per decision there and here."""

    start_s: float
    decision_s: float
    decision_here_s: float


def worker_cost(
    network: SpikingNetwork,
    backend: str = "cpu",
    *,
    sim_steps: int = 100,
    decisions: int = 2000,
    python: str | None = None,
) -> WorkerCost:
    """Measure a worker against the same back end in this process: median over the decisions.

    A decision is a reset and a run of one row with a constant drive of `sim_steps` steps.
    """
    drive = np.broadcast_to(np.full((1, 1, network.n_in), 0.25), (sim_steps, 1, network.n_in))

    def median(session: Session) -> float:
        taken = np.empty(decisions)
        for i in range(decisions):
            started = time.perf_counter()
            session.reset()
            session.run(drive)
            taken[i] = time.perf_counter() - started
        return float(np.median(taken))

    started = time.perf_counter()
    with WorkerBackend(backend, python).compile(network) as session:
        session.run(drive)
        start = time.perf_counter() - started
        there = median(session)
    with load(backend).compile(network) as session:
        session.run(drive)
        return WorkerCost(start, there, median(session))


def _target(backend: Backend) -> str:
    """Where another process finds a back end; raises BackendError if it cannot be told."""
    kind = type(backend)
    if "<locals>" in kind.__qualname__ or kind.__module__ == "__main__" or vars(backend):
        raise BackendError(
            f"the back end {backend.name!r} is an object that another process cannot make again; "
            'give its name, or "module:Class" of a class without arguments'
        )
    return f"{kind.__module__}:{kind.__qualname__}"


def _positive(value: Any) -> bool:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return bool(number and np.isfinite(value) and value > 0)
