"""The arbiter: the neuron contract of network.py in float64 numpy, one visible loop, no options.

Imports numpy, network and errors. Short and never optimised: every back end is tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spikerl.errors import ShapeError
from spikerl.network import FloatArray, NeuronLayer, Recording, SpikingNetwork


@dataclass
class LayerState:
    """What one layer of neurons remembers between steps.

    v:       [B, n] potentials.
    sent:    [D, B, n] spikes of the last D = max(1, delay_steps) steps, oldest first.
    resting: [B, n] refractory steps left.
    current: [B, n] synaptic currents.
    lift:    [B, n] what spikes have left behind for the threshold, in units of adaptation.
    """

    v: FloatArray
    sent: FloatArray
    resting: NDArray[np.int64]
    current: FloatArray
    lift: FloatArray

    def copy_rows(self, rows: Any, source: LayerState, chosen: Any) -> None:
        """Take over the chosen rows of another state as these rows."""
        self.sent[:, rows] = source.sent[:, chosen]
        for name in ("v", "resting", "current", "lift"):
            getattr(self, name)[rows] = getattr(source, name)[chosen]


def initial_state(network: SpikingNetwork, batch_size: int) -> list[LayerState]:
    """The state before the first step: v at v_init, nothing in flight, nobody refractory."""
    return [_initial(layer, batch_size) for layer in network.neuron_layers]


def _initial(layer: NeuronLayer, batch_size: int) -> LayerState:
    shape = (batch_size, layer.n_out)
    return LayerState(
        v=np.broadcast_to(layer.v_init, shape).copy(),
        sent=np.zeros((max(1, layer.delay_steps), *shape)),
        resting=np.zeros(shape, dtype=np.int64),
        current=np.zeros(shape),
        lift=np.zeros(shape),
    )


def simulate(
    network: SpikingNetwork, drive: ArrayLike, state: list[LayerState] | None = None
) -> Recording:
    """Run the contract for T steps and record every spike and the final potentials.

    drive: [T, B, n_in], current or spikes.
    state: as initial_state() gives it, changed in place so that a next call goes on from there;
           None starts afresh.
    Raises ShapeError if the drive does not fit the network or the state.
    """
    drive = as_drive(drive, network)
    sim_steps, batch_size, _ = drive.shape
    if state is None:
        state = initial_state(network, batch_size)
    elif state[0].v.shape[0] != batch_size:
        raise ShapeError(f"the state has {state[0].v.shape[0]} rows, the drive has {batch_size}")
    spikes = [np.zeros((sim_steps, batch_size, n.n_out), bool) for n in network.spiking_layers]

    for t in range(sim_steps):
        x = drive[t]
        k = 0  # index among the layers that have neurons
        for layer in network.layers:
            current = layer.apply(x)
            if not isinstance(layer, NeuronLayer):
                x = current
                continue
            cell = state[k]
            if layer.recurrent_weight is not None:
                current = current + cell.sent[0] @ layer.recurrent_weight.T
            cell.current = layer.current_decay * cell.current + current
            v = layer.decay * cell.v + cell.current
            if layer.v_min is not None:
                v = np.maximum(v, layer.v_min)
            v = np.where(cell.resting > 0, cell.v, v)
            if not layer.spiking:
                cell.v = v
                continue
            s = (v >= layer.v_threshold + layer.adaptation * cell.lift) & (cell.resting == 0)
            cell.lift = layer.adaptation_decay * cell.lift + s
            cell.v = np.where(s, v - layer.v_threshold if layer.reset == "subtract" else 0.0, v)
            cell.resting = np.where(s, layer.refractory_steps, np.maximum(cell.resting - 1, 0))
            spikes[k][t] = s
            k += 1
            x = cell.sent[0] if layer.delay_steps else s.astype(np.float64)
            cell.sent = np.concatenate([cell.sent[1:], s[None].astype(np.float64)])

    return Recording(
        counts=tuple(s.sum(axis=0, dtype=np.int64) for s in spikes),
        potentials=tuple(cell.v.copy() for cell in state),
        spikes=tuple(spikes),
        sim_steps=sim_steps,
    )


def as_drive(drive: ArrayLike, network: SpikingNetwork) -> FloatArray:
    """The drive as float64 [T, B, n_in]; raises ShapeError saying what was found and wanted.

    A drive that is constant in time may come broadcast (stride 0 along T) and stays so.
    """
    array = np.asarray(drive)
    if array.dtype.kind not in "fiub":
        raise ShapeError(f"the drive has dtype {array.dtype}, wanted numbers")
    if array.ndim != 3 or array.shape[2] != network.n_in:
        raise ShapeError(f"the drive has shape {array.shape}, wanted [T, B, {network.n_in}]")
    if array.shape[0] < 1 or array.shape[1] < 1:
        raise ShapeError(f"the drive has shape {array.shape}: T and B must be at least 1")
    if array.dtype != np.float64:
        constant = array.strides[0] == 0
        array = (
            np.broadcast_to(array[:1].astype(np.float64), array.shape)
            if constant
            else (array.astype(np.float64))
        )
    if not np.isfinite(array[:1] if array.strides[0] == 0 else array).all():
        raise ShapeError("the drive holds NaN or infinite values")
    return array
