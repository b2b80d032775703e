"""Sessions in workers, and what the tests of them look at."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikerl.backends.worker import WorkerBackend, WorkerSession
from spikerl.network import Dense, Recording, SpikingNetwork

NETWORK = SpikingNetwork(
    (
        Dense([[0.5, 0.25], [0.75, -0.5], [0.3, 0.1]], delay_steps=1, decay=0.9),
        Dense(np.ones((2, 3)) / 2, spiking=False),
    )
)


def drive(seed: int = 0, rows: int = 1, sim_steps: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(sim_steps, rows, 2)) + 0.5


def opened(backend: Any = "reference", network: Any = NETWORK, **options: Any) -> WorkerSession:
    session = WorkerBackend(backend).compile(network, **options)
    assert isinstance(session, WorkerSession)
    return session


def troubled(tmp_path: Path, trouble: str, **options: Any) -> WorkerSession:
    return opened("troubled:Troubled", trouble=trouble, count=tmp_path / "count", **options)


def same(got: Recording, want: Recording) -> bool:
    pairs = [*zip(got.counts, want.counts, strict=True)]
    pairs += [*zip(got.potentials, want.potentials, strict=True)]  # type: ignore[list-item]
    pairs += [*zip(got.spikes or (), want.spikes or (), strict=True)]  # type: ignore[list-item]
    return got.sim_steps == want.sim_steps and all(np.array_equal(a, b) for a, b in pairs)


def soon(condition: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Every test gives back its files and its processes."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before
    children = Path("/proc/self/task").glob("*/children")
    pids = [int(pid) for path in children for pid in path.read_text().split()]
    named = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
    assert not [name for name in named if b"worker_server" in name or not name]
