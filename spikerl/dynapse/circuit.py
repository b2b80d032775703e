"""What one Dynap-SE2 chip differs in from the next, and what a core of it has room for.

Imports numpy and errors. Sizes as in the chip's paper and Rockpool's mapper: four cores of 256
neurons, 64 synapses onto each, four weight currents per core of which a synapse adds up any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikerl.errors import SpikerlError

Factors = NDArray[np.float32]

NEURONS = 256  # per core; one core is used
SYNAPSES = 64  # onto one neuron
WEIGHT_BITS = 4  # weight currents per core
SIGMAS = 3.0  # a mismatch of 0.3 means: 99.7 % of the values are within 30 %

# the parameters of a neuron that differ from neuron to neuron, by their names in DynapSim
CIRCUIT = (
    *("Idc", "If_nmda", "Igain_ahp", "Igain_mem", "Igain_syn", "Ipulse_ahp", "Ipulse", "Iref"),
    *("Ispkthr", "Itau_ahp", "Itau_mem", "Itau_syn", "Iw_ahp", "C_ahp", "C_syn", "C_pulse_ahp"),
    *("C_pulse", "C_ref", "C_mem", "Io", "kappa_n", "kappa_p", "Ut", "Vth"),
)


@dataclass(frozen=True, eq=False)
class Chip:
    """One chip, as factors on what was asked of it; Chip.ideal() has none but ones.

    w_in:    [n_in, n], one per synapse from an input.
    w_rec:   [n, n], one per synapse between neurons.
    circuit: [n] for each name of CIRCUIT.
    """

    w_in: Factors
    w_rec: Factors
    circuit: Mapping[str, Factors]

    @staticmethod
    def ideal(n_in: int, n: int) -> Chip:
        """The chip that is what the data sheet says."""
        one = np.ones((n_in + n, n), np.float32)
        return Chip(one[:n_in], one[n_in:], {name: one[0] for name in CIRCUIT})

    @staticmethod
    def drawn(n_in: int, n: int, seed: int, *, weights: float = 0.3, circuit: float = 0.05) -> Chip:
        """A chip with Gaussian mismatch; the same seed gives the same chip.

        weights, circuit: the deviation that 99.7 % of the factors stay within (Rockpool's
        `percent_deviation` at three sigma); 0.3 and 0.05 are those of its Dynap-SE2 tutorial.
        Raises SpikerlError for one that is not in [0, 1).
        """
        for name, value in (("weights", weights), ("circuit", circuit)):
            if not 0.0 <= value < 1.0:
                raise SpikerlError(f"mismatch of {name} must be in [0, 1), found {value!r}")
        rng = np.random.default_rng(seed)

        def factors(deviation: float, *shape: int) -> Factors:
            drawn = 1.0 + deviation / SIGMAS * rng.standard_normal(shape)
            return drawn.astype(np.float32)

        return Chip(
            factors(weights, n_in, n),
            factors(weights, n, n),
            {name: factors(circuit, n) for name in CIRCUIT},
        )
