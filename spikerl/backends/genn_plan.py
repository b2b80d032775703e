"""What GeNN is told to compile for a network, as text and sizes, and the numbers it is filled with.

Imports numpy, network and connections. GeNN's synapses take one step: a spike of one step is heard
in the next. What turns that into the contract:

- layer k takes its step t at GeNN's step t + k and stands still before and after its `steps` of
  them, so that what layer k fires in its step t is there when layer k + 1 takes its step t;
- a layer with delay_steps = d keeps its spikes as bits in `flight` and sends them d of its steps
  later, so that what is under way stands still with the layer, from one run to the next;
- what a layer says to itself arrives through `Loop`, and stays in `kept` until the layer moves.

Equal `Plan.code` means equal generated code, whatever the weights, thresholds and leaks are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spikerl.connections import neuron_bias, synapses
from spikerl.layers import Flatten
from spikerl.network import Dense, FloatArray, Layer, NeuronLayer, SpikingNetwork

MAX_DELAY = 63  # bits of `flight` after the one of this step


@dataclass(frozen=True)
class Population:
    """The neurons of one layer as GeNN compiles them.

    sim_code:  what a neuron does in a step, in GeNN's C.
    constants: names of what the host writes once, one double per neuron.
    states:    names and types of what a neuron keeps from step to step.
    """

    size: int
    spiking: bool
    hears_itself: bool
    sim_code: str
    constants: tuple[str, ...]
    states: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Projection:
    """The synapses from one layer to another, or to itself.

    event:       name of the state that sends; "" for the spike itself.
    longest_row: synapses of the neuron that has most; None where every neuron reaches every other.
    """

    source: int
    target: int
    event: str
    longest_row: int | None


@dataclass(frozen=True)
class Code:
    """All that the generated code depends on."""

    populations: tuple[Population, ...]
    projections: tuple[Projection, ...]


@dataclass(frozen=True)
class Plan:
    """A network as code and numbers.

    first:     the layers that the host applies to the drive, up to the first one with neurons.
    values:    per population, the constants and the states before the first step, by name: [n].
    weights:   per projection [synapses]; by sender, then target.
    indices:   per projection, sender and target of each weight, or None where all are joined.
    extra_steps: GeNN's steps of a run beyond T.
    """

    code: Code
    first: tuple[Layer, ...]
    values: tuple[dict[str, Any], ...]
    weights: tuple[FloatArray, ...]
    indices: tuple[tuple[Any, Any] | None, ...]
    extra_steps: int


@dataclass
class _Projections:
    code: list[Projection] = field(default_factory=list)
    weights: list[FloatArray] = field(default_factory=list)
    indices: list[tuple[Any, Any] | None] = field(default_factory=list)

    def add(self, source: int, target: int, event: str, stack: list[Layer]) -> None:
        """Synapses from one layer's neurons through a stack of maps to another's."""
        last = stack[-1]
        if isinstance(last, Dense) and all(isinstance(x, (Dense, Flatten)) for x in stack):
            self.add_dense(source, target, event, last.weight)
            return
        found = synapses(stack)
        fan_out = np.diff(found.starts)
        if not len(found.weights):
            return  # nobody is heard
        self.code.append(Projection(source, target, event, int(fan_out.max())))
        self.weights.append(found.weights)
        self.indices.append((np.repeat(np.arange(len(fan_out)), fan_out), found.targets))

    def add_dense(self, source: int, target: int, event: str, weight: FloatArray) -> None:
        """Synapses between all neurons of two layers: weight [n_target, n_source]."""
        self.code.append(Projection(source, target, event, None))
        self.weights.append(np.ascontiguousarray(weight.T).reshape(-1))
        self.indices.append(None)


def planned(network: SpikingNetwork) -> Plan:
    """The plan of a network."""
    populations: list[Population] = []
    values: list[dict[str, Any]] = []
    joined = _Projections()
    first: list[Layer] = []
    pending: list[Layer] = []
    before: NeuronLayer | None = None
    for layer in network.layers:
        pending.append(layer)
        if not isinstance(layer, NeuronLayer):
            continue
        k = len(populations)
        if before is None:
            first = pending
        else:
            joined.add(k - 1, k, "late" if before.delay_steps else "", pending)
        if layer.recurrent_weight is not None:
            event = "back" if layer.delay_steps > 1 else ""
            joined.add_dense(k, k, event, layer.recurrent_weight)
        populations.append(_population(layer, k))
        values.append(_values(layer, populations[-1]))
        before, pending = layer, []
    # what the last layer says to itself in its last step still has to arrive
    extra = len(populations) - 1 + int(populations[-1].hears_itself)
    return Plan(
        code=Code(tuple(populations), tuple(joined.code)),
        first=tuple(first),
        values=tuple(values),
        weights=tuple(joined.weights),
        indices=tuple(joined.indices),
        extra_steps=extra,
    )


def _population(layer: NeuronLayer, k: int) -> Population:
    loop = layer.recurrent_weight is not None
    delay = layer.delay_steps if layer.spiking else 0
    back = loop and delay > 1
    constants = ["bias"] if k else []
    states = [("V", "scalar"), *([] if k else [("current", "scalar")])]
    sum_ = "Isyn + bias" if k else "current"
    leaky = bool((layer.decay != 1).any())
    if leaky:
        constants.append("decay")
    if layer.v_min is not None:
        constants.append("v_min")

    step = [f"const scalar sum = {sum_}{' + (Loop + kept)' if loop else ''};"]
    if loop:
        states.append(("kept", "scalar"))
        step.append("kept = 0.0;")
    move = [f"scalar v = {'decay * V' if leaky else 'V'} + sum;"]
    if layer.v_min is not None:
        move.append("if(v < v_min) { v = v_min; }")
    if layer.spiking:
        constants.append("threshold")
        states += [("fired", "uint8_t"), ("count", "int32_t")]
        reset = "v -= threshold;" if layer.reset == "subtract" else "v = 0.0;"
        rest = f"resting = {layer.refractory_steps};" if layer.refractory_steps else ""
        move.append(f"if(v >= threshold) {{ {reset} fired = 1; count += 1; {rest} }}")
    move.append("V = v;")
    if layer.refractory_steps:
        states.append(("resting", "int32_t"))
        step += ["if(resting > 0) { resting -= 1; }", "else {", *_indented(move), "}"]
    else:
        step += move
    sends = ["late"] * (delay > 0) + ["back"] * back
    if delay:
        states += [("flight", "uint64_t"), *((name, "uint8_t") for name in sends)]
        step.append("flight = (flight << 1) | fired;")
        # GeNN's C has no shift to the right
        step.append(f"late = (flight & ((uint64_t)1 << {delay})) != 0;")
    if back:
        step.append(f"back = (flight & ((uint64_t)1 << {delay - 1})) != 0;")

    code = [f"{name} = 0;" for name in (["fired"] * layer.spiking + sends)]
    code += [f"if(t >= {k}.0 && t < {k}.0 + steps) {{", *_indented(step), "}"]
    if loop:
        code.append("else { kept += Loop; }")
    return Population(
        size=layer.n_out,
        spiking=layer.spiking,
        hears_itself=loop,
        sim_code="\n".join(code),
        constants=tuple(constants),
        states=tuple(states),
    )


def _indented(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


def _values(layer: NeuronLayer, population: Population) -> dict[str, Any]:
    """Constants and start of every state [n]; only V starts at anything but zero."""
    numbers = {
        "bias": neuron_bias(layer),
        "decay": layer.decay,
        "threshold": layer.v_threshold,
        "v_min": layer.v_min,
        "V": layer.v_init,
    }
    kinds = dict.fromkeys(population.constants, "scalar") | dict(population.states)
    return {
        name: np.array(np.broadcast_to(numbers.get(name, 0), layer.n_out), dtype=DTYPES[kind])
        for name, kind in kinds.items()
    }


DTYPES: dict[str, Any] = {
    "scalar": np.float64,
    "uint8_t": np.uint8,
    "int32_t": np.int32,
    "uint64_t": np.uint64,
}
