"""PyNN's units and spikerl's: one table, read in both directions.

Imports nothing. spikerl counts potentials, weights and currents in one unit (that of v_threshold)
and time in steps; PyNN has mV, nA or pA, nF or pF, and ms. With a membrane of capacitance 1 and a
step of 1 ms a current of 1 moves the potential by 1 per step, so most factors are 1. The others are
the traps: PyNN multiplies the weights of NEST's native types by 1000, as if they were nA to become
pA, but not their currents; and a synaptic current of time constant tau carries a charge of
weight * tau, or weight * step where tau is far below a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

STEP_MS = 1.0  # the only time step at which one step of a simulator is one step of the contract
TAU_SYN_MS = 0.01  # of neurons that have no synapse without a time constant


@dataclass(frozen=True)
class Unit:
    """How a quantity is written in PyNN: there = here * factor.

    name: of PyNN's unit.
    """

    name: str
    factor: float = 1.0

    def to_pynn(self, here: Any) -> Any:
        """A number or an array of spikerl in PyNN's unit."""
        return here * self.factor

    def from_pynn(self, there: Any) -> Any:
        """A number or an array of PyNN in spikerl's unit."""
        return there / self.factor


@dataclass(frozen=True)
class Units:
    """The units of one family of cell types.

    capacitance: what the membrane must have, in PyNN's unit, for the factors to hold.
    """

    potential: Unit
    current: Unit
    weight: Unit
    delay: Unit
    capacitance: float = 1.0


UNITS = {
    # sim.native_cell_type(...) of pyNN.nest: pA and pF, weights scaled on the way to the kernel
    "native nest": Units(Unit("mV"), Unit("pA"), Unit("mV / 1000", 1e-3), Unit("ms", STEP_MS)),
    # IF_curr_delta: nA and nF, a weight is a jump of the potential
    "IF_curr_delta": Units(Unit("mV"), Unit("nA"), Unit("mV"), Unit("ms", STEP_MS)),
    # IF_curr_exp: a weight is a current; with TAU_SYN_MS it has decayed before the second step
    "IF_curr_exp": Units(Unit("mV"), Unit("nA"), Unit("nA", 1.0 / STEP_MS), Unit("ms", STEP_MS)),
}
