"""Back ends that crash, hang, print and warn; importable, so that a worker can make them again."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.backends.base import Capabilities, Session
from spikerl.backends.reference import ReferenceBackend, ReferenceSession
from spikerl.errors import BackendError, ConversionWarning
from spikerl.network import FloatArray, Recording, SpikingNetwork


def crash() -> None:
    ctypes.string_at(0)


def hang() -> None:
    time.sleep(600)


def hang_with_the_interpreter() -> None:
    """As a simulator's C code does that never lets another thread run."""
    ctypes.PyDLL(None).sleep(600)


def leave() -> None:
    print("no licence any more", flush=True)
    os._exit(3)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave_a_child_that_holds_the_connection() -> None:
    if os.fork() == 0:
        print(f"child {os.getpid()}", flush=True)
        time.sleep(600)
    os._exit(4)


TROUBLES = {
    function.__name__: function
    for function in (
        *(crash, hang, hang_with_the_interpreter, leave, kill),
        leave_a_child_that_holds_the_connection,
    )
}


class Troubled(ReferenceBackend):
    """The reference, until it is in trouble.

    trouble: what happens; when: in "compile" or in the run of this number, from 1.
    times:   how often in all; the file `count` remembers, over the deaths of the process.
    """

    name = "troubled"

    def compile(self, network: SpikingNetwork, **options: Any) -> Session:
        trouble, when = options.pop("trouble"), options.pop("when", 1)
        times, count = options.pop("times", 1), Path(options.pop("count"))

        def strike() -> None:
            so_far = len(count.read_bytes()) if count.exists() else 0
            if so_far < times:
                count.write_bytes(b"x" * (so_far + 1))
                TROUBLES[trouble]()

        if when == "compile":
            strike()
        return TroubledSession(network, options["batch_size"], strike, when)


class TroubledSession(ReferenceSession):
    def __init__(self, network: SpikingNetwork, batch_size: int, strike: Any, when: Any) -> None:
        super().__init__(network, batch_size)
        self._strike, self._left = strike, when

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        if isinstance(self._left, int):
            self._left -= 1
            if self._left == 0:
                self._strike()
        return super()._run(drive, record_spikes)


class Talking(ReferenceBackend):
    """Prints where it can and warns."""

    name = "talking"

    def compile(self, network: SpikingNetwork, **options: Any) -> Session:
        print("to standard output")
        os.write(1, b"to file 1\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        return TalkingSession(network, options["batch_size"])


class TalkingSession(ReferenceSession):
    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        print("x" * 5000)
        warnings.warn("close to the limit", ConversionWarning, stacklevel=1)
        return super()._run(drive, record_spikes)


class Refusing(ReferenceBackend):
    """Declares little and raises all sorts of things."""

    name = "refusing"
    capabilities = Capabilities(
        resets=frozenset({"zero"}), max_delay_steps=1, partial_reset=False, max_sessions=1
    )

    def problems(self, network: SpikingNetwork) -> list[str]:
        found = super().problems(network)
        return [*found, "the moon is full"] if network.dt_ms == 13.0 else found

    def compile(self, network: SpikingNetwork, **options: Any) -> Session:
        raised = options.pop("raised", None)
        session = super().compile(network, **options)
        session.close()
        return RefusingSession(network, options["batch_size"], raised)


class RefusingSession(ReferenceSession):
    def __init__(self, network: SpikingNetwork, batch_size: int, raised: str | None) -> None:
        super().__init__(network, batch_size)
        self._raised = raised

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        if self._raised == "spikerl":
            raise BackendError("the board does not answer; switch it on")
        if self._raised == "other":
            raise ZeroDivisionError("a simulator divided by zero")
        return super()._run(drive, record_spikes)

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        if rows is not None:
            raise BackendError("rows cannot be reset alone here")
        super()._reset(rows)


class Random(ReferenceBackend):
    """Adds noise of its seed to the drive."""

    name = "random"

    def compile(self, network: SpikingNetwork, **options: Any) -> Session:
        return RandomSession(network, options["batch_size"], options["seed"])


class RandomSession(ReferenceSession):
    def __init__(self, network: SpikingNetwork, batch_size: int, seed: Any) -> None:
        super().__init__(network, batch_size)
        self._rng = np.random.default_rng(seed)

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        return super()._run(drive + self._rng.normal(size=drive.shape), record_spikes)


class Options(ReferenceBackend):
    """Says which options came."""

    name = "options"

    def compile(self, network: SpikingNetwork, **options: Any) -> Session:
        raise BackendError(repr({k: v for k, v in sorted(options.items())}))
