"""Deciding with a network between host and Loihi: what the emulator and a board have in common.

Imports numpy, base, reference and network; what runs the chip is given.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.backends.base import Session
from spikerl.backends.loihi_chip import Chip, Emulator, built
from spikerl.backends.loihi_plan import Plan, Resources
from spikerl.errors import ShapeError
from spikerl.network import FloatArray, Recording, SpikingNetwork
from spikerl.reference import initial_state, simulate

Spikes = NDArray[np.bool_]


class HostPart:
    """Layers that the host computes: the reference, with a state for every row."""

    def __init__(self, layers: Any, dt_ms: float, batch_size: int) -> None:
        self.network = SpikingNetwork(layers, dt_ms)
        self.state = initial_state(self.network, batch_size)
        self._start = initial_state(self.network, batch_size)

    def run(self, drive: FloatArray) -> Recording:
        """The first rows go on with a drive [T, B, n_in]."""
        rows = drive.shape[1]
        part = initial_state(self.network, rows)
        for cell, before in zip(part, self.state, strict=True):
            cell.copy_rows(slice(None), before, slice(rows))
        recording = simulate(self.network, drive, part)
        for cell, after in zip(self.state, part, strict=True):
            cell.copy_rows(slice(rows), after, slice(None))
        return recording

    def reset(self, rows: Any) -> None:
        """Put rows back to the start."""
        for cell, start in zip(self.state, self._start, strict=True):
            cell.copy_rows(rows, start, rows)


class LoihiSession(Session):
    """A network of which the host computes the ends: the first layer and the read-out.

    plan:    what is where, in which numbers.
    entering, leaving: [batch_size, n] spikes of the last step on their way to and from the chip.
    """

    def __init__(self, backend: str, plan: Plan, batch_size: int) -> None:
        self.plan = plan
        dt_ms = plan.network.dt_ms
        self._host = HostPart(plan.host, dt_ms, batch_size) if plan.host else None
        self._readout = HostPart(plan.readout, dt_ms, batch_size) if plan.readout else None
        hidden = plan.network.spiking_layers
        self._entering = np.zeros((batch_size, hidden[0].n_out if hidden else 0), dtype=np.bool_)
        self._leaving = np.zeros((batch_size, hidden[-1].n_out if hidden else 0), dtype=np.bool_)
        super().__init__(backend, plan.network, batch_size)

    def resources(self) -> Resources:
        """What the network takes on Loihi: cores, compartments, axons, synapse bits."""
        return self.plan.resources

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        rows = drive.shape[1]
        potentials: list[FloatArray | None] = []
        spikes: list[Spikes] = []
        if self._host is not None:
            first = self._host.run(drive)
            potentials.append(first.potentials[0])
            if first.spikes:
                spikes.append(first.spikes[0])
                arriving = np.concatenate([self._entering[None, :rows], first.spikes[0][:-1]])
                self._entering[:rows] = first.spikes[0][-1]
        else:
            if not ((drive == 0) | (drive == 1)).all():
                raise ShapeError(
                    "the first layer is on the chip, which takes spikes: the drive must be 0 and "
                    "1; use a spike encoder, or first_layer='host'"
                )
            arriving = drive.astype(np.bool_)
        if self.plan.chip:
            fired, held = self._on_chip(arriving)
            spikes += fired
            potentials += held
        if self._readout is not None:
            last = spikes[-1]
            heard = np.concatenate([self._leaving[None, :rows], last[:-1]])
            self._leaving[:rows] = last[-1]
            potentials.append(self._readout.run(heard.astype(np.float64)).potentials[0])
        return Recording(
            counts=tuple(s.sum(axis=0, dtype=np.int64) for s in spikes),
            potentials=tuple(potentials),
            sim_steps=len(drive),
            spikes=tuple(spikes) if record_spikes else None,
        )

    def _reset(self, rows: Spikes | None) -> None:
        chosen: Any = slice(None) if rows is None else rows
        for part in (self._host, self._readout):
            if part is not None:
                part.reset(chosen)
        self._entering[chosen] = False
        self._leaving[chosen] = False
        if self.plan.chip:
            self._reset_chip(chosen)

    @abstractmethod
    def _on_chip(self, arriving: Spikes) -> tuple[list[Spikes], list[FloatArray | None]]:
        """Spikes [T, B, n] and last potentials [B, n] of each layer from spikes that arrive."""

    @abstractmethod
    def _reset_chip(self, rows: Any) -> None: ...


class EmulatorSession(LoihiSession):
    """Every row on one emulated chip, one after the other, each with a state of its own."""

    def __init__(self, backend: str, plan: Plan, batch_size: int) -> None:
        self._chip: Chip | None = None
        if plan.chip:
            self._chip = built(plan, plan.network.dt_ms)
            self._emulator = Emulator(self._chip)
            start = np.zeros(len(self._emulator.voltage), dtype=self._emulator.voltage.dtype)
            for layer, place in zip(plan.chip, self._chip.places, strict=True):
                start[place] = layer.numbers.start
            self._start = start
            self._voltage = np.tile(start, (batch_size, 1))
            self._resting = np.zeros(self._voltage.shape, dtype=np.int32)
            self._fired = np.zeros(self._voltage.shape, dtype=np.bool_)
            self._arriving = np.zeros((0, 0, 0), dtype=np.bool_)  # spikes of the last run
        super().__init__(backend, plan, batch_size)

    def _on_chip(self, arriving: Spikes) -> tuple[list[Spikes], list[FloatArray | None]]:
        assert self._chip is not None
        self._arriving = arriving
        steps, rows, _ = arriving.shape
        fired = np.empty((steps, rows, self._voltage.shape[1]), dtype=np.bool_)
        cells = self._emulator
        for row in range(rows):
            cells.voltage[:] = self._voltage[row]
            cells.resting[:] = self._resting[row]
            cells.fired[:] = self._fired[row]
            fired[:, row] = cells.run(arriving[:, row])
            self._voltage[row] = cells.voltage
            self._resting[row] = cells.resting
            self._fired[row] = cells.fired
        potentials: list[FloatArray | None] = []
        for layer, place in zip(self.plan.chip, self._chip.places, strict=True):
            v = self._voltage[:rows, place].astype(np.float64)
            potentials.append(v if layer.numbers.unit is None else v * layer.numbers.unit)
        return [fired[:, :, place] for place in self._chip.places], potentials

    def simulate_alone(self, steps: int) -> None:
        """Let the emulator take the last run's spikes again, up to so many steps, nothing else."""
        self._check_open()
        if self._chip is not None:
            for row in range(self._arriving.shape[1]):
                self._emulator.simulate(self._arriving[:steps, row])

    def _reset_chip(self, rows: Any) -> None:
        self._voltage[rows] = self._start
        self._resting[rows] = 0
        self._fired[rows] = False

    def _close(self) -> None:
        if self._chip is not None:
            self._emulator.close()
