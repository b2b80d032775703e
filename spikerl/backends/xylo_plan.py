"""How a network is written in the numbers of a Xylo chip, and what of it does not fit.

Imports numpy and the core; no simulator. The hidden layers lie one after the other in the chip's
one hidden population, each fed by a block of its recurrent weights; the last layer is the output
population. Each neuron has a scale of its own, chip units per unit of the network, as large as its
weights (of a shift that all neurons share), threshold and bias allow: the larger it is, the less a
leak of one unit per step and the rounding of halved currents matter.

- A weight has 8 bits. Hidden neurons have two synapses, which share a weight: 9 bits. A read-out is
  two outputs where there is room, the second for what rounding took from the weights of the first.
- A number of the drive is sent as events, at most 15 per step, that add up to it; with a channel
  for each sign where there is room. One event moves half of the neurons by no more than `event`
  thresholds, so that small numbers behind large weights are as fine as others.
- A reset leaves membranes at zero. Events of one more channel, sent with the first step, bring
  hidden neurons to v_init; outputs that fire hear of theirs from a hidden neuron it makes fire.
- A read-out gains LIFT per step, so that its membrane stays above zero, and fires at 2 LIFT, so
  that it stays in 16 bits: the host adds up again what both have changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spikerl.backends.base import Capabilities, capability_problems
from spikerl.backends.xylo_chip import AUDIO_2, Chip, Resources, used
from spikerl.backends.xylo_core import (
    HIGHEST,
    MAX_INPUT_EVENTS,
    MAX_SHIFT,
    MAX_WEIGHT,
    NO_LEAK,
    Core,
    IntArray,
)
from spikerl.network import Dense, FloatArray, Layer, SpikingNetwork

THRESHOLD = 2**14  # largest threshold: membranes end below two of them, so one spike per step
BOTH = 2 * MAX_WEIGHT  # largest weight of two synapses together
LIFT = 2**13 - 1  # what a read-out gains per step, and more than its inputs may add or take
EVENT = 0.5  # thresholds by which one event of an input may move the median neuron
WASTE = 1.25  # rounding errors of weights that a larger shift may cost, as a factor
DASH_SYN = 1  # halves a current each step, the shortest there is: 0 would lose it
DELAY = 2  # steps until a spike is heard, on average: half of it after 1, a quarter after 2, ...


def capabilities_of(chip: Chip) -> Capabilities:
    """What networks a chip takes, and what is promised about them."""
    return Capabilities(
        exactness="unverified",  # of the contract; xylo_core.py is verified in every slot
        resets=frozenset({"subtract"}),
        layers=frozenset({"Dense", "Flatten"}),
        decay=False,
        refractory=False,
        v_min=False,
        min_delay_steps=DELAY,
        max_delay_steps=DELAY,
        records=frozenset({"counts", "potential", "potentials"}),
        batching="loop",
        weight_bits=8,  # 9 of two synapses, less what inputs with events of unlike sizes lose
        weight_steps="neuron",
        limits={"inputs": chip.inputs, "neurons": chip.hidden + chip.outputs},
    )


@dataclass(frozen=True, eq=False)
class Plan:
    """A network on a chip.

    core:      the numbers the chip is configured with.
    effective: the network nearest to what they do, in spikerl's units.
    hidden:    where each hidden layer lies in the hidden population.
    scales:    of every layer, chip units per unit of the network; the last one of every output
               neuron, of which a read-out may have two for each of its own.
    signed:    whether every input has a channel for each sign.
    events:    of the channel for v_init, sent with the first step; 0 where there is none.
    units:     [n_in], what one event of an input stands for; powers of two up to 1.
    resources: what it takes of the chip.  problems: why the chip cannot hold it, if it cannot.
    """

    chip: Chip
    core: Core
    effective: SpikingNetwork
    hidden: tuple[slice, ...]
    scales: tuple[FloatArray, ...]
    signed: bool
    events: int
    units: FloatArray
    resources: Resources
    problems: tuple[str, ...]


def problems(network: SpikingNetwork, chip: Chip, capabilities: Capabilities) -> list[str]:
    """Every reason a chip cannot hold a network; empty if it can."""
    found = capability_problems(capabilities, network)
    layers = [layer for layer in network.layers if isinstance(layer, Dense)]
    if len(layers) != len(network.neuron_layers):
        return found
    if layers[-1].recurrent is not None:
        found.append(f"layer {len(network.layers) - 1}: output neurons reach no neuron")
    if len(layers) < 2:
        return [
            *found,
            "found 1 layer of neurons, wanted 2 or more: outputs hear hidden neurons, not inputs",
        ]
    return found + list(plan(network, chip).problems)


def plan(network: SpikingNetwork, chip: Chip = AUDIO_2, event: float = EVENT) -> Plan:
    """Scales, shifts and whole numbers of a network with two or more Dense layers.

    event: thresholds by which one event of an input may move the median neuron, > 0.
    """
    *before, last = (layer for layer in network.layers if isinstance(layer, Dense))
    starter = last.spiking and bool(last.v_init.any())  # one more hidden neuron
    extra = int(starter or any(layer.v_init.any() for layer in before))
    signed = 2 * network.n_in + extra <= chip.inputs

    units = _units(before[0], event)
    first = before[0].weight * units
    shift_in = _shift([(before[0], first)], BOTH)
    shift_rec = _shift(
        [(layer, w) for k, layer in enumerate(before) for w in _heard(layer, k)], BOTH
    )
    scales = []
    for k, layer in enumerate(before):
        parts = [(w, BOTH << shift_rec) for w in _heard(layer, k)]
        parts += [(first, BOTH << shift_in)] if k == 0 else []
        parts += [(_start(layer), (BOTH << shift_in) * MAX_INPUT_EVENTS)]
        scales.append(_scale(layer, parts))
    events = _events(before, scales, BOTH << shift_in) if extra else 0

    ends = np.cumsum([layer.n_out for layer in before]).tolist()
    places = tuple(slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True))
    n, channels = ends[-1] + starter, network.n_in * (1 + signed)
    weights_in, weights_rec = _zeros(2, channels + extra, n), _zeros(2, n, n)
    threshold, bias, dash_mem = _zeros(n) + 1, _zeros(n), _zeros(n) + NO_LEAK
    for k, (layer, scale, place) in enumerate(zip(before, scales, places, strict=True)):
        threshold[place] = np.maximum(_near(layer.v_threshold * scale), 1)
        bias[place] = _near(layer.bias * scale)
        if k:
            weights_rec[:, places[k - 1], place] = _halves(_whole(layer.weight, scale, shift_rec))
        else:
            one = _halves(_whole(first, scale, shift_in))
            weights_in[:, :channels, place] = np.concatenate([one, -one], axis=1)[:, :channels]
        if layer.recurrent is not None:
            weights_rec[:, place, place] = _halves(_whole(layer.recurrent, scale, shift_rec))
        if events:
            weights_in[:, -1:, place] = _halves(_whole(_start(layer) / events, scale, shift_in))
    if starter:
        # It fires from half of what it is sent, which arrives at once; what comes later leaks away.
        weights_in[:, -1, -1] = MAX_WEIGHT
        threshold[-1] = min(events * MAX_WEIGHT << shift_in, HIGHEST)
        dash_mem[-1] = 1

    out = _outputs(last, 2 * last.n_out <= chip.outputs)
    weights_out = _zeros(n, len(out.scale))
    weights_out[places[-1]] = out.weights
    if starter:
        weights_out[-1] = out.start
    core = Core(
        weights_in,
        weights_rec,
        weights_out,
        *(shift_in, shift_rec, out.shift),
        *(threshold, bias, dash_mem, _zeros(n) + DASH_SYN),
        *(out.threshold, out.bias, _zeros(len(out.scale)) + NO_LEAK),
        dash_syn_out=_zeros(len(out.scale)) + DASH_SYN,
    )
    what = "for the inputs, one for each sign" if signed else "for the inputs"
    resources = used(core, chip, [(what, channels), ("for v_init", extra)])
    made = Plan(
        *(chip, core, network, places, (*scales, out.scale)),
        *(signed, events, units, resources, ()),
    )
    made = replace(made, effective=_effective(network, made))
    return replace(made, problems=(*resources.problems, *_lost(network, made)))


@dataclass(frozen=True, eq=False)
class _Outputs:
    """The output population: its numbers as in Core, [n] and weights [hidden of one layer, n].

    start: [n], weights from the neuron that brings outputs to v_init.
    """

    weights: IntArray
    start: IntArray
    shift: int
    scale: FloatArray
    threshold: IntArray
    bias: IntArray


def _outputs(last: Dense, twice: bool) -> _Outputs:
    """The last layer; twice: a second output for each of a read-out, for what rounding takes."""
    if last.spiking:
        into = [last.weight, *([_start(last)] if last.v_init.any() else [])]
        shift = _shift([(last, w) for w in into], MAX_WEIGHT)
        scale = _scale(last, [(w, MAX_WEIGHT << shift) for w in into])
        threshold = np.maximum(_near(last.v_threshold * scale), 1)
        start = _whole(_start(last), scale, shift)[0]
        bias = _near(last.bias * scale)
        return _Outputs(_whole(last.weight, scale, shift), start, shift, scale, threshold, bias)
    shift = _shift([(last, last.weight)], MAX_WEIGHT)
    parts: list[tuple[IntArray, FloatArray, IntArray]] = []
    left = last
    for _ in range(1 + twice):
        scale = _scale(left, [(left.weight, MAX_WEIGHT << shift)])
        weights, bias = _whole(left.weight, scale, shift), _near(left.bias * scale)
        parts.append((weights, scale, bias))
        held = (weights << shift).T / scale[:, None]
        left = replace(left, weight=left.weight - held, bias=left.bias - bias / scale)
    scale = np.concatenate([part[1] for part in parts])
    return _Outputs(
        weights=np.concatenate([part[0] for part in parts], axis=1),
        start=_zeros(len(scale)),
        shift=shift,
        scale=scale,
        threshold=_zeros(len(scale)) + 2 * LIFT,
        bias=np.concatenate([part[2] for part in parts]) + LIFT,
    )


def _units(layer: Dense, event: float) -> FloatArray:
    """What one event of each input stands for: [n_in]; so that spikes are whole events, 1 / 2^k."""
    threshold = np.broadcast_to(layer.v_threshold, layer.n_out)[:, None]
    usual = np.median(np.abs(layer.weight / threshold), axis=0)
    with np.errstate(divide="ignore"):  # an input that few hear
        exact = np.minimum(event / usual, 1.0)
    units: FloatArray = 2.0 ** np.floor(np.log2(exact))
    return units


def _heard(layer: Dense, k: int) -> list[FloatArray]:
    """What hidden layer k hears from hidden neurons: weights [n, senders]."""
    found = [layer.weight] if k else []
    return found if layer.recurrent is None else [*found, layer.recurrent]


def _start(layer: Dense) -> FloatArray:
    """v_init as weights from one sender: [n, 1]."""
    return np.broadcast_to(layer.v_init, layer.n_out)[:, None]


def _scale(layer: Dense, parts: Sequence[tuple[FloatArray, int]]) -> FloatArray:
    """Chip units per unit of the network: [n].

    parts: weights [n, senders] and the largest number each may become.
    """
    threshold, bias = (np.broadcast_to(x, layer.n_out) for x in (layer.v_threshold, layer.bias))
    with np.errstate(divide="ignore"):  # nothing to bound
        bounds = [most / np.abs(weight).max(axis=1) for weight, most in parts]
        if layer.spiking:
            bounds += [THRESHOLD / threshold, HIGHEST / 2 / np.abs(bias)]
        else:
            bounds += [(LIFT - 1) / (np.abs(layer.weight).sum(axis=1) + np.abs(bias))]
    scale: FloatArray = np.minimum.reduce(bounds)
    return np.where(np.isfinite(scale), scale, 1.0)


def _shift(parts: Sequence[tuple[Dense, FloatArray]], most: int) -> int:
    """The largest shift that costs little precision of these weights [n, senders] up to most."""
    errors = []
    for shift in range(MAX_SHIFT + 1):
        total, count = 0.0, 1
        for layer, weight in parts:
            scale = _scale(layer, [(weight, most << shift)])
            held = _whole(weight, scale, shift).T * 2.0**shift / scale[:, None]
            unit = np.broadcast_to(layer.v_threshold, layer.n_out)[:, None]
            total += float((((held - weight) / unit) ** 2).sum())
            count += weight.size
        errors.append(np.sqrt(total / count))
    return int(np.flatnonzero(np.array(errors) <= WASTE * min(errors) + 1e-12).max())


def _events(before: Sequence[Dense], scales: Sequence[FloatArray], limit: int) -> int:
    """How many events bring the hidden neurons to v_init, 1 to 15."""
    pairs = zip(before, scales, strict=True)
    largest = max(float(np.abs(layer.v_init * scale).max()) for layer, scale in pairs)
    return int(np.clip(np.ceil(largest / limit), 1, MAX_INPUT_EVENTS))


def _effective(network: SpikingNetwork, made: Plan) -> SpikingNetwork:
    """The nearest network to what the chip's numbers do, in spikerl's units."""
    core, k = made.core, 0
    layers: list[Layer] = []
    for layer in network.layers:
        if not isinstance(layer, Dense):
            layers.append(layer)
            continue
        scale = made.scales[k]
        fields: dict[str, Any]
        if k < len(made.hidden):
            place = made.hidden[k]
            fields = {"bias": core.bias[place], "v_threshold": core.threshold[place]}
            if k:
                heard = core.weights_rec[:, made.hidden[k - 1], place] << core.shift_rec
            else:
                heard = core.weights_in[:, : network.n_in, place] << core.shift_in
            fields["weight"] = heard.sum(axis=0).T
            if layer.recurrent is not None:
                own = core.weights_rec[:, place, place] << core.shift_rec
                fields["recurrent"] = own.sum(axis=0).T
            if layer.v_init.any():
                start = core.weights_in[:, -1, place] << core.shift_in
                fields["v_init"] = made.events * start.sum(axis=0)
        else:
            fields = {"bias": core.bias_out - (0 if layer.spiking else LIFT)}
            fields["weight"] = core.weights_out[made.hidden[-1]].T << core.shift_out
            if layer.spiking:
                fields["v_threshold"] = core.threshold_out
                if layer.v_init.any():
                    fields["v_init"] = core.weights_out[-1] << core.shift_out
        fields = {name: (value.T / scale).T for name, value in fields.items()}
        if k == 0:
            fields["weight"] = fields["weight"] / made.units
        if k == len(made.hidden) and len(scale) > layer.n_out:  # two outputs for each read-out
            fields = {
                name: value.reshape(2, layer.n_out, *value.shape[1:]).sum(axis=0)
                for name, value in fields.items()
            }
        layers.append(replace(layer, **fields))
        k += 1
    return SpikingNetwork(tuple(layers), network.dt_ms)


def _lost(network: SpikingNetwork, made: Plan) -> list[str]:
    """Neurons that hear nothing any more, by layer, and by how much their weights are too small."""
    found = []
    k = 0
    for i, (asked, held) in enumerate(zip(network.layers, made.effective.layers, strict=True)):
        if not isinstance(asked, Dense) or not isinstance(held, Dense):
            continue
        wanted, got = (np.abs(layer.weight).max(axis=1) for layer in (asked, held))
        silent = np.flatnonzero((wanted > 0) & (got == 0))
        shifts = made.core.shift_in, made.core.shift_rec, made.core.shift_out
        shift = shifts[0 if k == 0 else 2 if k == len(made.hidden) else 1]
        unit = made.units.min() if k == 0 else 1.0
        step = 2.0**shift / made.scales[k][: len(wanted)] / unit
        if len(silent):
            j = int(silent[0])
            found.append(
                f"layer {i}: {len(silent)} of {len(wanted)} neurons fall silent, neuron {j} the "
                f"first: its largest weight is {wanted[j]:.3g}, the smallest the chip can hold "
                f"beside its threshold and bias is {step[j]:.3g}; multiply its weights by "
                f"{float((step / wanted)[silent].max()):.1f} or more, or divide its threshold, "
                "bias and v_init by as much"
            )
        k += 1
    return found


def _whole(weight: FloatArray, scale: FloatArray, shift: int) -> IntArray:
    """Weights [n, senders] as the chip holds them: [senders, n]."""
    return _near(weight * scale[:, None] / 2.0**shift).T


def _halves(weights: IntArray) -> IntArray:
    """Weights of up to 9 bits as those of two synapses: [2, ...]."""
    one = weights // 2
    return np.stack([one, weights - one])


def _near(values: FloatArray) -> IntArray:
    return np.rint(values).astype(np.int64)


def _zeros(*shape: int) -> IntArray:
    return np.zeros(shape, dtype=np.int64)
