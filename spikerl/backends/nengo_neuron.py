"""The neuron of the contract as a nengo neuron type; the one module that needs nengo to be loaded.

nengo's own spiking neurons are others: SpikingRectifiedLinear clips its input at zero, fires
several times per step and starts at random. Here a spike is 1, not 1 / dt: no sum is rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from nengo.neurons import NeuronType

from spikerl.network import FloatArray, NeuronLayer

Array = Any


class ContractNeuron(NeuronType):  # type: ignore[misc]
    """Copies of one layer side by side: neuron i of row b is number b * n + i.

    Its output at step t are the spikes of step t - max(0, delay_steps - 1): a connection with
    synapse=0 adds the last step, and is what lets a layer hear itself.
    """

    spiking = True
    negative = False

    def __init__(self, layer: NeuronLayer, batch_size: int) -> None:
        super().__init__()
        n = layer.n_out

        def copies(value: FloatArray) -> FloatArray:
            return np.tile(np.broadcast_to(value, (n,)), batch_size)

        self.held = max(0, layer.delay_steps - 1)
        self.start = copies(layer.v_init)
        self.decay = None if (layer.decay == 1).all() else copies(layer.decay)
        self.threshold = copies(layer.v_threshold)
        self.subtract = layer.reset == "subtract"
        self.v_min = layer.v_min
        self.rest = layer.refractory_steps
        self.fires = layer.spiking

    def max_rates_intercepts(self, gain: Array, bias: Array) -> tuple[Array, Array]:
        """What the builder asks of every ensemble; here nobody reads it, as nothing is decoded."""
        unknown = np.full(len(gain), np.nan)
        return unknown, unknown

    def make_state(
        self, n_neurons: int, rng: Any = None, dtype: Any = None
    ) -> dict[str, FloatArray]:
        """Potentials, spikes of this step, steps of rest left, spikes on their way."""
        return {
            "voltage": self.start.copy(),
            "fired": np.zeros(n_neurons),
            "resting": np.zeros(n_neurons),
            "sent": np.zeros((max(1, self.held), n_neurons)),  # an empty signal is no signal
        }

    def step(
        self,
        dt: float,
        J: Array,
        output: Array,
        voltage: Array,
        fired: Array,
        resting: Array,
        sent: Array,
    ) -> None:
        """One step of the contract; J is the whole sum W x + U s + b of the step."""
        v = voltage + J if self.decay is None else self.decay * voltage + J
        if self.v_min is not None:
            np.maximum(v, self.v_min, out=v)
        if self.rest:
            asleep = resting > 0
            v = np.where(asleep, voltage, v)
        if not self.fires:
            voltage[...] = v
            return
        spikes = v >= self.threshold
        if self.rest:
            spikes &= ~asleep
            resting[...] = np.where(spikes, self.rest, np.maximum(resting - 1, 0))
        if self.subtract:
            v -= spikes * self.threshold
        else:
            v[spikes] = 0.0
        voltage[...] = v
        fired[...] = spikes
        if not self.held:
            output[...] = spikes
            return
        output[...] = sent[0]
        sent[:-1] = sent[1:]
        sent[-1] = spikes
