"""Threshold rules: how large an activation a spike per step stands for. Imports numpy.

Every rule gives theta [n] per hidden layer; build.py then scales weights so that all thresholds
are 1 (weight normalisation, Diehl et al. 2015; Rueckauer et al. 2017).
"""

from __future__ import annotations

import numpy as np

from spikerl.conversion.stack import PlainStack
from spikerl.errors import ConversionError
from spikerl.network import FloatArray

RULES = ("neuron", "layer", "model")


def thresholds(
    stack: PlainStack, rows: FloatArray, rule: str, percentile: float
) -> list[FloatArray]:
    """Theta [n] of every hidden layer from calibration rows [B, n_in].

    "neuron": the percentile of each neuron's activation; 100 is the data-based maximum. A neuron
              whose percentile is 0 but that was active takes its maximum; one that never was takes
              its layer's value, so that it can speak in situations not seen.
    "layer":  the percentile of all activations of the layer, one theta for all (robust
              normalisation).
    "model":  no activations used: the largest sum of positive contributions that inputs up to the
              largest seen can cause, one theta for all.
    Raises ConversionError naming every layer that is dead: no neuron active on any row.
    """
    if rule == "model":
        return _model_based(stack, rows)
    hidden = stack.activations(rows)[:-1]
    dead = [
        f"{layer.name}: no neuron is active on any of {len(rows)} calibration observations"
        for layer, a in zip(stack.layers, hidden, strict=False)
        if not (a > 0).any()
    ]
    if dead:
        raise ConversionError("a dead layer cannot be converted: its output is constant", dead)
    return [_data_based(a, rule, percentile) for a in hidden]


def _data_based(activation: FloatArray, rule: str, percentile: float) -> FloatArray:
    whole = float(np.percentile(activation, percentile)) or float(activation.max())
    if rule == "layer":
        return np.full(activation.shape[1], whole)
    theta = np.percentile(activation, percentile, axis=0)
    theta = np.where(theta > 0, theta, activation.max(axis=0))
    return np.where(theta > 0, theta, whole)


def _model_based(stack: PlainStack, rows: FloatArray) -> list[FloatArray]:
    low, high = rows.min(axis=0), rows.max(axis=0)
    found = []
    for layer in stack.layers[:-1]:
        positive, negative = np.maximum(layer.weight, 0.0), np.minimum(layer.weight, 0.0)
        bound = np.maximum(positive @ high + negative @ low + layer.bias, 0.0)
        theta = float(bound.max())
        if theta <= 0:
            raise ConversionError(f"{layer.name}: no input in the range seen can make it active")
        found.append(np.full(len(bound), theta))
        low, high = np.zeros(len(bound)), bound
    return found
