"""The "genn" back end: PyGeNN 5, code generated and compiled for a network's shape, in float64.

genn_plan.py says how GeNN's neurons keep the contract, genn_model.py how they are compiled. The
currents of the first layer are computed by the host; everything after it is GeNN's.
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
from spikerl.backends.genn_model import DEVICES, Model
from spikerl.backends.genn_plan import MAX_DELAY, planned
from spikerl.errors import BackendError
from spikerl.layers import Dense, Flatten
from spikerl.network import FloatArray, Recording, SpikingNetwork

KEPT = ("V", "kept", "flight", "resting")  # what a row takes with it from one run to the next


class GennBackend:
    """PyGeNN in this process, on one core or on a CUDA device.

    device: "cpu", where rows are simulated one after the other, or "cuda", where all at once. May
            also be given to compile().
    """

    name = "genn"
    capabilities = Capabilities(max_delay_steps=MAX_DELAY, batching="loop")

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

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
        """A session of its own in this process, without randomness.

        Calls make and a C++ compiler, unless a network of this shape was compiled before.
        options: device, as for the class.
        Raises BackendError for a device that PyGeNN was not built for, or where nothing can be
        compiled.
        """
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options, ("device",))
        device = options.get("device", self.device)
        if device not in DEVICES:
            raise BackendError(f"device is {device!r}, wanted one of {', '.join(DEVICES)}")
        return self_tested(GennSession(network, batch_size, device), self.capabilities)


class GennSession(Session):
    """A network in a GeNN model, and what every row keeps from one run to the next.

    A single row on the CPU is kept in GeNN's own memory; others are put there for their run.
    """

    def __init__(self, network: SpikingNetwork, batch_size: int, device: str) -> None:
        plan = planned(network)
        self._first = plan.first
        self._extra = plan.extra_steps
        self._model = model = Model(plan, device, 1 if device == "cpu" else batch_size)
        self._block = 1 if device == "cpu" else batch_size
        self._rows: list[tuple[NDArray[Any], NDArray[Any]]] = []  # start [n], now [batch_size, n]
        self._moved: list[tuple[int, str, NDArray[Any], NDArray[Any]]] = []  # ... and the view
        self._v: list[FloatArray] = []
        for k, (values, views) in enumerate(zip(plan.values, model.view, strict=True)):
            for name in (name for name in KEPT if name in views):
                row = views[name]
                if device != "cpu" or batch_size > 1:
                    row = np.tile(values[name], (batch_size, 1))
                    self._moved.append((k, name, row, views[name]))
                self._rows.append((values[name], row))
                if name == "V":
                    self._v.append(row)
        self._fired = [(k, v["fired"]) for k, v in enumerate(model.view) if "fired" in v]
        self._counts = [(k, v["count"]) for k, v in enumerate(model.view) if "count" in v]
        self._current = model.view[0]["current"]
        super().__init__(GennBackend.name, network, batch_size)

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        steps, rows, _ = drive.shape
        constant = drive.strides[0] == 0
        currents = self._currents(drive[0])[None] if constant else self._all_currents(drive)
        counts = []
        spikes = None
        if record_spikes:
            spikes = [np.empty((steps, rows, view.shape[1]), np.bool_) for _, view in self._fired]
        for first in range(0, rows, self._block):
            last = min(first + self._block, rows)
            self._write(first, last)
            try:
                self._simulate(currents[:, first:last], steps, spikes, slice(first, last))
            except BaseException:  # interrupted: what is on the synapses must not reach anyone
                self._model.stand_still()
                raise
            counts.append(self._read(first, last))
        return Recording(
            tuple(
                counts[0] if len(counts) == 1 else map(np.concatenate, zip(*counts, strict=True))
            ),
            tuple([v[:rows].copy() for v in self._v]),
            steps,
            None if spikes is None else tuple(spikes),
        )

    def _write(self, first: int, last: int) -> None:
        """Put rows into the model, with nothing counted yet."""
        for k, name, row, view in self._moved:
            view[: last - first] = row[first:last]
            self._model.push(k, name)
        for k, view in self._counts:
            view.fill(0)
            self._model.push(k, "count")

    def _read(self, first: int, last: int) -> list[NDArray[np.int64]]:
        """Take rows out of the model; returns their spike counts, [rows, n] per layer."""
        for k, name, row, view in self._moved:
            self._model.pull(k, name)
            row[first:last] = view[: last - first]
        for k, _ in self._counts:
            self._model.pull(k, "count")
        return [view[: last - first].astype(np.int64) for _, view in self._counts]

    def _simulate(
        self,
        currents: FloatArray,
        steps: int,
        spikes: list[NDArray[np.bool_]] | None,
        rows: slice,
    ) -> None:
        model, here = self._model, self._current[: currents.shape[1]]
        model.begin(steps)
        here[...] = currents[0]
        model.push(0, "current")
        if spikes is None and len(currents) == 1:
            model.take(steps + self._extra)
            return
        for t in range(steps + self._extra):
            if 0 < t < len(currents):
                here[...] = currents[t]
                model.push(0, "current")
            model.take(1)
            if spikes is None:
                continue
            for found, (k, view) in zip(spikes, self._fired, strict=True):
                if 0 <= t - k < steps:  # layer k is k steps late
                    model.pull(k, "fired")
                    found[t - k, rows] = view[: len(here)]

    def simulate_alone(self, steps: int) -> None:
        """Let GeNN take the steps of a decision of all rows and nothing else."""
        self._check_open()
        for _ in range(0, self.batch_size, self._block):
            self._model.begin(steps)
            self._model.take(steps + self._extra)

    def _currents(self, x: FloatArray) -> FloatArray:
        """W x + b of the first layer of neurons for rows x [B, n_in]: [B, n]."""
        for layer in self._first:
            x = layer.apply(x)
        return x

    def _all_currents(self, drive: FloatArray) -> FloatArray:
        """The same for every step of the drive: [T, B, n]."""
        if not all(isinstance(layer, (Dense, Flatten)) for layer in self._first):
            # unfolding the maps of all steps at once would take more memory than the network
            return np.stack([self._currents(x) for x in drive])
        return self._currents(drive.reshape(-1, drive.shape[2])).reshape(*drive.shape[:2], -1)

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        chosen: Any = slice(None) if rows is None else rows
        for start, now in self._rows:
            now[chosen] = start

    def _close(self) -> None:
        # every view into GeNN's memory, before that is freed
        self._rows, self._moved, self._v, self._fired, self._counts = [], [], [], [], []
        del self._current
        self._model.close()
