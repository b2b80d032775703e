"""Rockpool's DynapSim, compiled once per shape, on one chip or on many at a time.

DynapSim solves the current equations of the chip's synapses and neurons step by step in jax, in
float32. Everything here starts from rest: what a chip reaches after some 100 ms without input.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spikerl.backends.rockpool_imports import importing
from spikerl.dynapse.circuit import CIRCUIT, Chip
from spikerl.dynapse.net import DynapseNet, checked_raster
from spikerl.errors import SpikerlError

Counts = NDArray[np.int64]


class Simulator:
    """Functions of weights, chips and spikes for nets of one shape; get it from simulator().

    nominal: [n] of each circuit parameter as DynapSim has it by default, amperes, farads and volts.
    """

    def __init__(self, n_in: int, n: int, dt_ms: float) -> None:
        self._module = rockpool_module(
            np.zeros((n_in, n), np.float32), np.zeros((n, n), np.float32), dt_ms
        )
        import jax

        self._names = tuple(self._module.modules())
        parameters = self._module[1].simulation_parameters()
        self.nominal = {name: np.asarray(parameters[name], np.float32) for name in CIRCUIT}
        shared = (None, None, 0, None)
        self._every_chip = jax.jit(jax.vmap(self.response, in_axes=shared))
        self._counts = jax.jit(jax.vmap(self._counted, in_axes=shared))
        self._row_by_row = jax.jit(jax.vmap(self._counted, in_axes=(None, None, 0, 1)))

    def response(self, w_in: Any, w_rec: Any, chip: Any, raster: Any) -> Any:
        """Spikes [T, B, n] of one chip (w_in, w_rec, circuit) for a raster [T, B, n_in]; jax."""
        linear, neurons = self._names
        f_in, f_rec, circuit = chip
        module = self._module.set_attributes(
            {
                linear: {"weight": w_in * f_in},
                neurons: {
                    "w_rec": w_rec * f_rec,
                    **{name: self.nominal[name] * circuit[name] for name in CIRCUIT},
                },
            }
        )
        spikes, _, _ = module(raster.swapaxes(0, 1))
        return spikes.swapaxes(0, 1)

    def _counted(self, w_in: Any, w_rec: Any, chip: Any, raster: Any) -> Any:
        if raster.ndim == 2:  # one row
            return self.response(w_in, w_rec, chip, raster[:, None]).sum(0)[0]
        return self.response(w_in, w_rec, chip, raster).sum(0)

    def every_chip(self, net: DynapseNet, chips: Any, raster: Any) -> Any:
        return self._every_chip(net.w_in, net.w_rec, chips, raster)

    def counts(self, net: DynapseNet, chips: Any, raster: Any) -> Any:
        return self._counts(net.w_in, net.w_rec, chips, raster)

    def row_by_row(self, net: DynapseNet, chips: Any, raster: Any) -> Any:
        return self._row_by_row(net.w_in, net.w_rec, chips, raster)


@lru_cache(maxsize=16)
def simulator(n_in: int, n: int, dt_ms: float) -> Simulator:
    """The simulator of this shape; made and compiled when first asked for."""
    return Simulator(n_in, n, dt_ms)


def stacked(chips: Sequence[Chip], net: DynapseNet) -> Any:
    """Chips as one tree of arrays with a leading axis; raises SpikerlError for a misfit."""
    for chip in chips:
        if chip.w_in.shape != net.w_in.shape or chip.w_rec.shape != net.w_rec.shape:
            raise SpikerlError(
                f"a chip of {chip.w_in.shape[0]} inputs and {chip.w_in.shape[1]} neurons was given "
                f"for a net of {net.n_in} and {net.n}"
            )
    if not chips:
        raise SpikerlError("at least one chip is needed")
    return (
        np.stack([chip.w_in for chip in chips]),
        np.stack([chip.w_rec for chip in chips]),
        {name: np.stack([chip.circuit[name] for chip in chips]) for name in CIRCUIT},
    )


def spikes(net: DynapseNet, raster: ArrayLike, chips: Sequence[Chip] | None = None) -> Counts:
    """Spikes of every step, [chips, T, B, n]; a strong current can give several in a step.

    raster: [T, B, n_in] input spikes.  chips: the ideal one if None.
    """
    return _simulated(net, raster, chips, "every_chip")


def counts(net: DynapseNet, raster: ArrayLike, chips: Sequence[Chip] | None = None) -> Counts:
    """Spikes in all of T steps, [chips, B, n]; arguments as for spikes()."""
    return _simulated(net, raster, chips, "counts")


def counts_by_row(net: DynapseNet, raster: ArrayLike, chips: Sequence[Chip]) -> Counts:
    """Spike counts [B, n] where every row of the raster [T, B, n_in] is on a chip of its own."""
    if len(chips) != np.shape(raster)[1]:
        raise SpikerlError(f"{np.shape(raster)[1]} rows were given and {len(chips)} chips")
    return _simulated(net, raster, chips, "row_by_row")


def _simulated(
    net: DynapseNet, raster: ArrayLike, chips: Sequence[Chip] | None, how: str
) -> Counts:
    x = checked_raster(raster, net.n_in)
    chips = [Chip.ideal(net.n_in, net.n)] if chips is None else chips
    together = stacked(chips, net)
    function = getattr(simulator(net.n_in, net.n, net.dt_ms), how)
    found = np.asarray(function(net, together, x))
    if not np.isfinite(found).all():
        raise SpikerlError("the simulation of the chip's currents left the range of float32")
    whole: Counts = np.rint(found).astype(np.int64)
    return whole


def rockpool_module(w_in: Any, w_rec: Any, dt_ms: float) -> Any:
    """The net as Rockpool has it: LinearJax, then DynapSim with its default currents."""
    with (
        importing("dynapse"),
        contextlib.redirect_stdout(io.StringIO()),
    ):  # it remarks on samna by print
        import jax
        from rockpool.devices.dynapse import DynapSim
        from rockpool.nn.combinators import Sequential
        from rockpool.nn.modules import LinearJax
    n = w_in.shape[1]
    return Sequential(
        LinearJax(w_in.shape, weight=w_in, has_bias=False),
        DynapSim(
            (n, n),
            has_rec=True,
            w_rec=w_rec,
            dt=dt_ms / 1000,
            rng_key=jax.random.PRNGKey(0),  # else it draws from numpy's global generator
        ),
    )
