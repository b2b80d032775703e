"""Estimates of the energy of a decision, from published energies of single operations.

Imports operations and errors. No figure here was measured by spikerl: each is what the
operations that were counted would take at the price a publication gives, and says what it leaves
out. Memory, static power and everything around the network are left out by all but TrueNorth's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from spikerl.errors import SpikerlError
from spikerl.operations import Operations, Tally, connection_sparsity, footprint

PARTS = ("input", "synapses", "neurons", "spikes")


@dataclass(frozen=True)
class Hardware:
    """Published energies in pJ; None where the source has no figure.

    kind:   "digital": arithmetic alone, for which the original network can be priced too;
            "chip": a neuromorphic one.
    mac:    a multiply-accumulate.  ac: an accumulate, or a synaptic operation.
    update: of a neuron in a step.  leak: what a leak adds to it.  spike: what sending one takes.
    source, year: the publication.  note: conditions, and how figures were made of those printed.
    """

    name: str
    kind: str
    technology: str
    ac: float
    mac: float | None
    update: float | None
    leak: float
    spike: float | None
    source: str
    year: int
    note: str


def _arithmetic(name: str, numbers: str, multiply: float, add: float) -> Hardware:
    return Hardware(
        name=name,
        kind="digital",
        technology="45 nm CMOS, 0.9 V",
        mac=round(multiply + add, 3),
        ac=add,
        update=2 * add,
        leak=multiply,
        spike=add,
        source="Horowitz, Computing's energy problem, ISSCC",
        year=2014,
        note=f"{numbers}: a multiplication {multiply:g} pJ, an addition {add:g} pJ; an update is "
        "two additions (input current or bias, threshold), a leak a multiplication, a spike the "
        "subtraction of its reset; fetching weights and states from memory takes more than that",
    )


_TABLE = (
    _arithmetic("cmos45-float32", "32-bit floating point", 3.7, 0.9),
    _arithmetic("cmos45-int32", "32-bit integers", 3.1, 0.1),
    Hardware(
        name="loihi",
        kind="chip",
        technology="14 nm",
        mac=None,
        ac=23.6,
        update=81.0,
        leak=0.0,
        spike=1.7,
        source="Davies et al., Loihi, IEEE Micro 38(1), table 2",
        year=2018,
        note="simulated before there was silicon: a synaptic operation at the least, the update of "
        "an active neuron, a spike within a tile; without static power and spikes between tiles",
    ),
    Hardware(
        name="truenorth",
        kind="chip",
        technology="28 nm",
        mac=None,
        ac=26.0,
        update=0.0,
        leak=0.0,
        spike=0.0,
        source="Merolla et al., Science 345(6197)",
        year=2014,
        note="measured: the whole chip's power over its synaptic events, neurons and static power "
        "included, at 20 Hz and 128 active synapses per neuron; another figure at other rates",
    ),
    Hardware(
        name="spinnaker",
        kind="chip",
        technology="130 nm",
        mac=None,
        ac=43_000.0,
        update=100_000.0,
        leak=0.0,
        spike=None,
        source="Sharp et al., J. Neurosci. Methods 210(1)",
        year=2012,
        note="measured on four chips with steps of 1 ms and a cortical model's neurons",
    ),
    Hardware(
        name="odin",
        kind="chip",
        technology="28 nm FDSOI, 0.55 V",
        mac=None,
        ac=12.7,
        update=None,
        leak=0.0,
        spike=None,
        source="Frenkel et al., IEEE TBioCAS 13(1)",
        year=2019,
        note="a synaptic operation at the least, 4-bit weights, 256 neurons",
    ),
)
HARDWARE: Mapping[str, Hardware] = MappingProxyType({entry.name: entry for entry in _TABLE})


@dataclass(frozen=True)
class EnergyEstimate:
    """What a decision would take, in nJ; an estimate, never a measurement.

    parts:    nJ of the input's MACs (once per decision where it is constant), synapses, neurons and
              spikes; None where the source has no figure. value: their sum.
    left_out: the parts without a figure that were needed.
    original: nJ of all multiply-accumulates of the network it was converted from, on the same
              technology; None where those are unknown or no multiplication has a price.
    """

    hardware: str
    value: float
    parts: Mapping[str, float | None]
    left_out: tuple[str, ...]
    original: float | None
    source: str
    year: int

    def __str__(self) -> str:
        shown = f"{nano(self.value)} (estimate; {self.source}, {self.year})"
        return shown + (f"; without {', '.join(self.left_out)}" if self.left_out else "")


def hardware(name: str) -> Hardware:
    """An entry of the table; raises SpikerlError naming those there are."""
    if name not in HARDWARE:
        known = ", ".join(HARDWARE)
        raise SpikerlError(f"no energies of {name!r} are known; wanted one of {known}")
    return HARDWARE[name]


def estimate(
    counted: Operations, on: str | Hardware, original_macs: float | None = None
) -> EnergyEstimate:
    """Price counted operations; original_macs: of the network converted, see EnergyEstimate."""
    entry = hardware(on) if isinstance(on, str) else on
    used = {
        "input": (counted.input_macs, entry.mac, 0.0),
        "synapses": (counted.effective_acs, entry.ac, 0.0),
        "neurons": (counted.updates, entry.update, counted.leaks * entry.leak),
        "spikes": (counted.spikes, entry.spike, 0.0),
    }
    parts = {
        part: None if price is None else (number * price + more) / 1000
        for part, (number, price, more) in used.items()
    }
    known = entry.mac is not None and original_macs is not None
    return EnergyEstimate(
        hardware=entry.name,
        value=sum(value for value in parts.values() if value is not None),
        parts=parts,
        left_out=tuple(part for part in PARTS if parts[part] is None and used[part][0]),
        original=original_macs * entry.mac / 1000 if known else None,  # type: ignore[operator]
        source=entry.source,
        year=entry.year,
    )


@dataclass(frozen=True)
class Cost:
    """What a decision costs; operations and sparsity of activations are means over decisions.

    footprint:      bytes of weights (in the bits they were rounded to, else 32), parameters and
                    state, see operations.footprint().
    original_macs:  multiply-accumulates of the network converted; None where unknown.
    energy:         an estimate for every entry of the table.
    """

    footprint: int
    connection_sparsity: float
    activation_sparsity: float
    operations: Operations
    original_macs: int | None
    energy: tuple[EnergyEstimate, ...]

    def on(self, name: str) -> EnergyEstimate:
        """The estimate for one hardware; raises SpikerlError for one that is not in the table."""
        entry = hardware(name)
        return next(found for found in self.energy if found.hardware == entry.name)


def cost(agent: Any, tally: Tally) -> Cost:
    """What the decisions of an agent cost that a tally has counted, with their drives."""
    counted = tally.operations(agent.network)
    macs = original_macs(agent.provenance)
    recipe = agent.provenance.get("recipe")
    bits = recipe.get("weight_bits") if isinstance(recipe, Mapping) else None
    return Cost(
        footprint=footprint(agent.network, weight_bits=32 if bits is None else bits),
        connection_sparsity=connection_sparsity(agent.network),
        activation_sparsity=tally.activation_sparsity(),
        operations=counted,
        original_macs=macs,
        energy=tuple(estimate(counted, entry, macs) for entry in HARDWARE.values()),
    )


def original_macs(provenance: Mapping[str, Any]) -> int | None:
    """The multiply-accumulates of the network an agent was converted from, if it knows them."""
    source = provenance.get("source")
    found = source.get("macs") if isinstance(source, Mapping) else None
    return found if isinstance(found, int) and found > 0 else None


def nano(value: float) -> str:
    """An energy in nJ, in the unit that suits it."""
    for unit in ("nJ", "µJ", "mJ"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} J"
