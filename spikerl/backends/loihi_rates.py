"""Firing rates of a network's layers, scaled one by one, without changing what they stand for.

Imports numpy, errors and network. The factors are the scale_firing_rates of nengo's converter: a
layer that fires s times as often, before neurons that count each of its spikes 1/s times. Where
neurons saturate at one spike per step, or lose what exceeds a threshold at reset, rates matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from spikerl.errors import ShapeError
from spikerl.network import Layer, NeuronLayer, SpikingNetwork
from spikerl.reference import as_drive, simulate


def rate_scaled(network: SpikingNetwork, factors: ArrayLike) -> SpikingNetwork:
    """The network whose spiking layers receive, and so fire, `factors` [spiking layers] times more.

    Raises ShapeError for other numbers of factors, for factors that are not finite and > 0, and
    where the last layer spikes, which would change the answer, and has a factor other than 1.
    """
    wanted = len(network.spiking_layers)
    given = np.asarray(factors, dtype=np.float64)
    if given.shape != (wanted,) or not (np.isfinite(given) & (given > 0)).all():
        raise ShapeError(
            f"rate factors {factors!r}, wanted {wanted}, one > 0 for each spiking layer"
        )
    if network.readout.spiking and given[-1] != 1:
        raise ShapeError(
            f"the last layer's spikes are the answer: its rate factor must be 1, found {given[-1]}"
        )
    layers: list[Layer] = []
    left = list(given)
    before = 1.0
    for layer in network.layers:
        if isinstance(layer, NeuronLayer):
            factor = left.pop(0) if layer.spiking else 1.0
            one: Any = layer
            fields: dict[str, Any] = {
                "weight": one.weight * (factor / before),
                "bias": one.bias * factor,
                "v_init": layer.v_init * factor,
                "v_min": None if layer.v_min is None else layer.v_min * factor,
            }
            layer, before = replace(one, **fields), factor
        layers.append(layer)
    return SpikingNetwork(tuple(layers), network.dt_ms)


def mean_rates(network: SpikingNetwork, drive: ArrayLike) -> list[float]:
    """Spikes per step of each spiking layer's neurons that fire at all, under a drive [T, B, n].

    Neurons that are silent under the whole drive are left out: a factor does not wake them.
    """
    recording = simulate(network, as_drive(drive, network))
    rates = []
    for counts in recording.counts:
        awake = counts[:, counts.any(axis=0)]
        rates.append(float(awake.mean()) / recording.sim_steps if awake.size else 0.0)
    return rates


def factors_for(network: SpikingNetwork, drive: ArrayLike, target: float) -> Sequence[float]:
    """Rate factors that bring each layer's mean rate to `target` spikes per step if none saturates.

    A layer that stays silent, and a last layer that spikes, keep the factor 1.
    """
    factors = [target / rate if rate else 1.0 for rate in mean_rates(network, drive)]
    if network.readout.spiking:
        factors[-1] = 1.0
    return factors
