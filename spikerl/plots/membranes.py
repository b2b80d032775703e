"""membranes(): potentials and spikes within one decision, step by step. Imports reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from spikerl.errors import SpikerlError
from spikerl.network import FloatArray, SpikingNetwork
from spikerl.plots.drawing import COLOURS, MARK, Drawing, drawn
from spikerl.plots.episode import chosen_neurons
from spikerl.reference import as_drive, initial_state, simulate


def trace(network: SpikingNetwork, drive: ArrayLike) -> tuple[list[FloatArray], list[FloatArray]]:
    """Potentials after, and spikes in, each of T steps: one [T, B, n] per layer that has them.

    drive: [T, B, n_in]. The definition in reference.py computes them, from the start state. Give it
    a session's effective network to see what a back end's rounding does.
    """
    steps = as_drive(drive, network)
    state = initial_state(network, steps.shape[1])
    runs = [simulate(network, steps[t : t + 1], state) for t in range(len(steps))]
    potentials = [
        np.stack([np.asarray(run.potentials[i]) for run in runs])
        for i in range(len(network.neuron_layers))
    ]
    spikes = [
        np.stack([run.counts[i] for run in runs]).astype(np.float64)
        for i in range(len(network.spiking_layers))
    ]
    return potentials, spikes


def membranes(
    network: SpikingNetwork,
    drive: ArrayLike,
    layer: int = 0,
    neurons: list[int] | None = None,
    row: int = 0,
) -> Drawing:
    """Potential over simulated time (ms) of neurons of one layer, with thresholds and spikes.

    drive: [T, B, n_in], such as agent.encoder.encode() gives; `row` of it is drawn.
    layer: of those with neurons, -1 is the read-out; neurons: up to 8, by default the first.
    Potentials are in the unit of the weights, taken after a spike's reset, as reference.py has
    them. Raises SpikerlError for a layer, neuron or row that is not there.
    """
    layers = network.neuron_layers
    if not -len(layers) <= layer < len(layers):
        raise SpikerlError(f"layer is {layer}; the network has layers 0 to {len(layers) - 1}")
    layer %= len(layers)
    rows = as_drive(drive, network)
    if not 0 <= row < rows.shape[1]:
        raise SpikerlError(f"row is {row}; the drive has rows 0 to {rows.shape[1] - 1}")
    chosen = chosen_neurons(layers[layer].n_out, neurons)
    potentials, spikes = trace(network, rows[:, row : row + 1])
    times = np.arange(1, len(rows) + 1) * network.dt_ms
    thresholds = np.broadcast_to(layers[layer].v_threshold, layers[layer].n_out)
    with drawn(7.0, 0.7 + 0.85 * len(chosen), len(chosen)) as drawing:
        for axes, neuron in zip(drawing.all_axes, chosen, strict=True):
            v = potentials[layer][:, 0, neuron]
            axes.plot(times, v, color=COLOURS[0], lw=1.3)
            if layers[layer].spiking:
                axes.axhline(thresholds[neuron], color=MARK, lw=0.9, ls="--")
                fired = times[spikes[layer][:, 0, neuron] > 0]
                axes.plot(fired, np.full(len(fired), thresholds[neuron]), "^", color=MARK, ms=4)
            axes.set_ylabel(f"neuron {neuron}", rotation=0, ha="right", va="center", labelpad=8)
            axes.margins(x=0.01, y=0.15)
            axes.locator_params(axis="y", nbins=3)
        kind = "dashes: threshold, triangles: spikes" if layers[layer].spiking else "read-out"
        drawing.axes.set_title(
            f"potential of layer {layer}, unit of the weights ({kind})", fontsize=10
        )
        drawing.all_axes[-1].set_xlabel("simulated time, ms")
    return drawing
