"""NIR, the exchange format of spiking networks: to_nir(), from_nir(), and both with a file.

Needs the package `nir` (1.0.7 or newer). A NIR graph is a differential equation without a time
step, so a step has to be agreed upon. Written and read here, by Euler's rule as all readers do:

    dt  seconds per step, in the graph's metadata as "dt"; a reader has to be given the same one
    IF    v' = r I                      r = 1 / dt:   a step adds W x + b
    LIF   tau v' = v_leak - v + r I     tau = dt / (1 - decay), r = tau / dt, v_leak = 0
    I, LI the same for a read-out; Delay: delay_steps * dt; recurrent: IF -> Linear -> IF

NIR fires at v > v_threshold, spikerl at v >= v_threshold: thresholds are written as the largest
float32 below, so that programs of both kinds fire at the same float32 potentials. What NIR has no
word for (reset by subtraction, v_init, v_min, refractory_steps) is in the metadata of the nodes,
which other programs do not read: to_nir() warns of it, from_nir() gives the same network back.
"""

from spikerl.nir.reading import from_nir, read
from spikerl.nir.writing import to_nir, write

__all__ = ["from_nir", "read", "to_nir", "write"]
