"""Rewriting before conversion: every activation becomes a sum of ramps, which neurons can be.

An integrate-and-fire neuron fires at the rate clip(z / theta, 0, 1): a ramp with a ceiling. Several
of them with knots side by side make any activation, piecewise linear between the knots, and divide
a ReLU into finer steps: k neurons resolve k * T levels. Imports numpy and the plain stack.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from spikerl.conversion.activations import relu
from spikerl.conversion.stack import Activation, PlainLayer, PlainStack
from spikerl.conversion.thresholds import LEAST, layer_thresholds
from spikerl.errors import ConversionError
from spikerl.network import FloatArray

COUNTS = (1, 2, 3, 4, 6, 8, 12, 16)  # ramps per unit that are tried
GRID = 128  # points a unit's range is looked at
# Shares of the knots that go where rates in steps of 1 / T, or straight lines, are a poor stand-in
# for frequent inputs; the rest is spread evenly, for inputs that calibration has not seen.
WISHES = (0.5, 0.3, 0.2)


@dataclass(frozen=True)
class Ramps:
    """How one layer was rewritten: neurons per unit, and the largest error of the ramps in % of the
    activation's range, over the calibration observations."""

    name: str
    per_unit: int
    error: float


def rewritten(
    stack: PlainStack,
    rows: FloatArray,
    rule: str,
    percentile: float,
    per_unit: int | None,
    tolerance: float,
) -> tuple[PlainStack, list[Ramps]]:
    """The stack with ReLUs only, and what became of its layers.

    per_unit:  neurons per unit; None: 1 for a ReLU, else the fewest that keep the tolerance.
    tolerance: mean error of the ramps as a share of the activation's standard deviation.
    Raises ConversionError naming a layer whose ramps cannot be put in front of the next layer.
    """
    if not any(_divided(layer, per_unit) for layer in stack.layers):
        return stack, []
    layers, notes = list(stack.layers), []
    for i, (layer, x) in enumerate(zip(stack.layers[:-1], _inputs(stack, rows), strict=False)):
        if not _divided(layer, per_unit):
            continue
        assert layer.activation is not None
        z = layer.by_unit(layer.linear(x))
        low, high = _range(layer, z, rule, percentile)
        knots, error = _knots(layer.activation, z, low, high, per_unit, tolerance)
        notes.append(Ramps(layer.name, knots.shape[1] - 1, 100 * error))
        # The numbers of this layer may have been changed by the one before.
        layers[i], layers[i + 1] = _divide(layers[i], layers[i + 1], knots, layer.activation)
    return stack.with_layers(tuple(layers)), notes


def _divided(layer: PlainLayer, per_unit: int | None) -> bool:
    if layer.activation is None:
        return False
    return layer.activation is not relu or (per_unit or 1) > 1


def _inputs(stack: PlainStack, rows: FloatArray) -> Iterator[FloatArray]:
    yield rows
    yield from stack.activations(rows)


def _range(
    layer: PlainLayer, z: FloatArray, rule: str, percentile: float
) -> tuple[FloatArray, FloatArray]:
    """Where the ramps of each unit begin and end, [units] each."""
    if layer.activation is relu:
        high = layer_thresholds(layer.name, np.maximum(z, 0.0), rule, percentile)
        return np.zeros(len(high)), high
    low, high = np.percentile(z, [100 - percentile, percentile], axis=0)
    if rule == "layer":
        low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
    middle, half = (low + high) / 2, (high - low) / 2
    half = np.maximum(half, max(LEAST * float(half.max()), 1e-6))  # as for thresholds
    return middle - half, middle + half


def _knots(
    activation: Activation,
    z: FloatArray,
    low: FloatArray,
    high: FloatArray,
    per_unit: int | None,
    tolerance: float,
) -> tuple[FloatArray, float]:
    """Knots [units, ramps + 1], and the error of the ramps as a share of the activation's range.

    They lie densely where inputs are frequent and the activation is steep or bent. A density of
    (p slope^2)^(1/3) makes the mean squared error of rates in steps of 1 / T smallest (Panter &
    Dite 1951), one of (p bend^2)^(1/5) that of straight lines (de Boor 1973).
    """
    at = np.linspace(0.0, 1.0, GRID)
    grid = low + (high - low) * at[:, None]  # [GRID, units]
    slope = np.gradient(activation(grid), axis=0)
    bend = np.abs(np.gradient(slope, axis=0))
    slope = np.abs(slope)
    place = np.clip((z - low) / (high - low) * GRID, 0, GRID - 1).astype(np.int64)
    units = len(low)
    flat = place + np.arange(units) * GRID
    inside = (z > low) & (z < high)
    density = np.bincount(flat[inside], minlength=units * GRID).reshape(units, GRID).T + 0.01
    wishes = (np.cbrt(density * slope**2), (density * bend**2) ** 0.2, slope)
    shares = (part / np.maximum(part.sum(axis=0), 1e-300) for part in wishes)
    total = np.cumsum(sum(w * part for w, part in zip(WISHES, shares, strict=True)), axis=0)
    total = (total - total[0]) / np.maximum(total[-1] - total[0], 1e-300)
    exact = activation(z)
    scale = float(exact.std()) or 1.0
    for count in COUNTS if per_unit is None else (per_unit,):
        share = np.linspace(0.0, 1.0, count + 1)
        inner = np.stack([np.interp(share, total[:, u], at) for u in range(units)])
        inner[:, 0], inner[:, -1] = 0.0, 1.0
        knots = low[:, None] + (high - low)[:, None] * _apart(inner)
        found = np.stack(
            [np.interp(z[:, u], knots[u], activation(knots[u])) for u in range(units)], axis=1
        )
        error = np.abs(found - exact)
        if error.mean() <= tolerance * scale:
            break
    span = float(exact.max() - exact.min()) or 1.0
    return knots, float(error.max()) / span


def _apart(share: FloatArray) -> FloatArray:
    """Knots of a unit [units, n] in [0, 1] at least a thousandth apart: no ramp is a cliff."""
    n = share.shape[1]
    even = np.linspace(0.0, 1.0, n)
    gap = 1e-3
    mixed: FloatArray = share * (1 - gap * (n - 1)) + even * gap * (n - 1)
    return mixed


def _divide(
    layer: PlainLayer, after: PlainLayer, knots: FloatArray, activation: Activation
) -> tuple[PlainLayer, PlainLayer]:
    """A layer with a neuron for every ramp, and the next one, which adds them up."""
    width = np.diff(knots, axis=1)
    heights = activation(knots)
    rise, start = np.diff(heights, axis=1), heights[:, 0]
    count = width.shape[1]
    tail = (1,) * (layer.weight.ndim - 1)
    weight = np.repeat(layer.weight, count, axis=0) / width.reshape(-1, *tail)
    bias = (np.repeat(layer.bias, count) - knots[:, :-1].reshape(-1)) / width.reshape(-1)
    if np.any(start) and any(after.padding):
        raise ConversionError(
            f"{after.name} pads the map with zeros, which {layer.name} cannot give: its activation "
            "is not 0 where its neurons are silent; use padding=0, or ReLU before it"
        )
    divided = replace(
        layer, weight=weight, bias=bias, activation=relu, ceiling=np.ones(len(weight))
    )
    return divided, after.with_divided_inputs(rise, start)
