"""The reference as a back end: the template to start a new one from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.backends.base import (
    Capabilities,
    Session,
    capability_problems,
    refuse_options,
    require_runnable,
)
from spikerl.network import FloatArray, Recording, SpikingNetwork
from spikerl.reference import initial_state, simulate


class ReferenceBackend:
    """The arbiter itself, in float64 numpy; slow, and right by definition."""

    name = "reference"
    capabilities = Capabilities(current=True, adaptation=True)

    def problems(self, network: SpikingNetwork) -> list[str]:
        """Every reason this network cannot run here; empty if it can."""
        return capability_problems(self.capabilities, network)

    def compile(
        self,
        network: SpikingNetwork,
        *,
        batch_size: int = 1,
        seed: int | None = None,
        **options: Any,
    ) -> Session:
        """A session on the reference; it has no options and no randomness."""
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options)
        return ReferenceSession(network, batch_size)


class ReferenceSession(Session):
    """A network in the reference, with its state."""

    def __init__(self, network: SpikingNetwork, batch_size: int) -> None:
        self._state = initial_state(network, batch_size)
        self._start = initial_state(network, batch_size)
        super().__init__(ReferenceBackend.name, network, batch_size)

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        rows = drive.shape[1]
        part = initial_state(self.network, rows)
        for cell, before in zip(part, self._state, strict=True):
            cell.copy_rows(slice(None), before, slice(rows))
        recording = simulate(self.network, drive, part)
        for cell, after in zip(self._state, part, strict=True):
            cell.copy_rows(slice(rows), after, slice(None))
        if record_spikes:
            return recording
        return Recording(recording.counts, recording.potentials, recording.sim_steps)

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        chosen = slice(None) if rows is None else rows
        for cell, start in zip(self._state, self._start, strict=True):
            cell.copy_rows(chosen, start, chosen)

    def _close(self) -> None:
        self._state = []
