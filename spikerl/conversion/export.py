"""A policy that spikes already, written down as the network it is. Imports numpy and the core."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.conversion.build import Recipe
from spikerl.conversion.candidate import Candidate
from spikerl.conversion.sequences import recording_in_order, values_in_order
from spikerl.conversion.simulation import recordings
from spikerl.conversion.sources import Source
from spikerl.conversion.stack import PlainStack, Spikes
from spikerl.decoding import Decoder, FinalPotential, WeightedCount
from spikerl.encoding import ConstantCurrent
from spikerl.errors import ConversionError
from spikerl.network import Dense, FloatArray, SpikingNetwork

TOLERANCE = 1e-9  # of the largest value: sums of the same numbers in another order


def exported(stack: PlainStack) -> Candidate:
    """The spiking layers and their read-out, with nothing fitted."""
    (last,) = stack.layers
    assert last.spikes is not None
    encoder = last.spikes.encoder or ConstantCurrent()
    if last.spikes.stateful:
        read = WeightedCount(last.weight, last.bias)
        network = SpikingNetwork(last.spikes.layers)
        return Candidate(stack, [], [], encoder, network, Decoder(read, stack.head), None)
    network = SpikingNetwork((*last.spikes.layers, Dense(last.weight, last.bias, spiking=False)))
    decoder = Decoder(FinalPotential(), stack.head)
    return Candidate(stack, [], [], encoder, network, decoder, None)


def recipe(spikes: Spikes, made: Candidate) -> dict[str, Any]:
    """What is said of a network that was trained: the rest of it is the network itself.

    weight_bits: of each layer of neurons; a read-out's are not rounded.
    """
    bits = spikes.weight_bits
    plain = len(made.network.neuron_layers) - len(bits)
    return {
        "trained": True,
        "sim_steps": spikes.sim_steps,
        "weight_bits": [*bits, *[32] * plain],
    }


def check_exported(
    origin: Source,
    made: Candidate,
    rows: FloatArray,
    groups: NDArray[np.int64],
    sim_steps: int,
) -> None:
    """Compare the network's values with the policy's; raises ConversionError if they differ.

    groups: [B], the episode or block of time of each row, for a policy that remembers.
    """
    network = (made.network, made.encoder, rows)
    if origin.stack.stateful:
        recording = recording_in_order(*network, groups, sim_steps, 0)
    else:
        recording = recordings(*network, sim_steps, 0)
    ours = made.decoder.values(recording)
    theirs = values_in_order(origin.stack, rows, groups)
    error = float(np.abs(ours - theirs).max())
    if error > TOLERANCE * max(1e-3, float(np.abs(theirs).max())):
        raise ConversionError(
            f"the exported network's values differ from the policy's by up to {error:.3g}: the "
            "policy computes something its layers do not say"
        )


def check_settings(recipe: Recipe, usual: Recipe, own_steps: int, asked: int | None) -> None:
    """Refuse settings of a conversion: there is nothing to choose for a policy that spikes."""
    problems = [
        f"{name}={value!r}"
        for (name, value), other in zip(asdict(recipe).items(), asdict(usual).values(), strict=True)
        if value != other and name != "sim_steps"
    ]
    if asked is not None and asked != own_steps:
        problems.append(f"sim_steps={asked}, where it was trained with {own_steps}")
    if problems:
        raise ConversionError(
            "this policy spikes already and is exported as it is; leave these out", problems
        )
