"""A Plan as nengo-loihi's blocks, axons and synapses, and the emulator that runs them.

Imports numpy, loihi_plan and, within functions, nengo-loihi. Blocks are filled with what the plan
says, integers included, so that nothing is left for nengo-loihi to round.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.backends.loihi_numbers import IntArray, Table
from spikerl.backends.loihi_plan import ChipLayer, Plan, index_code, written_out
from spikerl.backends.nengo import imported as nengo_imported
from spikerl.errors import BackendError

V_MAX = 2**23 - 1
NO_FILTER = 2**12 - 1


@dataclass(frozen=True, eq=False)
class Chip:
    """What nengo-loihi needs to run a plan.

    model:     its Model. entry: the SpikeInput that the spikes of the host go into.
    blocks:    its LoihiBlocks, layer by layer. probes: one LoihiProbe of the spikes per layer.
    places:    per layer, where its neurons are among all compartments.
    """

    model: Any
    entry: Any
    blocks: tuple[tuple[Any, ...], ...]
    probes: tuple[Any, ...]
    places: tuple[IntArray, ...]


def imported() -> Any:
    """The nengo_loihi package; 1.1.0 says at once that it does not know nengo 4.

    Raises BackendError for another version: sessions reach into its emulator.
    """
    nengo_imported()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This version of .nengo_loihi. has not been tested")
        import nengo_loihi
    if nengo_loihi.__version__ != "1.1.0":
        raise BackendError(
            f"found nengo-loihi {nengo_loihi.__version__}, wanted 1.1.0: "
            "pip install nengo-loihi==1.1.0"
        )
    return nengo_loihi


def built(plan: Plan, dt_ms: float) -> Chip:
    """The blocks of a plan; raises BackendError where nengo-loihi finds them invalid."""
    imported()
    from nengo.exceptions import BuildError
    from nengo_loihi.builder import Model
    from nengo_loihi.builder.validate import validate_model
    from nengo_loihi.inputs import SpikeInput
    from nengo_loihi.probe import LoihiProbe

    model = Model(dt=dt_ms / 1000)
    entry = SpikeInput(plan.chip[0].numbers.inputs.n_in, label="host")
    model.add_input(entry)
    integers = plan.chip[0].numbers.unit is not None
    layers = [_blocks(layer, integers) for layer in plan.chip]
    places, end = [], 0
    for layer, blocks in zip(plan.chip, layers, strict=True):
        place = np.empty(layer.numbers.inputs.n_out, dtype=np.int64)
        for neurons, block in zip(layer.blocks, blocks, strict=True):
            model.add_block(block)
            place[neurons] = np.arange(end, end + len(neurons))
            end += len(neurons)
        places.append(place)
    whole = np.arange(entry.n_neurons)
    sources: tuple[Sequence[Any], Sequence[IntArray]] = [entry], [whole]
    for layer, blocks in zip(plan.chip, layers, strict=True):
        _connect(layer.numbers.inputs, sources, blocks, layer.blocks, layer.numbers.shift)
        sources = blocks, layer.blocks
        if layer.numbers.recurrent is not None:
            loop_shift = layer.numbers.loop_shift
            _connect(layer.numbers.recurrent, sources, blocks, layer.blocks, loop_shift)
    try:
        validate_model(model)
    except (BuildError, AssertionError) as error:
        raise BackendError(f"nengo-loihi cannot build this network: {error}") from error
    probes = []
    for blocks in layers:
        probes.append(LoihiProbe(target=list(blocks), key="spiked"))
    return Chip(model, entry, tuple(map(tuple, layers)), tuple(probes), tuple(places))


def _blocks(layer: ChipLayer, integers: bool) -> list[Any]:
    from nengo_loihi.block import LoihiBlock

    kind: Any = np.int32 if integers else np.float32
    one, made = layer.numbers, []
    decay = np.broadcast_to(one.asked.decay, (one.inputs.n_out,))
    for k, neurons in enumerate(layer.blocks):
        block = LoihiBlock(len(neurons), label=f"layer {layer.layer}, block {k}")
        cells = block.compartment
        # the input of a step acts in that step alone, and as it is
        cells.decay_u = np.full(len(neurons), NO_FILTER if integers else 1, dtype=kind)
        cells.scale_u = cells.scale_v = False
        cells.decay_v = (0 * neurons if integers else 1 - decay[neurons]).astype(kind)
        cells.refract_delay[:] = one.asked.refractory_steps + 1  # the step of the spike counts
        cells.vth = one.threshold[neurons].astype(kind)
        cells.bias = one.bias[neurons].astype(kind)
        cells.vmin = one.floor
        cells.vmax = V_MAX if integers else np.inf
        cells.noise_exp = 1
        made.append(block)
    return made


def _connect(
    table: Table,
    sources: tuple[Sequence[Any], Sequence[IntArray]],
    blocks: Sequence[Any],
    neurons: Sequence[IntArray],
    shift: int,
) -> None:
    """Synapses in every block for those neurons that reach it, and axons to them."""
    from nengo_loihi.block import Axon, Synapse

    kind: Any = np.int32 if table.weights.dtype.kind == "i" else np.float32
    for block, here in zip(blocks, neurons, strict=True):
        index = np.full(table.n_out, -1)
        index[here] = np.arange(len(here))
        chosen = index[table.targets] >= 0  # sorted by sender, as the table is
        if not chosen.any():
            continue
        weights = table.weights[chosen].astype(kind)
        targets = index[table.targets[chosen]].astype(np.int32)
        senders, starts = np.unique(table.senders[chosen], return_index=True)
        synapse = Synapse(len(senders), label=f"{block.label} inputs")
        whole = written_out(np.diff([*starts, len(weights)]), len(here))
        if whole:
            full = np.zeros((len(senders), len(here)), dtype=kind)
            full[np.searchsorted(senders, table.senders[chosen]), targets] = weights
            synapse.weights = [w[None] for w in full]
            synapse.indices = [np.arange(len(here), dtype=np.int32)[None]] * len(senders)
        else:
            synapse.weights = [w[None] for w in np.split(weights, starts[1:])]
            synapse.indices = [i[None] for i in np.split(targets, starts[1:])]
        synapse.format(
            compression=3 if whole else 0,  # 3: weights without the numbers of their neurons
            idx_bits=index_code(len(here)),
            fanout_type=1,
            n_synapses=63,
            weight_bits=7,
            weight_exp=shift - 7,
        )
        block.add_synapse(synapse)
        axon_of = np.full(table.n_in, -1)
        axon_of[senders] = np.arange(len(senders))
        for source, there in zip(*sources, strict=True):
            found = axon_of[there]
            if (found >= 0).any():
                axon = Axon(int((found >= 0).sum()), label=f"to {block.label}")
                axon.target = synapse
                axon.set_compartment_axon_map(found)
                source.add_axon(axon)


class Emulator:
    """nengo-loihi's emulator of a chip, with the state of its neurons at hand.

    voltage, resting, fired: [compartments], as they are after the last step.
    """

    def __init__(self, chip: Chip) -> None:
        from nengo_loihi.emulator import EmulatorInterface

        self._entry = chip.entry
        with warnings.catch_warnings():  # its arrays of integers begin as not-a-number
            warnings.filterwarnings("ignore", "invalid value encountered in cast", RuntimeWarning)
            self._emulator = EmulatorInterface(chip.model, seed=0)
        cells = self._emulator.compartment
        self.voltage: NDArray[Any] = cells.voltage
        self.resting: NDArray[np.int32] = cells.ref_count
        self.fired: NDArray[np.bool_] = cells.spiked

    def run(self, arriving: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Spikes [T, compartments] from spikes that arrive at each step [T, n]."""
        self._enter(arriving)
        emulator, steps = self._emulator, len(arriving)
        fired = np.empty((steps, len(self.fired)), dtype=np.bool_)
        for t in range(steps):
            emulator.step()
            fired[t] = self.fired
        return fired

    def simulate(self, arriving: NDArray[np.bool_]) -> None:
        """The same, and nothing is kept."""
        self._enter(arriving)
        for _ in range(len(arriving)):
            self._emulator.step()

    def _enter(self, arriving: NDArray[np.bool_]) -> None:
        # What is put in at step t arrives at step t + 1, so there has always been a step before.
        self._emulator.t = 1
        for t, spikes in enumerate(arriving):
            self._entry.add_spikes(t + 1, np.flatnonzero(spikes))

    def close(self) -> None:
        """Give the emulator's memory back."""
        self._emulator.close()
