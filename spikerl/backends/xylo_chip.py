"""What a Xylo chip holds, and how much of it a network takes.

Imports numpy and the core; no simulator. The limits are those of Rockpool's overview of the Xylo
family. Its mapper and the simulator check few of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spikerl.backends.xylo_core import Core, IntArray


@dataclass(frozen=True)
class Chip:
    """One chip of the family.

    fan_out:  hidden neurons that one hidden neuron may reach.
    synapses: between hidden neurons, in all.
    reached:  how many hidden neurons, from the first on, input channels may reach.
    read:     how many hidden neurons, from the last back, outputs may hear.
    support:  Rockpool's module for it.
    """

    name: str
    inputs: int
    hidden: int
    outputs: int
    fan_out: int
    synapses: int
    reached: int
    read: int
    support: str


AUDIO_2 = Chip("Xylo-Audio 2", 16, 1000, 8, 64, 32 * 1000, 1000, 1000, "syns61201")
AUDIO_3 = Chip("Xylo-Audio 3", 16, 992, 32, 1024, 32 * 992, 128, 128, "syns65302")


@dataclass(frozen=True)
class Use:
    """How much of one resource is used, and how much there is; prints as one line.

    advice: what to do about an excess.
    """

    what: str
    found: int
    most: int
    advice: str

    @property
    def excess(self) -> int:
        """How much too much, 0 if it fits."""
        return max(0, self.found - self.most)

    def __str__(self) -> str:
        text = f"{self.found} {self.what}, at most {self.most} fit"
        return f"{text}, {self.excess} too many: {self.advice}" if self.excess else text


@dataclass(frozen=True)
class Resources:
    """What a network takes of a chip; prints as one line per resource."""

    chip: Chip
    uses: tuple[Use, ...]

    @property
    def problems(self) -> list[str]:
        """One line per resource of which there is not enough."""
        return [f"{self.chip.name}: {use}" for use in self.uses if use.excess]

    def __str__(self) -> str:
        return "\n".join([f"{self.chip.name}:", *(f"  {use}" for use in self.uses)])


def used(core: Core, chip: Chip, parts: Sequence[tuple[str, int]]) -> Resources:
    """What a core takes of a chip.

    parts: what the input channels are for, and how many each takes.
    """
    channels = " + ".join(f"{n} {what}" for what, n in parts if n)
    narrow = "make the layers narrower, or leave weights out"
    targets = core.weights_rec.any(axis=0).sum(axis=1)
    into = np.flatnonzero(core.weights_in.any(axis=(0, 1)))
    out_of = np.flatnonzero(core.weights_out.any(axis=1))
    far = int(core.n_hidden - out_of.min()) if len(out_of) else 0
    return Resources(
        chip,
        (
            Use(
                f"input channels ({channels})",
                core.n_in,
                chip.inputs,
                "take fewer observations; v_init=0 needs no channel to start, and an encoder that "
                "sends spikes needs one channel per spike train",
            ),
            Use("hidden neurons", core.n_hidden, chip.hidden, narrow),
            Use("output neurons", core.n_out, chip.outputs, "take a chip with more outputs"),
            Use("hidden neurons reached by one", _most(targets), chip.fan_out, narrow),
            Use("synapses between hidden neurons", int(targets.sum()), chip.synapses, narrow),
            Use(
                "hidden neurons, from the first on, before the last that inputs reach",
                _most(into + 1),
                chip.reached,
                "make the first layer narrower; v_init=0 beyond it",
            ),
            Use(
                "hidden neurons, from the last back, to the first that outputs hear",
                far,
                chip.read,
                "make the last hidden layer narrower",
            ),
        ),
    )


def _most(found: IntArray) -> int:
    return int(found.max()) if len(found) else 0
