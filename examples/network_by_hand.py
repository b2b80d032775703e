"""Prints the spikes of a two-neuron network, step by step, on two back ends."""

import numpy as np

from spikerl import Dense, SpikingNetwork, backends, reference

network = SpikingNetwork(
    [
        Dense([[0.5], [0.25]], v_threshold=1.0, delay_steps=1),
        Dense([[1.0, -1.0]], spiking=False),
    ]
)
drive = np.ones((8, 1, 1))  # [T, B, n_in]: a constant current of one

want = reference.simulate(network, drive)
with backends.get("cpu").compile(network) as session:
    got = session.run(drive, record_spikes=True)

print("step      ", *range(1, 9))
for neuron in range(2):
    print(f"neuron {neuron}  ", *got.spikes[0][:, 0, neuron].astype(int))
print("read-out  ", got.potential[0, 0])
assert np.array_equal(got.spikes[0], want.spikes[0])
assert np.array_equal(got.potential, want.potential)
