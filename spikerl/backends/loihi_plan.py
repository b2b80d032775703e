"""Which neurons of a network go to which Loihi core, and what each core would hold.

Imports numpy, network and loihi_numbers; no simulator, so that it can be known before any run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any

import numpy as np

from spikerl.backends.loihi_numbers import (
    REST_LIMIT,
    IntArray,
    Numbers,
    Table,
    float_numbers,
    integer_numbers,
)
from spikerl.network import Conv2d, Layer, NeuronLayer, SpikingNetwork

LIMITS = {
    "compartments": 1024,
    "input axons": 4096,
    "output axons": 4096,
    "synapse bits": 16384 * 64,
    "thresholds": 7,
}
CORES_PER_CHIP = 128
SYNAPSES_PER_ENTRY = 64
Blocks = tuple[IntArray, ...]  # the neurons of each block
INDEX_BITS = (0, 6, 7, 8, 9, 10, 11, 12)


@dataclass(frozen=True)
class Core:
    """What one core holds.

    layer: the number of the layer in the network; use: amounts by the names of LIMITS.
    """

    layer: int
    use: Mapping[str, int]

    @property
    def fullest(self) -> tuple[str, float]:
        """What it has least left of, and the share of it that is used."""
        names = [key for key in LIMITS if key != "thresholds"]  # 1 of 7 is not 14 % of a core
        name = max(names, key=lambda key: self.use[key] / LIMITS[key])
        return name, self.use[name] / LIMITS[name]


@dataclass(frozen=True)
class Resources:
    """What a network takes on Loihi; prints as a table.

    cores: one per block of neurons. host: neurons that the host computes.
    """

    cores: tuple[Core, ...]
    host: int = 0

    @property
    def chips(self) -> int:
        """Chips of 128 cores."""
        return ceil(len(self.cores) / CORES_PER_CHIP)

    @property
    def worst(self) -> Core | None:
        """The core that is closest to a limit; None if all is on the host."""
        return max(self.cores, key=lambda core: core.fullest[1], default=None)

    def total(self, name: str) -> int:
        """The sum of one of LIMITS over all cores."""
        return sum(core.use[name] for core in self.cores)

    def __str__(self) -> str:
        names = [name for name in LIMITS if name != "thresholds"]
        head = "".join(f"{name:>14}" for name in names)
        lines = [f"{len(self.cores)} cores, {self.chips} chips; {self.host} neurons on the host"]
        lines.append(f"{'core':>5}{'layer':>6}{head}")
        for i, core in enumerate(self.cores):
            lines.append(f"{i:>5}{core.layer:>6}" + "".join(f"{core.use[n]:>14,}" for n in names))
        lines.append(f"{'all':>5}{'':>6}" + "".join(f"{self.total(n):>14,}" for n in names))
        if self.worst is not None:
            name, share = self.worst.fullest
            at = self.cores.index(self.worst)
            lines.append(f"worst: core {at}, {share:.1%} of its {LIMITS[name]:,} {name}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class ChipLayer:
    """One layer on the chip, divided into blocks of neurons, one per core.

    layer:   its number in the network; numbers: what it is in the chip's formats.
    blocks:  the neurons of each block, as numbers within the layer.
    """

    layer: int
    numbers: Numbers
    blocks: Blocks


@dataclass(frozen=True, eq=False)
class Plan:
    """A network placed on host and chip.

    host:      layers in front of the chip, with their neurons; readout: those behind it.
    chip:      what is on the chip, in order.
    network:   the effective network. problems: every reason why it cannot run; empty if it can.
    resources: what it takes.
    """

    host: tuple[Layer, ...]
    chip: tuple[ChipLayer, ...]
    readout: tuple[Layer, ...]
    network: SpikingNetwork
    problems: tuple[str, ...] = ()
    resources: Resources = field(default_factory=lambda: Resources(()))


def plan(
    network: SpikingNetwork,
    *,
    integers: bool = True,
    first_layer: str = "host",
    block_shapes: Mapping[int, Any] | None = None,
    membrane: str = "signed",
) -> Plan:
    """Divide a network between host and cores; the last layer of a read-out stays on the host.

    integers:     the chip's number formats; False is float32.
    first_layer:  "host", which turns numbers into spikes, or "chip", where the drive is spikes.
    block_shapes: {layer number: neurons per core, or (channels, height, width) of a map per core}
                  where the smallest number of cores is not wanted.
    membrane:     "signed", or "positive": potentials are kept above zero.
    """
    stages = _stages(network)
    host = stages.pop(0) if first_layer == "host" else []
    readout: list[int] = []
    if stages and not _neurons(network, stages[-1]).spiking:
        readout = stages.pop()
    problems: list[str] = []
    numbers: list[tuple[int, Numbers]] = []
    layers: list[Layer] = list(network.layers)
    for stage in stages:
        i = stage[-1]
        maps = [network.layers[j] for j in stage[:-1]]
        layer: Any = network.layers[i]
        if layer.refractory_steps > REST_LIMIT:
            problems.append(f"layer {i}: refractory_steps can be at most {REST_LIMIT}")
        numbers_of = integer_numbers if integers else float_numbers
        made, found = numbers_of(maps, layer, signed=membrane == "signed")
        problems += [f"layer {i}: {text}" for text in found]
        if made is not None:
            numbers.append((i, made))
            layers[i] = made.effective
    chip: list[ChipLayer] = []
    cores: tuple[Core, ...] = ()
    if len(numbers) == len(stages):
        chip, cores, found = _placed(network, numbers, dict(block_shapes or {}))
        problems += found
    wrong = sorted(set(block_shapes or {}) - {stage[-1] for stage in stages})
    if wrong:
        on_chip = [stage[-1] for stage in stages]
        problems.append(f"block_shapes names layers {wrong}; on the chip are {on_chip}")
    on_host = sum(_neurons(network, part).n_out for part in (host, readout) if part)
    return Plan(
        host=tuple(network.layers[j] for j in host),
        chip=tuple(chip),
        readout=tuple(network.layers[j] for j in readout),
        network=SpikingNetwork(tuple(layers), network.dt_ms),
        problems=tuple(problems),
        resources=Resources(cores, on_host),
    )


def _stages(network: SpikingNetwork) -> list[list[int]]:
    """Layer numbers in groups that each end with a layer of neurons."""
    stages: list[list[int]] = [[]]
    for i, layer in enumerate(network.layers):
        stages[-1].append(i)
        if isinstance(layer, NeuronLayer):
            stages.append([])
    return stages[:-1]


def _neurons(network: SpikingNetwork, stage: Sequence[int]) -> NeuronLayer:
    layer = network.layers[stage[-1]]
    assert isinstance(layer, NeuronLayer)
    return layer


def _placed(
    network: SpikingNetwork, numbers: Sequence[tuple[int, Numbers]], shapes: dict[int, Any]
) -> tuple[list[ChipLayer], tuple[Core, ...], list[str]]:
    """Blocks of every layer, from the last to the first, as axons depend on the blocks after."""
    problems: list[str] = []
    placed: list[ChipLayer] = []
    cores: list[Core] = []
    after: tuple[Table, Blocks] | None = None
    for i, one in reversed(numbers):
        layer = network.layers[i]
        n = one.inputs.n_out
        if i in shapes:
            blocks = _shaped(layer, n, shapes[i])
            if blocks is None:
                problems.append(
                    f"layer {i}: block shape {shapes[i]!r}, wanted a number of neurons from 1 to "
                    f"{n} or (channels, height, width)"
                )
                blocks = (np.arange(n),)
            here = _cores(i, one, blocks, after)
        else:
            blocks, here = _fewest(i, one, n, after)
        for core in here:
            problems += [
                f"layer {i}: a core of {core.use['compartments']} of its {n} neurons needs "
                f"{core.use[name]} {name}, at most {most} fit"
                for name, most in LIMITS.items()
                if core.use[name] > most
            ][:1]
        placed.insert(0, ChipLayer(i, one, blocks))
        cores[:0] = here
        after = one.inputs, blocks
    return placed, tuple(cores), list(dict.fromkeys(problems))


def _fewest(
    i: int, one: Numbers, n: int, after: tuple[Table, Blocks] | None
) -> tuple[Blocks, list[Core]]:
    """The smallest number of equal blocks that all fit; single neurons if none does."""
    count = ceil(n / LIMITS["compartments"])
    while True:
        blocks = tuple(np.array_split(np.arange(n), count))
        cores = _cores(i, one, blocks, after)
        excess = max(max(c.use[name] / LIMITS[name] for name in LIMITS) for c in cores)
        if excess <= 1 or count == n:
            return blocks, cores
        # a block's share of synapses falls with its size at best: no smaller number can do
        count = min(n, max(count + 1, ceil(count * excess) if excess < 64 else 2 * count))


def _shaped(layer: Layer, n: int, shape: Any) -> Blocks | None:
    """Blocks of a given shape, or None if there are no such blocks."""
    try:
        sizes = tuple(int(size) for size in np.atleast_1d(shape))
    except (TypeError, ValueError):
        return None
    whole = layer.output_shape if isinstance(layer, Conv2d) and len(sizes) == 3 else (n,)
    if len(sizes) != len(whole) or min(sizes) < 1 or any(np.array(sizes) > whole):
        return None
    numbers = np.arange(prod(whole)).reshape(whole)
    corners = np.ndindex(*(ceil(w / s) for w, s in zip(whole, sizes, strict=True)))
    return tuple(
        numbers[
            tuple(slice(c * s, (c + 1) * s) for c, s in zip(corner, sizes, strict=True))
        ].ravel()
        for corner in corners
    )


def _cores(i: int, one: Numbers, blocks: Blocks, after: tuple[Table, Blocks] | None) -> list[Core]:
    """What the core of each block of a layer holds."""
    n, count = one.inputs.n_out, len(blocks)
    home = _homes(n, blocks)
    axons, bits, out = (np.zeros(count, dtype=np.int64) for _ in range(3))
    for each in (one.inputs, one.recurrent):
        if each is None:
            continue
        pairs = home[each.targets] * each.n_in + each.senders
        axon, sizes = np.unique(pairs, return_counts=True)
        block = axon // each.n_in
        axons += np.bincount(block, minlength=count)
        bits += [synapse_bits(sizes[block == k], len(blocks[k])) for k in range(count)]
    heard = [] if after is None else [after]
    heard += [] if one.recurrent is None else [(one.recurrent, blocks)]
    for each, targets in heard:
        pairs = np.unique(each.senders * len(targets) + _homes(each.n_out, targets)[each.targets])
        out += np.bincount(home[pairs // len(targets)], minlength=count)
    cores = []
    for k, block in enumerate(blocks):
        thresholds = 1 if one.unit is None else len(np.unique(one.threshold[block]))
        amounts = (len(block), int(axons[k]), int(out[k]), int(bits[k]), thresholds)
        cores.append(Core(i, dict(zip(LIMITS, amounts, strict=True))))
    return cores


def _homes(n: int, blocks: Blocks) -> IntArray:
    """The block of each of n neurons."""
    home = np.zeros(n, dtype=np.int64)
    for k, block in enumerate(blocks):
        home[block] = k
    return home


def synapse_bits(sizes: IntArray, block: int) -> int:
    """Bits of one group of synapses: sizes [axons], numbers of weights behind each axon.

    In entries of up to 64 weights, with 10 bits of their own, each filled up to 64 bits.
    """
    if written_out(sizes, block):
        return _entries(np.full(len(sizes), block), 8)
    return _entries(sizes, 8 + INDEX_BITS[index_code(block)])


def written_out(sizes: IntArray, block: int) -> bool:
    """Whether it takes fewer bits to write out zeros than to number the neurons of the others."""
    indexed = _entries(sizes, 8 + INDEX_BITS[index_code(block)])
    return _entries(np.full(len(sizes), block), 8) <= indexed


def index_code(block: int) -> int:
    """The register's code for numbers that tell `block` neurons apart."""
    return next(code for code, bits in enumerate(INDEX_BITS) if 2**bits >= block)


def _entries(sizes: IntArray, each: int) -> int:
    full, rest = sizes // SYNAPSES_PER_ENTRY, sizes % SYNAPSES_PER_ENTRY
    entry = -(-(SYNAPSES_PER_ENTRY * each + 10) // 64) * 64
    last = np.where(rest > 0, -(-(rest * each + 10) // 64) * 64, 0)
    return int((full * entry + last).sum())
