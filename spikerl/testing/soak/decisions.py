"""Decisions without end: memory and time of the first ones and the last. Imports trial, process."""

from __future__ import annotations

import gc
import json
import time
from statistics import median
from typing import Any

from spikerl import backends
from spikerl.errors import UnsupportedNetwork
from spikerl.hardware import HardwarePolicy
from spikerl.process import resident_bytes
from spikerl.testing.soak.trial import Trial, agent_for, answer, observations

ALLOWED = 2**22  # bytes that may be added; allocators round, and a leak of 100 bytes adds 10 MB
DIFFERENT = 64  # observations, which come again and again


def trial(name: str, decisions: int, seed: int) -> Trial:
    """Decide in a fresh process; the first tenth and the last tenth are measured."""
    line = f"decided({name!r}, {decisions}, {seed})"
    code = f"from spikerl.testing.soak.decisions import *; print(json.dumps({line}))"
    found: dict[str, Any] = json.loads(answer(code))
    if "refused" in found:
        return Trial(f"decisions on {name}", 0, note=found["refused"])
    start, end = found["start"], found["end"]
    grown = end["MiB"] - start["MiB"]
    wrong = found["wrong"]
    if grown * 2**20 > ALLOWED:
        wrong = f"{grown:.1f} MiB were added; {wrong}".rstrip("; ")
    return Trial(f"decisions on {name}", decisions, start, end, wrong=wrong)


def decided(name: str, decisions: int, seed: int) -> dict[str, Any]:
    """Memory and time per decision at the start and the end, and whether actions repeat."""
    can = backends.capabilities(name)
    assert can is not None  # it is usable here
    agent = agent_for(can, seed)
    rows = observations(DIFFERENT, seed)
    try:
        policy = HardwarePolicy(agent, name, seed=seed)
    except UnsupportedNetwork as error:
        return {"refused": "; ".join(error.problems)}
    stretch = max(1, decisions // 10)  # long: what else a machine does must not be all of it
    with policy:
        seconds: list[float] = []
        wanted: list[int] = []

        def decide(times: int) -> str:
            del seconds[:]
            for i in range(times):
                begin = time.perf_counter()
                action, _ = policy.predict(rows[i % DIFFERENT])
                seconds.append(time.perf_counter() - begin)
                if len(wanted) < DIFFERENT:
                    wanted.append(int(action))
                elif int(action) != wanted[i % DIFFERENT] and can.exactness != "unverified":
                    return f"decision {i} of a stretch was {action}, before {wanted[i % DIFFERENT]}"
            return ""

        def figures() -> dict[str, float]:
            gc.collect()
            return {"MiB": resident_bytes() / 2**20, "us": 1e6 * median(seconds)}

        wrong = decide(max(DIFFERENT, min(1_000, stretch)))  # compiles, fills what is filled once
        wrong = wrong or decide(stretch)
        start = figures()
        left = decisions - stretch
        while left > 0 and not wrong:
            wrong = decide(min(stretch, left))
            left -= stretch
        return {"start": start, "end": figures(), "wrong": wrong}
