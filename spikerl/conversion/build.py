"""From a plain stack to a SpikingNetwork, and the fit of its last layer. Imports numpy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spikerl.conversion.stack import PlainLayer, PlainStack
from spikerl.decoding import (
    Categorical,
    Decoder,
    FinalPotential,
    FirstSpike,
    Head,
    Read,
    ResidualPotential,
    SpikeCount,
)
from spikerl.encoding import ConstantCurrent, Encoder, EquidistantSpikes, PoissonSpikes
from spikerl.errors import ConversionError
from spikerl.network import Conv2d, Dense, FloatArray, Layer, Reset, SpikingNetwork

ENCODERS = ("constant", "poisson", "equidistant")
READOUTS = ("auto", "fitted", "copied")
RIDGE = (1e-4, 1e-2, 1.0)  # penalties tried; few observations want a large one
DECODERS = (
    *("potential", "residual_potential"),
    *("spike_count", "signed_spike_count", "first_spike"),
)


@dataclass(frozen=True)
class Recipe:
    """The choices of a conversion that shape the network; see convert() for their meaning."""

    sim_steps: int
    reset: Reset
    threshold: str
    percentile: float
    v_init: float
    encoder: str
    decoder: str
    readout: str
    delay_steps: int
    neurons_per_unit: int | None
    tolerance: float
    rate_scale: float | None = None
    weight_bits: int | None = None
    first_reset: Reset | None = None


def make_encoder(recipe: Recipe, rows: FloatArray) -> Encoder:
    """The encoder; spike trains are scaled to the largest magnitude of each input [B, n]."""
    if recipe.encoder == "constant":
        return ConstantCurrent()
    largest = np.abs(rows).max(axis=0)
    scale = np.where(largest > 0, largest, 1.0)
    kind = PoissonSpikes if recipe.encoder == "poisson" else EquidistantSpikes
    return kind(scale=scale, signed=True)


def make_hidden(
    stack: PlainStack, theta: list[FloatArray], encoder: Encoder, recipe: Recipe
) -> list[Layer]:
    """The spiking layers, thresholds scaled to 1: weight * theta_before / theta, bias / theta.

    A spike of unit j of the layer before stands for theta_before[j] (Rueckauer et al. 2017). For
    signed spike trains the first weights are doubled, once positive and once negative.
    """
    found: list[Layer] = []
    for i, (layer, scale) in enumerate(zip(stack.layers, theta, strict=False)):
        weight = layer.scaled_inputs(theta[i - 1]) if i else _input_weight(layer, encoder)
        if layer.pool is not None:
            found.append(layer.pool)
        found.append(
            layer.neurons(
                weight / scale.reshape(-1, *(1,) * (weight.ndim - 1)),
                layer.bias / scale,
                reset=(recipe.first_reset if i == 0 else None) or recipe.reset,
                v_init=recipe.v_init,
                delay_steps=recipe.delay_steps,
            )
        )
    return found


def rounded(layer: Layer, bits: int | None) -> Layer:
    """Weights and bias as whole multiples of one step, the largest weight 2^(bits - 1) - 1.

    A bias may be larger: chips of few bits have more for it (Loihi 13, Xylo 16).
    """
    if bits is None or not isinstance(layer, (Dense, Conv2d)):
        return layer
    step = (float(np.abs(layer.weight).max()) or 1.0) / (2 ** (bits - 1) - 1)
    weight, bias = (np.rint(part / step) * step for part in (layer.weight, layer.bias))
    return replace(layer, weight=weight, bias=bias)


def last_layer(stack: PlainStack, theta: list[FloatArray], encoder: Encoder) -> PlainLayer:
    """The last linear layer, reading spikes per step instead of activations."""
    last = stack.layers[-1]
    if last.input_shape is not None:
        raise ConversionError(f"{last.name}: a convolution as the last layer is not supported")
    weight = last.scaled_inputs(theta[-1]) if theta else _input_weight(last, encoder)
    return replace(last, weight=weight)


def read_out(last: PlainLayer) -> list[Layer]:
    """The last layer as a read-out, with the pooling before it."""
    return [*pooling(last), Dense(last.weight, last.bias, spiking=False)]


def residual(last: PlainLayer, recipe: Recipe) -> ResidualPotential:
    """The last layer on the host, which reads counts and potentials of the layer before."""
    return ResidualPotential(last.weight, last.bias, v_init=recipe.v_init)


def pooling(layer: PlainLayer) -> list[Layer]:
    """The pooling before a layer, if any."""
    return [] if layer.pool is None else [layer.pool]


def seen(last: PlainLayer, rates: FloatArray) -> FloatArray:
    """What the weights of the last layer see of the rates [B, n] of the spiking layer before."""
    return rates if last.pool is None else last.pool.apply(rates)


def fitted(
    last: PlainLayer, rates: FloatArray, target: FloatArray, head: Head, penalty: float = RIDGE[0]
) -> PlainLayer:
    """The last layer refitted so that rates [B, n] of the spiking net give target [B, n_out].

    Ridge regression towards the given weights (Hoerl & Kennard 1970): the change is penalised, in
    units of the mean variance of the rates; the smallest penalty only keeps directions without data
    unchanged. Decisions that are close count more: see closeness().
    """
    share = closeness(target, head)
    share = share / share.sum()
    error = target - (rates @ last.weight.T + last.bias)
    centre, middle = share @ rates, share @ error
    spread = rates - centre
    weighted = spread.T * share
    covariance = weighted @ spread
    ridge = penalty * np.trace(covariance) / len(covariance) or 1.0
    slope = weighted @ (error - middle)
    change = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), slope).T
    return replace(last, weight=last.weight + change, bias=last.bias + middle - change @ centre)


def closeness(values: FloatArray, head: Head) -> FloatArray:
    """How much each row of values [B, n] matters to a fit: 1 / (gap^2 + median gap^2).

    The gap is that of the two best options. An error of a given size changes the action only where
    the gap is smaller, and a plain least-squares fit would spend its freedom on rows where nothing
    is at stake. All rows count alike where the values are not options.
    """
    if not isinstance(head, Categorical) or max(head.nvec) < 2:
        return np.ones(len(values))
    parts = np.split(values, np.cumsum(head.nvec)[:-1], axis=1)
    best = [np.sort(part, axis=1)[:, -2:] for part in parts if part.shape[1] > 1]
    gap = np.min([pair[:, 1] - pair[:, 0] for pair in best], axis=0)
    floor = float(np.median(gap)) or float(gap.max()) or 1.0
    weight: FloatArray = 1.0 / (gap**2 + floor**2)
    return weight


def close_network(
    hidden: list[Layer], last: PlainLayer, values: FloatArray, stack: PlainStack, recipe: Recipe
) -> tuple[SpikingNetwork, Decoder]:
    """The whole network and its decoder, for the source's values [B, n] on calibration rows.

    "potential": a read-out that never fires; the answer is its mean input.
    "residual_potential": no read-out; the host adds what the last hidden neurons received.
    "spike_count": the last layer spikes. All values are lifted by one offset above zero, divided by
                   one scale (argmax is unchanged), and both are undone when decoding.
    "signed_spike_count": a neuron for +value and one for -value, less the middle of all values.
    "first_spike": as spike_count with a threshold reached once, but the earliest neuron wins; only
                   for choices, and for this number of steps.
    """
    if recipe.decoder == "potential":
        return SpikingNetwork((*hidden, *read_out(last))), Decoder(FinalPotential(), stack.head)
    if recipe.decoder == "residual_potential":
        return SpikingNetwork(tuple(hidden)), Decoder(residual(last, recipe), stack.head)
    if recipe.decoder == "first_spike" and not isinstance(stack.head, Categorical):
        raise ConversionError(
            "first_spike orders actions: it cannot give continuous or binary ones"
        )
    weight, bias, offset = last.weight, last.bias, 0.0
    if recipe.decoder == "signed_spike_count":
        # What all values have in common is left out: a pair spends its resolution on the rest.
        offset = -(float(values.max()) + float(values.min())) / 2
        weight = np.concatenate([weight, -weight])
        bias = np.concatenate([bias + offset, -(bias + offset)])
        scale = float(np.abs(values + offset).max()) or 1.0
    else:
        first = recipe.decoder == "first_spike"
        span = float(values.max() - values.min()) or 1.0
        # Room below for values not seen. The earliest spike comes half-way through the window and
        # that of the smallest value towards its end: 1.2 and 2.2 spans of current up to a threshold
        # of T / 2 times the larger one.
        offset = (1.2 if first else 0.1) * span - float(values.min())
        scale = (float(values.max()) + offset) * (recipe.sim_steps / 2 if first else 1.0)
        bias = bias + offset
    head_layer = Dense(
        weight / scale,
        bias / scale,
        reset=recipe.reset,
        v_init=0.0 if recipe.decoder == "first_spike" else recipe.v_init,
    )
    read: Read = (
        FirstSpike()
        if recipe.decoder == "first_spike"
        else SpikeCount(scale, -offset, signed=recipe.decoder == "signed_spike_count")
    )
    return SpikingNetwork((*hidden, *pooling(last), head_layer)), Decoder(read, stack.head)


def _input_weight(layer: PlainLayer, encoder: Encoder) -> FloatArray:
    if isinstance(encoder, ConstantCurrent):
        return layer.weight
    if layer.input_shape is not None or layer.pool is not None:
        raise ConversionError(
            f"{layer.name}: images go in as constant current; this encoder is for vectors"
        )
    scaled: FloatArray = layer.weight * encoder.scale  # type: ignore[attr-defined]
    return np.concatenate([scaled, -scaled], axis=1)
