"""chip_instance(): a network as one chip of a series would hold it. Imports numpy and network.

Analogue circuits differ from chip to chip: every weight and every threshold is off by some per
cent, fixed once the chip is made. An agent that is to run on any of them is measured on several.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from spikerl.agent import SpikingAgent
from spikerl.errors import SpikerlError
from spikerl.network import NeuronLayer, SpikingNetwork

LEAST = 0.1  # of what a value was meant to be
Deployable = TypeVar("Deployable", SpikingAgent, SpikingNetwork)


def chip_instance(deployable: Deployable, mismatch: float, seed: int) -> Deployable:
    """A copy whose weights, biases and thresholds are off as on one chip.

    Each is multiplied by a number of its own from a normal distribution around 1 with standard
    deviation mismatch, cut at 0.1 (the model that Dynap-SE2 is trained with, Cakal et al. 2024).

    deployable: a SpikingAgent or a SpikingNetwork.  seed: which chip.
    Raises SpikerlError for a mismatch that is no number >= 0.
    """
    number = isinstance(mismatch, (int, float)) and not isinstance(mismatch, bool)
    if not number or not 0 <= mismatch < np.inf:
        raise SpikerlError(f"mismatch must be a number >= 0, found {mismatch!r}")
    if isinstance(deployable, SpikingAgent):
        network = chip_instance(deployable.network, mismatch, seed)
        note = {**deployable.provenance, "chip": {"mismatch": float(mismatch), "seed": seed}}
        return replace(deployable, network=network, provenance=note, report=None)
    rng = np.random.default_rng(seed)

    def off(array: Any, shape: tuple[int, ...]) -> Any:
        factor = np.maximum(1 + mismatch * rng.standard_normal(shape), LEAST)
        return None if array is None else array * factor

    layers = []
    for layer in deployable.layers:
        if isinstance(layer, NeuronLayer):
            parts = {
                name: off(array, array.shape)
                for name in ("weight", "bias", "recurrent")
                if (array := getattr(layer, name, None)) is not None
            }
            if layer.spiking:
                parts["v_threshold"] = off(layer.v_threshold, (layer.n_out,))
            layer = replace(layer, **parts)
        layers.append(layer)
    return SpikingNetwork(tuple(layers), deployable.dt_ms)
