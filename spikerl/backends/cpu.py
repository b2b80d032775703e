"""The "cpu" back end: the contract compiled for one processor core, event by event, in float64.

What it spends depends on the spikes: a neuron that is silent costs its update, not its weights. A
drive that is constant in time (stride 0 along T) is multiplied with the weights once per run.
"""

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
    self_tested,
)
from spikerl.backends.cpu_blocks import NARROW
from spikerl.backends.cpu_engine import Engine
from spikerl.backends.cpu_plan import Plan
from spikerl.errors import BackendError
from spikerl.network import Dense, Flatten, FloatArray, Recording, SpikingNetwork


class CpuBackend:
    """The default back end: every feature of the contract, spike for spike the reference."""

    name = "cpu"
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
        """A session in this process, without randomness.

        precision: "float64", or "float32" for weights and the sums of one step in float32 with
                   potentials in float64: faster in wide layers, and exact where the weights are
                   multiples of 2^-k whose sums fit into 24 bits. The session's network has the
                   rounded weights.
        Raises BackendError for another precision or another option.
        """
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options, ("precision",))
        precision = options.get("precision", "float64")
        if precision not in ("float64", "float32"):
            raise BackendError(
                f"back end 'cpu' has no precision {precision!r}, only 'float64' and 'float32'"
            )
        session = CpuSession(network, batch_size, NARROW if precision == "float32" else None)
        return self_tested(session, self.capabilities)


class CpuSession(Session):
    """A network laid out for the kernel, with its state."""

    def __init__(self, network: SpikingNetwork, batch_size: int, precision: int | None) -> None:
        plan = Plan(network, precision)
        self._first = plan.first
        self._engine = Engine(plan, batch_size)
        super().__init__(CpuBackend.name, plan.effective, batch_size)

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        steps, rows, _ = drive.shape
        constant = drive.strides[0] == 0
        currents = self._currents(drive[:1] if constant else drive)
        spikes = None
        if record_spikes:
            spikes = np.empty(steps * rows * self._engine.neurons, dtype=np.uint8)
        counts = self._engine.run(currents, steps, spikes)
        return Recording(
            counts,
            self._engine.potentials(rows),
            steps,
            None if spikes is None else self._split(spikes, steps, rows),
        )

    def _currents(self, drive: FloatArray) -> FloatArray:
        """W x + b of the first layer of neurons for every step of the drive, [T, B, n]."""
        steps, rows, n_in = drive.shape
        if steps > 1 and not all(isinstance(layer, (Dense, Flatten)) for layer in self._first):
            # unfolding the maps of all steps at once would take more memory than the network
            return np.concatenate([self._currents(drive[t : t + 1]) for t in range(steps)])
        x = drive.reshape(steps * rows, n_in)
        for layer in self._first:
            x = layer.apply(x)
        return np.ascontiguousarray(x).reshape(steps, rows, -1)

    def _split(
        self, spikes: NDArray[np.uint8], steps: int, rows: int
    ) -> tuple[NDArray[np.bool_], ...]:
        parts, at = [], 0
        for layer in self.network.spiking_layers:
            size = steps * rows * layer.n_out
            part = spikes[at : at + size].view(np.bool_)
            parts.append(part.reshape(steps, rows, layer.n_out))
            at += size
        return tuple(parts)

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        self._engine.reset(slice(None) if rows is None else rows)

    def _close(self) -> None:
        del self._engine
