"""How a network is written in SpiNNaker's numbers: 16.15 fixed point and 16-bit weights.

Imports numpy and the core; no simulator. The rules come from sPyNNaker's sources; the first two
agree with the machine code of IF_curr_delta in the wheel of 7.4.1, run in an emulator of the
processor. No board has confirmed any of them here:

- one step of IF_curr_delta is v <- a - d (a - v), with a = (tau_m / cm) * input + v_rest and d the
  chip's exp(-1 / tau_m). Its exp rounds down, so tau_m = 32768 gives d = 1 - 2**-14; cm = 2 then
  makes tau_m / cm = 2**14 and v <- v + input + (v_rest - v) / 2**14. Other values scale every
  weight in silence: tau_m = 10000 and cm = 1 would multiply them by 1.22;
- the last term is rounded up to steps of 2**-15, to nothing from v_rest to v_rest + 0.5. So with
  v_rest = -0.25 and thresholds of at most EXACT the sums are exact from -EXACT to the threshold;
  below, potentials creep up by a step per step;
- a must stay below 2**16, so inputs below 4: SPIKING_INPUT leaves a factor of two;
- a read-out is IF_trunc_delta, v <- v + input, with its floor and threshold out of reach;
- a core holds weights as multiples of 2**(shift - 15), 2**shift being above the largest sum of
  weights that can arrive in a step; by default sPyNNaker takes the sum at 30 spikes a second.

Each neuron is multiplied by a power of two, its scale, that makes the best of these ranges: what it
hears is spikes, so its weights, threshold and start may be in any unit.

A current into the first layer stays the same for a whole decision. From some size upwards it makes
a neuron fire at every step, or never, whatever its size: larger currents are sent as ones of that
size, PlannedLayer.reach. The spikes are the same, and the range is not spent on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spikerl.backends.base import Capabilities, capability_problems
from spikerl.connections import IntArray, neuron_bias, synapses
from spikerl.errors import BackendError
from spikerl.network import (
    AvgPool2d,
    Conv2d,
    FloatArray,
    Layer,
    NeuronLayer,
    SpikingNetwork,
)

STEP = 2.0**-15  # the smallest number of 16.15
LARGEST = 2.0**16 - STEP
TAU_M, CM = 32768.0, 2.0
V_REST = -0.25
EXACT = 0.25  # largest threshold or start
SPIKING_INPUT = 2.0  # largest input per step of IF_curr_delta
READOUT_INPUT = 16.0  # and of a read-out, which adds up all of them
MAX_STEPS = 4000  # of READOUT_INPUT each, and the sum is still below 2**16
FAINTEST = 8 * STEP  # what a neuron's largest weight must reach, or none of them says much

CAPABILITIES = Capabilities(
    exactness="unverified",
    resets=frozenset({"zero"}),
    decay=False,
    v_min=False,
    min_delay_steps=1,
    max_delay_steps=1,
    drive=frozenset({"constant"}),
    records=frozenset({"counts", "spikes", "potential"}),
    batching="copies",
    keeps_state=False,
    partial_reset=False,
    weight_bits=12,  # of 16: the largest sum over a dozen inputs must fit as well
    max_sessions=1,
    hardware=True,
)


@dataclass(frozen=True, eq=False)
class Connections:
    """Synapses between two populations, all of one sign.

    senders, targets: [synapses].  weights: [synapses], > 0, in the chip's units.
    entries: [synapses], the place of each synapse's weight in the flattened weight of the layer.
    factors: [synapses], what the pooling between multiplies that entry by.
    """

    senders: IntArray
    targets: IntArray
    weights: FloatArray
    entries: IntArray
    factors: FloatArray

    def __len__(self) -> int:
        return len(self.weights)


@dataclass(frozen=True, eq=False)
class Projection:
    """What one layer hears from another, or from itself.

    kind: "feedforward" or "recurrent".  excitatory, inhibitory: the two signs.
    """

    kind: str
    excitatory: Connections
    inhibitory: Connections

    @property
    def signs(self) -> tuple[tuple[str, float, Connections], ...]:
        """(receptor type, sign, connections) of both."""
        return (("excitatory", 1.0, self.excitatory), ("inhibitory", -1.0, self.inhibitory))


@dataclass(frozen=True, eq=False)
class PlannedLayer:
    """One layer of neurons in the chip's units.

    scale:     [n], chip units per unit of the network; powers of two.
    threshold, start, bias: [n]; bias is zero in the first layer, whose current the host computes.
    reach:     [n], network units; a larger constant current into the first layer changes no spike.
    sums:      largest sum of weights that can arrive in one step: (excitatory, inhibitory).
    """

    layer: NeuronLayer
    scale: FloatArray
    threshold: FloatArray
    start: FloatArray
    bias: FloatArray
    reach: FloatArray
    sums: tuple[float, float]
    projections: tuple[Projection, ...]

    def steps(self, sign: float) -> FloatArray:
        """The distance of two weights of this sign for every neuron, in the network's units."""
        step: FloatArray = 2.0 ** (_shift(self.sums[0 if sign > 0 else 1]) - 15) / self.scale
        return step

    def quantised(self, found: Connections, sign: float) -> FloatArray:
        """Weights as the chip should hold them, in the network's units: [synapses], > 0."""
        step = self.steps(sign)[found.targets]
        rounded: FloatArray = np.rint(found.weights / self.scale[found.targets] / step) * step
        return rounded


@dataclass(frozen=True, eq=False)
class Plan:
    """A network in the chip's units; layers: of neurons, in order.  first: what the host computes.

    problems: every reason why the numbers do not fit, empty if they do.
    """

    network: SpikingNetwork
    first: tuple[Layer, ...]
    layers: tuple[PlannedLayer, ...]
    problems: tuple[str, ...]


def plan(network: SpikingNetwork) -> Plan:
    """Scales, signs and weights for every layer."""
    layers: list[PlannedLayer] = []
    found: list[str] = []
    stack: list[Layer] = []
    first: tuple[Layer, ...] = ()
    for i, layer in enumerate(network.layers):
        stack.append(layer)
        if isinstance(layer, NeuronLayer):
            if not layers:
                first = tuple(stack)
            layers.append(_planned(layer, stack if layers else ()))
            found += [f"layer {i}: {text}" for text in _problems(layers[-1])]
            stack = []
    return Plan(network, first, tuple(layers), tuple(found))


def problems(network: SpikingNetwork) -> list[str]:
    """Every reason a network cannot run on SpiNNaker; empty if it can."""
    return capability_problems(CAPABILITIES, network) + list(plan(network).problems)


def first_current(planned: Plan, x: FloatArray) -> FloatArray:
    """Currents into the first layer in chip units for rows x [B, n_in]: [B, n].

    Raises BackendError where a read-out is the first layer and the current beyond its range.
    """
    here = planned.layers[0]
    for part in planned.first:
        x = part.apply(x)
    if here.layer.spiking:
        x = np.clip(x, -here.reach, here.reach)
    elif np.abs(x).max() > here.reach.min():
        raise BackendError(
            f"found a current of {np.abs(x).max():g} into the read-out, which is the first layer; "
            f"there is room for {here.reach.min():g}: divide weights and biases by as much"
        )
    return np.asarray(np.rint(x * here.scale / STEP) * STEP, dtype=np.float64)


def effective(
    planned: Plan, held: Sequence[Sequence[tuple[FloatArray, FloatArray]]] | None = None
) -> SpikingNetwork:
    """The network the chip holds, in spikerl's units: weights, biases and thresholds as rounded.

    held: per layer and projection the weights read back, (excitatory, inhibitory), both > 0, in
          the order of the plan; None takes those that are predicted.
    The first layer's weight stays as it is: the host computes its currents.
    """
    layers = iter(enumerate(planned.layers))
    made: list[Layer] = []
    for original in planned.network.layers:
        if not isinstance(original, NeuronLayer):
            made.append(original)
            continue
        k, here = next(layers)
        fields: dict[str, Any] = {"v_init": _rounded(here.start, here.scale)}
        if original.spiking:
            fields["v_threshold"] = _rounded(here.threshold, here.scale)
        for p, projection in enumerate(here.projections):
            name = "recurrent" if projection.kind == "recurrent" else "weight"
            values = np.zeros(getattr(original, name).size)
            for j, (_, sign, found) in enumerate(projection.signs):
                weights = here.quantised(found, sign) if held is None else held[k][p][j]
                values[found.entries] = sign * weights / found.factors
            fields[name] = values.reshape(getattr(original, name).shape)
        if k:
            fields["bias"] = _shared(original, _rounded(here.bias, here.scale))
        made.append(replace(original, **fields))
    return SpikingNetwork(tuple(made), planned.network.dt_ms)


def _planned(layer: NeuronLayer, stack: Sequence[Layer]) -> PlannedLayer:
    n = layer.n_out
    raw = [_connections(stack)] if stack else []
    if layer.recurrent_weight is not None:
        raw.append(_recurrent(layer.recurrent_weight))
    sums = np.zeros((2, n))
    for _, _, targets, weights, _, _ in raw:
        for j, part in enumerate((weights > 0, weights < 0)):
            sums[j] += np.bincount(targets[part], np.abs(weights[part]), minlength=n)
    start = np.broadcast_to(layer.v_init, n)
    threshold = np.broadcast_to(layer.v_threshold, n)
    bias = neuron_bias(layer) if stack else np.zeros(n)
    largest = (sums + np.stack([np.maximum(bias, 0), np.maximum(-bias, 0)])).max(axis=0)
    # twice what it takes to fire at every step, or never: no rounding may matter
    reach = largest + (2 * (threshold + np.abs(start)) if layer.spiking else READOUT_INPUT)
    if not stack:
        largest = largest + reach
    scale = _scales(layer, largest, threshold, start)
    if isinstance(layer, Conv2d):  # one weight has one step in the effective network
        maps = scale.reshape(len(layer.weight), -1).min(axis=1)
        scale = np.repeat(maps, n // len(maps))
    return PlannedLayer(
        layer=layer,
        scale=scale,
        threshold=np.maximum(threshold * scale, STEP),  # at 0 a neuron at rest would fire
        start=start * scale,
        bias=bias * scale,
        reach=reach,
        sums=(float((sums[0] * scale).max()), float((sums[1] * scale).max())),
        projections=tuple(_projection(*found, scale) for found in raw),
    )


Raw = tuple[str, IntArray, IntArray, FloatArray, IntArray, FloatArray]


def _connections(stack: Sequence[Layer]) -> Raw:
    """Synapses of a stack, and which entry of the last layer's weight each is made of.

    The same stack with entry numbers for weights has the same synapses in the same order.
    """
    last: Any = stack[-1]
    factor = 1.0
    for layer in stack[:-1]:
        if isinstance(layer, AvgPool2d):
            factor /= float(np.prod(layer.kernel_size))
    numbers = np.arange(1.0, last.weight.size + 1).reshape(last.weight.shape)
    found = synapses([*stack[:-1], replace(last, weight=numbers)])
    entries = np.rint(found.weights / factor).astype(np.int64) - 1
    weights = last.weight.reshape(-1)[entries] * factor
    senders = np.repeat(np.arange(len(found.starts) - 1), np.diff(found.starts))
    return (
        "feedforward",
        senders,
        found.targets,
        weights,
        entries,
        np.full(len(weights), factor),
    )


def _recurrent(weight: FloatArray) -> Raw:
    targets, senders = np.divmod(np.arange(weight.size), weight.shape[1])
    return (
        "recurrent",
        senders,
        targets,
        weight.reshape(-1),
        np.arange(weight.size),
        np.ones(weight.size),
    )


def _projection(
    kind: str,
    senders: IntArray,
    targets: IntArray,
    weights: FloatArray,
    entries: IntArray,
    factors: FloatArray,
    scale: FloatArray,
) -> Projection:
    """Both signs apart: sPyNNaker stores the absolute value of what it is given."""
    parts = [
        Connections(
            senders[part],
            targets[part],
            np.abs(weights[part]) * scale[targets[part]],
            entries[part],
            factors[part],
        )
        for part in (weights > 0, weights < 0)
    ]
    return Projection(kind, *parts)


def _scales(
    layer: NeuronLayer, largest: FloatArray, threshold: FloatArray, start: FloatArray
) -> FloatArray:
    """The largest powers of two that keep inputs, thresholds and starts in their ranges: [n]."""
    # a start of just EXACT would already leak by a step
    height = np.maximum(2 * np.abs(start), threshold if layer.spiking else 0.0)
    room = SPIKING_INPUT if layer.spiking else READOUT_INPUT
    with np.errstate(divide="ignore"):  # no input or no height: no bound
        bounds = np.minimum(room / largest, (EXACT if layer.spiking else room) / height)
    bounds = np.where(np.isfinite(bounds), bounds, 1.0)
    scale: FloatArray = 2.0 ** np.floor(np.log2(bounds))
    return scale


def _problems(here: PlannedLayer) -> list[str]:
    found = []
    layer = here.layer
    strongest = np.zeros(layer.n_out)
    for c in _all(here):
        np.maximum.at(strongest, c.targets, c.weights)
    faint = (strongest > 0) & (strongest < FAINTEST)
    if faint.any():
        j = int(np.argmax(faint))
        found.append(
            f"{int(faint.sum())} neurons, neuron {j} the first, have weights too small beside "
            f"their threshold, start or bias for 16.15 fixed point: its largest is "
            f"{strongest[j] / here.scale[j]:g}, which is {strongest[j] / STEP:.1f} steps, wanted "
            f"at least {FAINTEST / STEP:.0f}"
        )
    largest = float(np.abs(here.layer.refractory_steps))
    if largest > LARGEST:
        found.append(
            f"refractory_steps is {layer.refractory_steps}, 16.15 fixed point holds at most "
            f"{LARGEST:.0f}"
        )
    return found


def _all(here: PlannedLayer) -> list[Connections]:
    return [c for projection in here.projections for _, _, c in projection.signs]


def _shift(total: float) -> int:
    """sPyNNaker's ring buffer shift for a largest sum of weights, in chip units."""
    if total <= 0:
        return 0
    shift = int(np.ceil(max(0.0, np.log2(total))))
    return shift + 1 if 2.0**shift <= total else shift


def _shared(layer: NeuronLayer, bias: FloatArray) -> FloatArray:
    """The bias of every neuron [n] as the layer has it: a Conv2d one per map."""
    return bias[:: layer.n_out // len(layer.weight)] if isinstance(layer, Conv2d) else bias


def _rounded(values: FloatArray, scale: FloatArray) -> FloatArray:
    rounded: FloatArray = np.rint(values / STEP) * STEP / scale
    return rounded
