"""Threshold rules: how large an activation a spike per step stands for. Imports numpy.

Every rule gives theta [units] per hidden layer; build.py then scales weights so that all thresholds
are 1 (weight normalisation, Diehl et al. 2015; Rueckauer et al. 2017).
"""

from __future__ import annotations

import numpy as np

from spikerl.conversion.stack import PlainStack
from spikerl.errors import ConversionError
from spikerl.network import FloatArray

RULES = ("neuron", "layer", "model")
# A unit that is hardly ever active would get a threshold near 0, and inputs of many thousand
# thresholds, which no chip and no fixed-point number can hold; what it says does not matter.
LEAST = 0.01  # of the layer's own percentile


def thresholds(
    stack: PlainStack, rows: FloatArray, rule: str, percentile: float
) -> list[FloatArray]:
    """Theta [units] of every hidden layer from calibration rows [B, n_in].

    "neuron": the percentile of each unit's activation; 100 is the data-based maximum. A unit whose
              percentile is 0 but that was active takes its maximum; one that never was takes its
              layer's value, so that it can speak in situations not seen.
    "layer":  the percentile of all activations of the layer, one theta for all (robust
              normalisation).
    "model":  no activations used: the largest sum of positive contributions that inputs up to the
              largest seen can cause, one theta for all.
    A layer with a ceiling has its theta already. A unit of a convolution is a channel.
    Raises ConversionError naming every layer that is dead: no unit active on any row.
    """
    if rule == "model":
        return _model_based(stack, rows)
    found: list[FloatArray] = []
    dead: list[str] = []
    for layer, values in zip(stack.layers[:-1], stack.activations(rows), strict=False):
        try:
            if layer.ceiling is None:
                theta = layer_thresholds(layer.name, layer.by_unit(values), rule, percentile)
            else:
                theta = layer.ceiling
            found.append(theta)
        except ConversionError as error:
            dead += error.problems
    if dead:
        raise ConversionError("a dead layer cannot be converted: its output is constant", dead)
    return found


def layer_thresholds(name: str, activation: FloatArray, rule: str, percentile: float) -> FloatArray:
    """Theta [units] of one layer from its activations [N, units], for rules that use them."""
    if not (activation > 0).any():
        raise ConversionError(
            f"{name}: no neuron is active on any of {len(activation)} calibration observations"
        )
    whole = float(np.percentile(activation, percentile)) or float(activation.max())
    if rule == "layer":
        return np.full(activation.shape[1], whole)
    theta = np.percentile(activation, percentile, axis=0)
    theta = np.where(theta > 0, theta, activation.max(axis=0))
    theta = np.where(theta > 0, theta, whole)
    return np.maximum(theta, LEAST * whole)


def _model_based(stack: PlainStack, rows: FloatArray) -> list[FloatArray]:
    low, high = rows.min(axis=0), rows.max(axis=0)
    found = []
    for layer in stack.layers[:-1]:
        geometry = layer.input_shape or (layer.pool.input_shape if layer.pool else None)
        inputs = len(low) if geometry is None else geometry[0]
        low, high = low.reshape(inputs, -1).min(axis=1), high.reshape(inputs, -1).max(axis=1)
        parts = layer.weight.reshape(layer.units, inputs, -1)
        positive = np.maximum(parts, 0.0).sum(axis=2)
        negative = np.minimum(parts, 0.0).sum(axis=2)
        if any(layer.padding):
            low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        bound = np.maximum(positive @ high + negative @ low + layer.bias, 0.0)
        if bound.max() <= 0:
            raise ConversionError(f"{layer.name}: no input in the range seen can make it active")
        theta = np.full(len(bound), bound.max()) if layer.ceiling is None else layer.ceiling
        found.append(theta)
        low, high = np.zeros(len(bound)), np.minimum(bound, theta)
    return found
