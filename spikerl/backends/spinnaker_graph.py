"""The populations and projections of a planned network, built with a PyNN module that is given.

Imports numpy and the plan. The module is sPyNNaker's, or one that records its calls. Order and
reasons: setup; a population per layer of neurons with all copies in it; per layer pair an
excitatory and an inhibitory projection from explicit lists, because sPyNNaker stores a negative
weight as its absolute value; recording. Then for each decision reset, i_offset, run, read: before
a reset i_offset may not change, and values set after it hold for the run that follows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spikerl.backends.spinnaker_plan import (
    CM,
    LARGEST,
    TAU_M,
    V_REST,
    Connections,
    Plan,
    PlannedLayer,
)
from spikerl.network import FloatArray

FLOOR = -(2.0**16)  # of a read-out: lowest number of 16.15
SPIKE_BUFFER = 256  # sPyNNaker's own: spikes that may wait for a core within a step


class Graph:
    """A planned network in one PyNN module, with `copies` rows side by side.

    populations: one per layer of neurons.
    projections: per layer, per plan projection, (excitatory, inhibitory); None where there is none.
    """

    def __init__(
        self, sim: Any, planned: Plan, copies: int, time_scale_factor: int | None = None
    ) -> None:
        self._sim = sim
        self._copies = copies
        self._fresh = True
        sim.setup(timestep=1.0, min_delay=1.0, time_scale_factor=time_scale_factor)
        self.populations: list[Any] = []
        self.projections: list[list[tuple[Any, Any]]] = []
        for k, layer in enumerate(planned.layers):
            senders = planned.layers[k - 1].layer.n_out if k else 0
            self.populations.append(self._population(k, layer, senders))
            self.projections.append(self._projections(k, layer))
        for population, layer in zip(self.populations, planned.layers, strict=True):
            if layer.layer.spiking:
                population.record(["spikes"])
        self.populations[-1].record(["v"])

    def decide(self, current: FloatArray, ticks: int) -> None:
        """Run `ticks` steps from the start state with this current [copies, n] into layer 0."""
        if not self._fresh:
            self._sim.reset()
        self._fresh = False
        self.populations[0].set(i_offset=current.reshape(-1))
        self._sim.run(float(ticks))

    def spikes(self, k: int) -> FloatArray:
        """Spikes of the last run of neuron layer k: [spikes, 2], (neuron, time in ms)."""
        found: FloatArray = np.asarray(self.populations[k].spinnaker_get_data("spikes"))
        return found

    def potentials(self) -> FloatArray:
        """Potentials of the last layer before each step of the last run: [ticks, neurons]."""
        found: FloatArray = np.asarray(self.populations[-1].spinnaker_get_data("v", as_matrix=True))
        return found

    def end(self) -> None:
        """Give the machine back."""
        self._sim.end()

    def _population(self, k: int, here: PlannedLayer, senders: int) -> Any:
        sim, layer = self._sim, here.layer
        if layer.spiking:
            model = sim.IF_curr_delta(
                tau_m=TAU_M,
                cm=CM,
                v_rest=V_REST,
                v_reset=0.0,
                v_thresh=self._tiled(here.threshold),
                tau_refrac=float(layer.refractory_steps),
                i_offset=self._tiled(here.bias),
            )
        else:
            model = sim.extra_models.IFTruncDelta(
                tau_m=1.0,
                cm=1.0,
                v_reset=FLOOR,
                v_thresh=LARGEST,
                tau_refrac=0.0,
                i_offset=self._tiled(here.bias),
            )
        heard = (senders + layer.n_out * (layer.recurrent_weight is not None)) * self._copies
        return sim.Population(
            layer.n_out * self._copies,
            model,
            initial_values={"v": self._tiled(here.start)},
            label=f"layer {k}",
            additional_parameters={
                "max_expected_summed_weight": list(here.sums),
                "incoming_spike_buffer_size": max(
                    SPIKE_BUFFER, 1 << int(heard).bit_length()
                ),  # all of them may fire at once
            },
        )

    def _projections(self, k: int, here: PlannedLayer) -> list[tuple[Any, Any]]:
        made = []
        after = self.populations[k]
        for projection in here.projections:
            before = after if projection.kind == "recurrent" else self.populations[k - 1]
            pair = [
                self._sim.Projection(
                    before,
                    after,
                    self._sim.FromListConnector(self._rows(found, before, after)),
                    receptor_type=receptor,
                )
                if len(found)
                else None
                for receptor, _, found in projection.signs
            ]
            made.append((pair[0], pair[1]))
        return made

    def _rows(self, found: Connections, before: Any, after: Any) -> FloatArray:
        """(sender, target, weight, delay in ms) for every copy: [copies * synapses, 4]."""
        one = np.stack(
            [found.senders, found.targets, found.weights, np.ones(len(found))], axis=1
        ).astype(np.float64)
        sizes = (before.size // self._copies, after.size // self._copies)
        copies = []
        for copy in range(self._copies):
            moved = one.copy()
            moved[:, :2] += np.multiply(sizes, copy)
            copies.append(moved)
        return np.concatenate(copies)

    def _tiled(self, values: FloatArray) -> FloatArray:
        return np.tile(values, self._copies)
