"""A back end in one file: integers instead of floating point, judged by the conformance suite.

It computes in fixed point, as a small processor would: currents, weights and thresholds are
multiples of 2^-20. What it cannot do, it declares; what it rounds, its session's `network` says.
"""

from dataclasses import replace

import numpy as np

from spikerl import Dense, Recording, SpikingNetwork, testing
from spikerl.backends.base import (
    Capabilities,
    Session,
    capability_problems,
    refuse_options,
    require_runnable,
)
from spikerl.errors import BackendError

ONE = 2**20  # a current or a weight of 1; potentials are products, in units of 2^-40
LARGEST = 64  # with more than this, or a larger fan-in, potentials might leave 64 bits


class FixedPointBackend:
    """Integrate-and-fire neurons behind dense layers, without leaks, delays and loops."""

    name = "fixed-point"
    capabilities = Capabilities(
        layers=frozenset({"Dense"}),
        recurrent=False,
        decay=False,
        refractory=False,
        v_min=False,
        max_delay_steps=0,
        limits={"fan_in": 256},
    )

    def problems(self, network: SpikingNetwork) -> list[str]:
        found = capability_problems(self.capabilities, network)
        for i, layer in enumerate(network.layers):
            for name in ("weight", "bias", "v_threshold", "v_init"):
                if np.abs(getattr(layer, name, 0.0)).max() > LARGEST:
                    found.append(f"layer {i}: {name} beyond {LARGEST} does not fit")
        return found

    def compile(self, network, *, batch_size=1, seed=None, **options):
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options)
        return FixedPointSession(self.name, rounded(network), batch_size)


def whole(numbers, unit):
    return np.rint(np.asarray(numbers) * unit).astype(np.int64)


def rounded(network):
    """The network that the integers stand for: what the suite compares the device with."""
    names = ("weight", "bias", "v_threshold", "v_init")
    layers: list[Dense] = []
    for layer in network.layers:
        numbers = {name: whole(getattr(layer, name), ONE) / ONE for name in names}
        numbers["v_threshold"] = np.maximum(numbers["v_threshold"], 1 / ONE)
        layers.append(replace(layer, **numbers))
    return SpikingNetwork(layers, network.dt_ms)


class FixedPointSession(Session):
    def __init__(self, name, network, batch_size):
        self.weights = [whole(layer.weight, ONE) for layer in network.layers]
        self.biases = [whole(layer.bias, ONE * ONE) for layer in network.layers]
        self.thresholds = [whole(layer.v_threshold, ONE * ONE) for layer in network.layers]
        self.start = [
            np.broadcast_to(whole(layer.v_init, ONE * ONE), (batch_size, layer.n_out))
            for layer in network.layers
        ]
        self.v = [start.copy() for start in self.start]
        super().__init__(name, network, batch_size)

    def _run(self, drive, record_spikes):
        if np.abs(drive).max() > LARGEST:
            raise BackendError(f"{self.backend}: the drive goes beyond {LARGEST}; scale it down")
        steps, rows, _ = drive.shape
        layers = self.network.spiking_layers
        spikes = [np.zeros((steps, rows, layer.n_out), bool) for layer in layers]
        for t in range(steps):
            x = whole(drive[t], ONE)
            for i, layer in enumerate(self.network.layers):
                v = self.v[i][:rows] + x @ self.weights[i].T + self.biases[i]
                if layer.spiking:
                    spikes[i][t] = fires = v >= self.thresholds[i]
                    left = v - self.thresholds[i] if layer.reset == "subtract" else 0
                    v = np.where(fires, left, v)
                    x = fires * ONE
                self.v[i][:rows] = v
        return Recording(
            counts=tuple(s.sum(axis=0, dtype=np.int64) for s in spikes),
            potentials=tuple(v[:rows] / ONE**2 for v in self.v),
            sim_steps=steps,
            spikes=tuple(spikes) if record_spikes else None,
        )

    def _reset(self, rows):
        chosen = slice(None) if rows is None else rows
        for v, start in zip(self.v, self.start, strict=True):
            v[chosen] = start[chosen]

    def _close(self):
        self.v = []


if __name__ == "__main__":
    print(testing.check_backend(FixedPointBackend()))
