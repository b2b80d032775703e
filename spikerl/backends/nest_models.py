"""NEST with the neuron models of the literature: "nest:iaf_psc_delta" and "nest:pp_psc_delta".

NEST is imported when a network is compiled. iaf_psc_delta is what "nest" has for reset "zero" as
well, here with a leak. pp_psc_delta fires at random with a rate that its potential sets; a rate of
0 below and 1e300 above the threshold makes it certain, and an adaptation that never decays stands
for the reset by subtraction, as published spiking Q-networks have it:

    V_m holds all input, E_sfa the sum of thresholds subtracted: v = V_m - E_sfa + v_threshold

What remains: after a spike it is silent for one step, whatever its potential.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from spikerl.backends.base import Session, refuse_options, require_runnable
from spikerl.backends.nest import COMMON, EDGE, NestBackend, NestSession, Nodes
from spikerl.errors import BackendError
from spikerl.network import FloatArray, NeuronLayer, Recording, SpikingNetwork


class DeltaBackend(NestBackend):
    """Every neuron an iaf_psc_delta: reset "zero", with or without a leak."""

    name = "nest:iaf_psc_delta"
    capabilities = replace(NestBackend.capabilities, resets=frozenset({"zero"}), decay=True)


class PointProcessBackend(NestBackend):
    """Every neuron that fires a pp_psc_delta: reset "subtract", silent for a step after a spike.

    Where no neuron would fire in two steps on end its spikes are the reference's; where one would,
    it fires in every second step until the potential is used up. Hence "unverified".
    """

    name = "nest:pp_psc_delta"
    capabilities = replace(
        NestBackend.capabilities,
        resets=frozenset({"subtract"}),
        exactness="unverified",
        drive=frozenset({"constant"}),
    )

    def compile(
        self,
        network: SpikingNetwork,
        *,
        batch_size: int = 1,
        seed: int | None = None,
        **options: Any,
    ) -> Session:
        """Build batch_size copies of the network in NEST's kernel, which is emptied first.

        Nothing is random: the neurons fire with certainty or not at all. Raises BackendError while
        another session is open.
        """
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options, ())
        return PointProcessSession(network, batch_size)


class PointProcessSession(NestSession):
    """A network of pp_psc_delta neurons, built anew for every decision.

    In NEST 3.10 this model appends to its adaptation, and then reads beyond its parameters, every
    time a value of it is set after a simulation: currents and potentials can be set once only.
    """

    back_end = PointProcessBackend.name

    def __init__(self, network: SpikingNetwork, batch_size: int) -> None:
        self._network = network
        super().__init__(network, batch_size)

    def _nodes(self, layer: NeuronLayer) -> Nodes:
        if layer.spiking:
            return PointProcessNodes(self._nest, layer, self._batch)
        return super()._nodes(layer)

    def _decide(self, drive: FloatArray, record_spikes: bool) -> Recording:
        steps, rows, _ = drive.shape
        if (drive != drive[0]).any():
            raise BackendError(
                f"{self.backend!r} takes a current that stays the same throughout a decision, this "
                "one changes: encode with ConstantCurrent, or use 'nest'"
            )
        self._clear()
        self._layers = []
        self._build(self._network)
        self._layers[0].set_current(self._currents(drive[0]))
        for nodes in self._layers:
            nodes.start()
        self._nest.Simulate(float(steps))
        potentials = [nodes.potentials()[:rows] for nodes in self._layers]
        self._nest.Simulate(1.0)  # the recorders hear of the last step's spikes now
        spikes = [n.spikes(0.0, steps)[:, :rows] for n in self._layers if n.spiking]
        for v, s, nodes in zip(potentials, spikes, self._layers, strict=False):
            assert isinstance(nodes, PointProcessNodes)
            v -= s[-1] * nodes.threshold  # E_sfa takes over a spike in the step after it
        return Recording(
            counts=tuple(s.sum(axis=0, dtype=np.int64) for s in spikes),
            potentials=tuple(potentials),
            sim_steps=steps,
            spikes=tuple(spikes) if record_spikes else None,
        )


class PointProcessNodes(Nodes):
    """The copies of one layer of pp_psc_delta neurons; threshold: [n]."""

    def _made(
        self, nest: Any, model: str, parameters: dict[str, float], threshold: FloatArray
    ) -> Any:
        n = self._shape[1]
        self.late = False  # I_e acts in the step it is set for
        self.threshold = threshold[:n]
        self.start_at = self.start_at - self.lift + EDGE - threshold
        rules = {"tau_m": COMMON["tau_m"], "C_m": 1.0, "c_1": 1e300, "c_2": 0.0, "c_3": 0.0}
        own = {**rules, "tau_sfa": [COMMON["tau_m"]], "with_reset": False, "dead_time": 1.0}
        nodes = nest.Create("pp_psc_delta", len(threshold), params={**own, "q_sfa": [1.0]})
        nodes.set([{"q_sfa": [theta]} for theta in threshold])
        return nodes

    def potentials(self) -> FloatArray:
        held, subtracted = (
            np.atleast_1d(np.array(part, dtype=np.float64)).reshape(self._shape)
            for part in (self.nodes.V_m, self.nodes.E_sfa)
        )
        found: FloatArray = held - subtracted + self.threshold - EDGE
        return found
