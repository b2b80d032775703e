"""Decisions of a network under conversion, on the cpu back end. Imports the registry and numpy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from spikerl import backends
from spikerl.encoding import Encoder
from spikerl.network import FloatArray, Recording, SpikingNetwork

BATCH = 250


def recordings(
    network: SpikingNetwork,
    encoder: Encoder,
    rows: FloatArray,
    sim_steps: int,
    seed: int,
    record_spikes: bool = False,
) -> Recording:
    """One decision of sim_steps for every row, on the cpu back end."""
    parts = []
    rng = np.random.default_rng(seed)
    with backends.get("cpu").compile(network, batch_size=min(BATCH, len(rows))) as session:
        for start in range(0, len(rows), BATCH):
            session.reset()
            drive = encoder.encode(rows[start : start + BATCH], sim_steps, rng)
            parts.append(session.run(drive, record_spikes=record_spikes))
    return Recording.joined(parts)


def rates_by_steps(
    network: SpikingNetwork,
    layer: int,
    encoder: Encoder,
    rows: FloatArray,
    steps: list[int],
    seed: int,
) -> Iterator[FloatArray]:
    """Spikes per step [B, n] of one spiking layer after each of the growing numbers of steps.

    One simulation that goes on from one number to the next, so all of them cost what the last does.
    """
    rng = np.random.default_rng(seed)
    counts = np.zeros((len(rows), network.spiking_layers[layer].n_out), dtype=np.int64)
    starts = range(0, len(rows), BATCH)
    sessions = [
        backends.get("cpu").compile(network, batch_size=min(BATCH, len(rows) - s)) for s in starts
    ]
    try:
        done = 0
        for total in steps:
            for start, session in zip(starts, sessions, strict=True):
                part = slice(start, start + BATCH)
                drive = encoder.encode(rows[part], total - done, rng)
                counts[part] += session.run(drive).counts[layer]
            done = total
            yield counts / total
    finally:
        for session in sessions:
            session.close()
