"""Saved agents: a disk that fills up while one is saved, and damaged files. Imports trial."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spikerl import backends
from spikerl.agent import SpikingAgent
from spikerl.errors import FileFormatError
from spikerl.testing.soak.trial import Trial, agent_for, answer

LIMIT = """
import resource, sys
from spikerl.errors import SpikerlError
def limited(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
"""


def full_disk(folder: Path, count: int, seed: int) -> Trial:
    """Save over a file where the disk has room for a part only: the old agent is still there."""
    path = folder / "old.spk"
    _agent(seed).save(path)
    _agent(seed + 1).save(folder / "new.spk")
    before = path.read_bytes()
    rng = np.random.default_rng([seed, 3])
    sizes = rng.integers(0, (folder / "new.spk").stat().st_size, count).tolist()
    code = LIMIT + (
        "from spikerl import SpikingAgent\n"
        f"new = SpikingAgent.load({str(folder / 'new.spk')!r})\n"
        "told = 0\n"
        f"for size in {sizes}:\n"
        "    limited(size)\n"
        "    try:\n"
        f"        new.save({str(path)!r})\n"
        "    except SpikerlError as error:\n"
        "        told += 'cannot be written' in str(error)\n"
        "print(told)\n"
    )
    told = int(answer(code))
    litter = sorted(entry.name for entry in folder.glob(".*.tmp"))
    wrong = [f"{count - told} saves told of no full disk"] if told != count else []
    wrong += ["the old file is gone or another"] if path.read_bytes() != before else []
    wrong += [f"{litter[0]} was left behind"] if litter else []
    return Trial("disk full, agent", count, note=f"{told} refused", wrong="; ".join(wrong))


def damaged(folder: Path, count: int, seed: int) -> Trial:
    """Load files with turned bits, cut off or with more behind: refused, or the same agent."""
    path = folder / "agent.spk"
    agent = _agent(seed)
    agent.save(path)
    wanted, whole = agent.network.fingerprint(), path.read_bytes()
    refused, wrong = 0, ""
    for data in damages(whole, count, np.random.default_rng([seed, 4])):
        path.write_bytes(data)
        try:
            found = SpikingAgent.load(path).network.fingerprint()
        except FileFormatError:
            refused += 1
        else:
            if found != wanted:
                wrong = "a damaged file was loaded as another agent"
    return Trial("damaged agents", count, note=f"{refused} refused", wrong=wrong)


def damages(whole: bytes, count: int, rng: np.random.Generator) -> Iterator[bytes]:
    """A file that suffered in one of four ways, again and again."""
    for _ in range(count):
        data = bytearray(whole)
        at = int(rng.integers(len(data)))
        match int(rng.integers(4)):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                del data[at:]
            case 2:
                data += rng.bytes(int(rng.integers(1, 100)))
            case 3:
                end = min(len(data), at + int(rng.integers(1, 5_000)))
                data[at:end] = rng.bytes(end - at)
        yield bytes(data)


def _agent(seed: int) -> SpikingAgent:
    can = backends.capabilities("cpu")
    assert can is not None  # it needs nothing but numba
    return agent_for(can, seed)
