"""Workers of back ends are killed at random while they decide. Imports trial and hardware."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from contextlib import suppress

import numpy as np

from spikerl import backends
from spikerl.errors import WorkerWarning
from spikerl.hardware import HardwarePolicy
from spikerl.testing.soak.trial import Trial, agent_for, observations


def trial(decisions: int, kills: int, seed: int) -> Trial:
    """The same actions as without any death, though the worker is killed again and again."""
    can = backends.capabilities("cpu")
    assert can is not None  # it needs nothing but numba
    agent = agent_for(can, seed)
    rows = observations(decisions, seed)
    with HardwarePolicy(agent, "cpu", seed=seed) as policy:
        wanted = [int(policy.predict(row)[0]) for row in rows]
    rng = np.random.default_rng([seed, 2])
    moments = set(rng.choice(decisions, min(kills, decisions), replace=False).tolist())
    found = []
    with (
        warnings.catch_warnings(record=True) as caught,
        HardwarePolicy(agent, "cpu", seed=seed, isolation="process") as policy,
    ):
        warnings.simplefilter("always", WorkerWarning)
        for i, row in enumerate(rows):
            timer = None
            if i in moments:  # in the middle of a decision, before it or after it
                delay = float(rng.uniform(0, 0.002))
                timer = threading.Timer(delay, _kill, [policy._session.worker_pid])  # type: ignore[attr-defined]
                timer.start()
            found.append(int(policy.predict(row)[0]))
            if timer is not None:
                timer.join()
    deaths = sum(issubclass(entry.category, WorkerWarning) for entry in caught)
    different = sum(a != b for a, b in zip(wanted, found, strict=True))
    wrong = f"{different} decisions differ" if different else ""
    if not deaths and not wrong:
        wrong = "no worker died, so nothing was tried"
    return Trial("workers killed", decisions, note=f"{deaths} workers replaced", wrong=wrong)


def _kill(pid: int | None) -> None:
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
