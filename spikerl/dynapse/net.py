"""DynapseNet: the weights of a recurrent net for one core of a Dynap-SE2. Numpy only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.dynapse.circuit import NEURONS, SYNAPSES
from spikerl.errors import NetworkError, SpikerlError
from spikerl.network import FloatArray


@dataclass(frozen=True, eq=False)
class DynapseNet:
    """Inputs onto neurons that may all reach each other; neuron i votes for class i % n_classes.

    w_in:      [n_in, n] from input to neuron, in units of the scaling current (10 nA).
    w_rec:     [n, n] from neuron (row) to neuron (column).
    n_classes: classes or actions; n is a multiple of it.
    dt_ms:     step of the simulation in milliseconds.

    A negative weight is an inhibitory synapse. In DynapSim it takes away from what arrives in the
    same step and nothing else: a synaptic current does not go below the dark current.
    Raises NetworkError with everything that does not fit a core.
    """

    w_in: Any
    w_rec: Any
    n_classes: int
    dt_ms: float = 1.0

    def __post_init__(self) -> None:
        for name in ("w_in", "w_rec"):
            array = np.array(getattr(self, name), dtype=np.float32)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        problems = self._problems()
        if problems:
            raise NetworkError(problems)

    def _problems(self) -> list[str]:
        if self.w_in.ndim != 2 or 0 in self.w_in.shape:
            return [f"w_in must be [n_in, n] with both > 0, found shape {self.w_in.shape}"]
        n = self.n
        if self.w_rec.shape != (n, n):
            return [f"w_rec has shape {self.w_rec.shape}, wanted {(n, n)}"]
        found = []
        if not (np.isfinite(self.w_in).all() and np.isfinite(self.w_rec).all()):
            found.append("weights must be finite")
        if n > NEURONS:
            found.append(f"{n} neurons, at most {NEURONS} fit on a core")
        most = int(((self.w_in != 0).sum(0) + (self.w_rec != 0).sum(0)).max())
        if most > SYNAPSES:
            found.append(f"a neuron has {most} synapses (inputs and recurrent), room is {SYNAPSES}")
        if not isinstance(self.n_classes, int) or self.n_classes < 2 or n % self.n_classes:
            found.append(f"n_classes must be >= 2 and divide {n} neurons, found {self.n_classes!r}")
        if not (np.isfinite(self.dt_ms) and self.dt_ms > 0):
            found.append(f"dt_ms must be finite and > 0, found {self.dt_ms!r}")
        return found

    @staticmethod
    def random(
        n_in: int, n: int, n_classes: int, *, seed: int, recurrent: bool = True, dt_ms: float = 1.0
    ) -> DynapseNet:
        """A net to train: weights uniform within sqrt(6 / n_in) and 1 / sqrt(n)."""
        rng = np.random.default_rng(seed)
        w_in = rng.uniform(-1.0, 1.0, (n_in, n)) * np.sqrt(6.0 / n_in)
        w_rec = rng.uniform(-1.0, 1.0, (n, n)) / np.sqrt(n)
        return DynapseNet(w_in, w_rec * recurrent, n_classes, dt_ms)

    @property
    def n_in(self) -> int:
        """Input channels."""
        return int(self.w_in.shape[0])

    @property
    def n(self) -> int:
        """Neurons."""
        return int(self.w_in.shape[1])

    def votes(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Spikes of all neurons of each class: counts [..., n] -> [..., n_classes]."""
        grouped = counts.reshape(*counts.shape[:-1], -1, self.n_classes)
        summed: NDArray[np.int64] = grouped.sum(axis=-2)
        return summed

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the net to an .npz file of plain arrays."""
        with open(path, "wb") as file:
            np.savez(
                file, w_in=self.w_in, w_rec=self.w_rec, n_classes=self.n_classes, dt_ms=self.dt_ms
            )

    @staticmethod
    def load(path: str | os.PathLike[str]) -> DynapseNet:
        """The net of a file that save() wrote; nothing in it is executed."""
        try:
            with np.load(path, allow_pickle=False) as file:
                parts = {name: file[name] for name in ("w_in", "w_rec", "n_classes", "dt_ms")}
        except (ValueError, KeyError, OSError) as error:
            raise SpikerlError(f"{os.fspath(path)!r} holds no DynapseNet: {error}") from error
        return DynapseNet(
            parts["w_in"], parts["w_rec"], int(parts["n_classes"]), float(parts["dt_ms"])
        )


def checked_raster(raster: Any, n_in: int) -> FloatArray:
    """Input spikes as float32 [T, B, n_in]; raises SpikerlError saying what was found."""
    array = np.asarray(raster)
    if array.ndim != 3 or array.shape[2] != n_in or 0 in array.shape:
        raise SpikerlError(f"the raster has shape {array.shape}, wanted [T, B, {n_in}]")
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all() or (array < 0).any():
        raise SpikerlError("the raster must hold numbers of spikes: finite and not negative")
    return array.astype(np.float32)
