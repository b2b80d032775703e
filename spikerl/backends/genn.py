"""The "genn" back end: PyGeNN 5, code generated and compiled for a network's shape, in float64.

genn_plan.py says how GeNN's neurons keep the contract, genn_model.py how they are compiled. The
currents of the first layer are computed by the host; everything after it is GeNN's.
"""

from __future__ import annotations

from itertools import repeat
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
    """A network in a GeNN model, and the state of every row here."""

    def __init__(self, network: SpikingNetwork, batch_size: int, device: str) -> None:
        plan = planned(network)
        self._block = 1 if device == "cpu" else batch_size
        self._first = plan.first
        self._extra = plan.extra_steps
        self._model = model = Model(plan, device, self._block)
        self._start: list[NDArray[Any]] = []
        self._state: list[NDArray[Any]] = []
        self._v: list[FloatArray] = []
        self._mine: list[tuple[int, str, NDArray[Any], NDArray[Any]]] = []
        for k, (values, views) in enumerate(zip(plan.values, model.view, strict=True)):
            for name in KEPT:
                if name in views:
                    state = np.tile(values[name], (batch_size, 1))
                    self._start.append(values[name])
                    self._state.append(state)
                    self._mine.append((k, name, state, views[name]))
                    if name == "V":
                        self._v.append(state)
        self._fired = [(k, v["fired"]) for k, v in enumerate(model.view) if "fired" in v]
        self._counts = [(k, v["count"]) for k, v in enumerate(model.view) if "count" in v]
        self._current = model.view[0]["current"]
        self._whole = True
        super().__init__(GennBackend.name, network, batch_size)

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        steps, rows, _ = drive.shape
        constant = drive.strides[0] == 0
        currents = self._currents(drive[:1] if constant else drive)
        counts = [np.empty((rows, view.shape[1]), np.int64) for _, view in self._counts]
        spikes = None
        if record_spikes:
            spikes = [np.empty((steps, rows, view.shape[1]), np.bool_) for _, view in self._fired]
        for first in range(0, rows, self._block):
            last = min(first + self._block, rows)
            self._write(first, last)
            self._simulate(currents[:, first:last], steps, spikes, slice(first, last))
            self._read(first, last, counts)
        return Recording(
            counts=tuple(counts),
            potentials=tuple([v[:rows].copy() for v in self._v]),
            sim_steps=steps,
            spikes=None if spikes is None else tuple(spikes),
        )

    def _write(self, first: int, last: int) -> None:
        """Put rows into the model, with nothing counted yet."""
        model = self._model
        if not self._whole:  # the run before was interrupted
            model.stand_still()
        self._whole = False
        for k, name, state, view in self._mine:
            view[: last - first] = state[first:last]
            model.push(k, name)
        for k, view in self._counts:
            view.fill(0)
            model.push(k, "count")

    def _read(self, first: int, last: int, counts: list[NDArray[np.int64]]) -> None:
        """Take rows out of the model."""
        for k, name, state, view in self._mine:
            self._model.pull(k, name)
            state[first:last] = view[: last - first]
        for found, (k, view) in zip(counts, self._counts, strict=True):
            self._model.pull(k, "count")
            found[first:last] = view[: last - first]
        self._whole = True

    def _simulate(
        self,
        currents: FloatArray,
        steps: int,
        spikes: list[NDArray[np.bool_]] | None,
        rows: slice,
    ) -> None:
        model, step, here = self._model, self._model.step, self._current[: currents.shape[1]]
        model.begin(steps)
        here[...] = currents[0]
        model.push(0, "current")
        if spikes is None and len(currents) == 1:
            for _ in repeat(None, steps + self._extra):
                step()
            return
        for t in range(steps + self._extra):
            if 0 < t < len(currents):
                here[...] = currents[t]
                model.push(0, "current")
            step()
            if spikes is None:
                continue
            for found, (k, view) in zip(spikes, self._fired, strict=True):
                if 0 <= t - k < steps:  # layer k is k steps late
                    model.pull(k, "fired")
                    found[t - k, rows] = view[: here.shape[0]]

    def simulate_alone(self, steps: int) -> None:
        """Let GeNN take the steps of a decision and nothing else: none can be faster."""
        self._check_open()
        self._model.begin(steps)
        for _ in repeat(None, steps + self._extra):
            self._model.step()

    def _currents(self, drive: FloatArray) -> FloatArray:
        """W x + b of the first layer of neurons for every step of the drive: [T, B, n]."""
        steps, rows, n_in = drive.shape
        if steps > 1 and not all(isinstance(layer, (Dense, Flatten)) for layer in self._first):
            # unfolding the maps of all steps at once would take more memory than the network
            return np.concatenate([self._currents(drive[t : t + 1]) for t in range(steps)])
        x = drive.reshape(steps * rows, n_in)
        for layer in self._first:
            x = layer.apply(x)
        return x.reshape(steps, rows, -1)

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        chosen: Any = slice(None) if rows is None else rows
        for state, start in zip(self._state, self._start, strict=True):
            state[chosen] = start

    def _close(self) -> None:
        self._mine, self._fired, self._counts = [], [], []
        self._model.close()
