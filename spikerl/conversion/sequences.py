"""Decisions of agents that remember: rows in sequences, one decision after the other.

Imports the cpu back end through the registry and numpy. Row k of a set is the one after row k - 1,
unless it begins another episode or block of time; every sequence starts from an empty memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl import backends
from spikerl.conversion.stack import PlainStack
from spikerl.encoding import Encoder
from spikerl.network import FloatArray, Recording, SpikingNetwork

LENGTH = 25  # decisions of a sequence


@dataclass(frozen=True, eq=False)
class Sequences:
    """Rows side by side in sequences, the last one filled up with its last row.

    index:  [S, LENGTH] of rows.  starts: [S, LENGTH], true where the memory is emptied before.
    n:      rows in all.
    """

    index: NDArray[np.int64]
    starts: NDArray[np.bool_]
    n: int

    @staticmethod
    def of(groups: NDArray[np.int64]) -> Sequences:
        """groups: [B], the episode or block of time of each row."""
        n = len(groups)
        index = np.arange(-(-n // LENGTH) * LENGTH).reshape(-1, LENGTH).clip(max=n - 1)
        group = groups[index]
        starts = np.ones(index.shape, dtype=np.bool_)
        starts[:, 1:] = group[:, 1:] != group[:, :-1]
        return Sequences(index, starts, n)

    def joined(self, parts: list[NDArray[Any]]) -> NDArray[Any]:
        """One array [S, n] for each place in a sequence, as rows [B, n]."""
        return np.stack(parts, axis=1).reshape(self.index.size, -1)[: self.n]


def values_in_order(stack: PlainStack, rows: FloatArray, groups: NDArray[np.int64]) -> FloatArray:
    """What a stack gives for rows [B, n_in], remembering those before if it remembers: [B, n]."""
    if not stack.stateful:
        return stack.values(rows)
    sequences, walk = Sequences.of(groups), stack.walk()
    places = zip(sequences.index.T, sequences.starts.T, strict=True)
    return sequences.joined([walk(rows[chosen], starts) for chosen, starts in places])


def recording_in_order(
    network: SpikingNetwork,
    encoder: Encoder,
    rows: FloatArray,
    groups: NDArray[np.int64],
    sim_steps: int,
    seed: int,
) -> Recording:
    """Spike counts of a decision for every row, remembering those before, on the cpu back end."""
    sequences = Sequences.of(groups)
    rng = np.random.default_rng(seed)
    parts: list[Recording] = []
    with backends.get("cpu").compile(network, batch_size=len(sequences.index)) as session:
        for chosen, starts in zip(sequences.index.T, sequences.starts.T, strict=True):
            session.reset(starts)
            parts.append(session.run(encoder.encode(rows[chosen], sim_steps, rng)))
    counts = (
        sequences.joined([part.counts[i] for part in parts]) for i in range(len(parts[0].counts))
    )
    nothing = (None,) * len(parts[0].potentials)
    return Recording(counts=tuple(counts), potentials=nothing, sim_steps=sim_steps)
