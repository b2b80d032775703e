"""The worker's side: one back end and one session, served to the process that started this one.

Imports the standard library, numpy and spikerl's back-end registry: all that another interpreter
needs besides the simulator. Standard output is free: nothing of the protocol goes there.
"""

from __future__ import annotations

import faulthandler
import os
import platform
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

import spikerl
from spikerl import backends
from spikerl.backends import wire
from spikerl.backends.base import Backend, Session
from spikerl.backends.channel import Channel, ChannelClosed, connect
from spikerl.errors import BackendError

PARENT_S = 1.0  # between two looks at whether the parent still lives


def main(address: Any, key: str) -> None:
    """Connect, say who this is, and answer until the caller closes the session or is gone."""
    faulthandler.enable(all_threads=False)  # the others only watch
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    _end_with_parent()
    try:
        channel = connect(address, bytes.fromhex(key))
        channel.send(
            wire.encode(
                {
                    "protocol": wire.PROTOCOL,
                    "spikerl": spikerl.__version__,
                    "python": platform.python_version(),
                    "numpy": np.__version__,
                }
            )
        )
        _Server().serve(channel)
    except (ChannelClosed, TimeoutError):
        return  # nobody is there to be told


class _Server:
    """Answers the messages of one caller."""

    def __init__(self) -> None:
        self._backend: Backend | None = None
        self._session: Session | None = None
        self._told: list[list[str]] = []
        warnings.showwarning = self._note

    def serve(self, channel: Channel) -> None:
        """Answer message after message; returns when the caller has closed or is gone."""
        answers: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "describe": self._describe,
            "problems": self._problems,
            "open": self._open,
            "reset": self._reset,
            "run": self._run,
            "close": self._close,
        }
        try:
            while True:
                message = wire.decode(channel.receive())
                try:
                    reply = {"value": answers[message["op"]](message)}
                except Exception as error:
                    name = "" if self._backend is None else self._backend.name
                    reply = {"error": wire.error_data(error, name)}
                reply["warnings"], self._told = self._told, []
                channel.send(wire.encode(reply))
                if message["op"] == "close":
                    return
        finally:
            self._close({})

    def _find(self, message: Mapping[str, Any]) -> Backend:
        self._backend = load(message["backend"])
        return self._backend

    def _describe(self, message: Mapping[str, Any]) -> Any:
        found = self._find(message)
        return {"name": found.name, "capabilities": wire.capabilities_data(found.capabilities)}

    def _problems(self, message: Mapping[str, Any]) -> Any:
        return list(self._find(message).problems(wire.network_from(message["network"])))

    def _open(self, message: Mapping[str, Any]) -> Any:
        described = self._describe(message)
        session = self._find(message).compile(
            wire.network_from(message["network"]),
            batch_size=message["batch_size"],
            seed=message["seed"],
            **message["options"],
        )
        self._session = session
        described["network"] = wire.network_data(session.network)
        described["batch_size"] = session.batch_size
        return described

    def _reset(self, message: Mapping[str, Any]) -> None:
        resets, session = message["resets"], self._opened()
        if resets is not None:
            session.reset(None if isinstance(resets, str) else resets)

    def _run(self, message: Mapping[str, Any]) -> Any:
        self._reset(message)
        drive = message["drive"]  # [T, B, n_in], or [1, B, n_in] where it is constant in time
        if len(drive) != message["sim_steps"]:
            drive = np.broadcast_to(drive, (message["sim_steps"], *drive.shape[1:]))
        recording = self._opened().run(drive, record_spikes=message["record_spikes"])
        return wire.recording_data(recording)

    def _close(self, message: Mapping[str, Any]) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _opened(self) -> Session:
        if self._session is None:
            raise BackendError("the worker has no session")
        return self._session

    def _note(
        self, message: Warning | str, category: type[Warning], *where: Any, **more: Any
    ) -> None:
        names = [kind.__name__ for kind in category.__mro__]
        self._told.append([str(message), *names])


def load(target: str) -> Backend:
    """A back end by its name, or by "module:Class"; raises BackendError."""
    if ":" in target:
        with suppress(BackendError):  # names such as "pynn:nest" have colons too
            return backends.get(target)
        return backends.load(target, target)
    return backends.get(target)


def _end_with_parent() -> None:
    """End this process when the parent's end of standard input is closed, or the parent is another.

    A thread looks, and on Linux the kernel itself sends SIGIO, whose default is to terminate: that
    comes even while a simulator is busy and lets no thread of Python run. (PR_SET_PDEATHSIG would
    also strike when only the thread that started this process ends.)
    """
    parent = os.getppid()
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)

    def until_closed() -> None:
        with suppress(OSError):
            while os.read(0, 4096):
                pass
        os._exit(1)

    def until_orphaned() -> None:
        pause = threading.Event()
        while os.getppid() == parent:
            pause.wait(PARENT_S)
        os._exit(1)

    for watch in (until_closed, until_orphaned):
        threading.Thread(target=watch, daemon=True).start()
