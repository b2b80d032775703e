"""Neurons of another library in a spiking stack, by name: "spikingjelly:ParametricLIFNode".

Imports torch, and the library when a layer is made. The library's own code fires and learns, in its
step mode "m"; what it means is exported by spikerl.importers, and decisions without gradients are
made by the exported neurons, in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from inspect import Parameter, signature
from math import prod
from traceback import extract_tb
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikerl.errors import SpikerlError
from spikerl.layers import Conv2d, Dense
from spikerl.nn.firing import delayed
from spikerl.nn.layer import SpikingLayer, output_shape, shapes
from spikerl.nn.neurons import Neuron

LIBRARY = "spikingjelly"
NODES = (
    *("IFNode", "LIFNode", "ParametricLIFNode"),
    *("HalfThresholdIFNode", "SimpleIFNode", "SimpleLIFNode"),
)
WHERE = f"{LIBRARY}.activation_based"
_OTHERWISE = ("MultiLevelSpikeCount", "PoissonPass")  # fire more than once, or by chance


@dataclass(frozen=True)
class ForeignNeuron:
    """A neuron of SpikingJelly 2, with its own semantics.

    kind:    "spikingjelly:" and one of NODES.
    options: for its constructor: tau (init_tau for ParametricLIFNode), v_threshold, v_reset,
             decay_input, detach_reset; surrogate_function is a name of SpikingJelly's module
             surrogate, such as "ATan", in any case, or an object of it.
    Raises SpikerlError for a name that is none of these.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    mismatch: float = 0.0
    delay_steps = 0
    weight_bits = None

    def __post_init__(self) -> None:
        library, _, node = self.kind.partition(":")
        if library != LIBRARY or node not in NODES:
            raise SpikerlError(
                f"neuron is {self.kind!r}; there are {', '.join(f'{LIBRARY}:{n}' for n in NODES)}"
            )

    def rules(self) -> dict[str, Any]:
        """What a trained network depends on and its tensors do not hold."""
        names = ("tau", "v_threshold", "v_reset", "decay_input")
        usual = {name: one.default for name, one in self._parameters().items()}
        found = {**usual, **self.options}  # what is left out counts as what it means
        return {"kind": self.kind, **{x: found[x] for x in names if x in found}}

    def node(self) -> Any:
        """A new one, for all steps at once; raises SpikerlError with the library's reason."""
        kind, found = self._class(), dict(self.options)
        taken = {x: p.default for x, p in self._parameters().items() if x != "step_mode"}
        reason = ""
        if unknown := [name for name in found if name not in taken]:
            reason = f"it has no {', '.join(unknown)}, but {', '.join(taken)}"
        else:
            try:
                return kind(**{x: _as_taken(found[x], taken[x]) for x in found}, step_mode="m")
            except (SpikerlError, TypeError, ValueError, AssertionError) as error:
                reason = str(error) or _asserted(error)
        raise SpikerlError(f"{self.kind} cannot be made of {found}: {reason}")

    def _class(self) -> Any:
        try:
            neurons = import_module(f"{WHERE}.neuron")
        except ImportError as error:
            raise SpikerlError(
                f"{self.kind} needs SpikingJelly: pip install --no-deps 'spikingjelly>=2,<3' and "
                "loguru"
            ) from error
        return getattr(neurons, self.kind.partition(":")[2])

    def _parameters(self) -> Mapping[str, Parameter]:
        return signature(self._class()).parameters


def _as_taken(value: Any, usual: Any) -> Any:
    """A plain value as SpikingJelly takes it: whole numbers as floats, surrogates as objects."""
    if isinstance(usual, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(usual, nn.Module) or isinstance(value, nn.Module):
        return value
    module = import_module(f"{WHERE}.surrogate")
    base = module.SurrogateFunctionBase
    kinds = [x for x in vars(module).values() if isinstance(x, type) and issubclass(x, base)]
    kinds = [x for x in kinds if x is not base and x.__name__ not in _OTHERWISE]
    named = {kind.__name__.lower(): kind for kind in kinds}
    if not isinstance(value, str) or value.lower() not in named:
        known = ", ".join(kind.__name__ for kind in named.values())
        raise SpikerlError(f"surrogate_function is {value!r}; there are {known}")
    return named[value.lower()]()


def _asserted(error: BaseException) -> str:
    """What the library asserted, of which its error says nothing."""
    line = extract_tb(error.__traceback__)[-1].line or ""
    return f"it wants {line.removeprefix('assert ') or 'other values'}"


class ForeignLayer(nn.Module):
    """What SpikingLayer is, with a node of another library behind the synapses."""

    chip = None

    def __init__(
        self, synapses: nn.Linear | nn.Conv2d, neuron: ForeignNeuron, shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.synapses, self.neuron, self.shape = synapses, neuron, shape
        self.shape_out = output_shape(synapses, shape)
        self.node = neuron.node()
        self._exported: tuple[list[Tensor], Dense | Conv2d] | None = None
        self.to_layer()  # refuses what has no counterpart

    @property
    def n_out(self) -> int:
        """Neurons of the layer."""
        return prod(self.shape_out)

    @property
    def fan_out(self) -> float:
        """Synapses of one neuron of the layer before, in the mean."""
        return self.n_out * self.synapses.weight[0].numel() / prod(self.shape)

    @property
    def drive(self) -> float:
        """Current that takes a neuron from rest to its threshold in one step."""
        exported, weight = self.to_layer(), self.synapses.weight.detach()
        # The node may weaken what comes in, as decay_input does: exported weights are as it does.
        gain = np.linalg.norm(exported.weight) / float(weight.norm())
        return float(np.mean(exported.v_threshold) / gain)

    def rules(self) -> dict[str, Any]:
        """What its weights mean, compared where they are loaded: see rules.py."""
        return {**self.neuron.rules(), **shapes(self.synapses)}

    def normalise(self, kind: Any) -> None:
        """Refused: the currents of these neurons are their library's."""
        raise SpikerlError(f"norm is for spikerl's own neurons, not for {self.neuron.kind}")

    def draw(self) -> None:
        """Nothing: these neurons are trained as designed."""

    def forward(
        self, x: Tensor, sim_steps: int, *, late: int = 0, last: bool = False
    ) -> tuple[Tensor, Tensor, None]:
        """Spikes [T, B, n_out] and counts [B, n_out]; see SpikingLayer."""
        module = self if x.dtype == self.synapses.weight.dtype else copy.deepcopy(self).to(x.dtype)
        x = delayed(x, late, sim_steps)
        current = module.synapses(x.reshape(-1, *self.shape)).reshape(*x.shape[:2], -1)
        module.node.reset()
        spikes = module.node(current.expand(sim_steps, -1, -1))
        module.node.reset()  # potentials are no part of what is saved
        return spikes, spikes.sum(0), None

    def to_layer(self) -> Dense | Conv2d:
        """The same neurons as a layer of a SpikingNetwork, exactly."""
        parts = [part.detach().cpu() for part in self.parameters()]
        # by their numbers: torch does not count changes made through .data
        if self._exported is None or not all(map(torch.equal, parts, self._exported[0])):
            from spikerl.importers import from_spikingjelly

            node = copy.deepcopy(self.node).cpu()
            synapses = copy.deepcopy(self.synapses).cpu()
            maps = self.shape if len(self.shape) == 3 else None
            layer: Any = from_spikingjelly([synapses, node], input_shape=maps).layers[0]
            self._exported = ([part.clone() for part in parts], layer)
        assert self._exported is not None
        return self._exported[1]

    def numbers(self) -> tuple[Tensor, ...]:
        """Weight, bias, decay, threshold and v_init of a dense layer, in float64."""
        layer = self.to_layer()
        vectors = (layer.bias, layer.decay, layer.v_threshold, layer.v_init)
        whole = [np.broadcast_to(value, layer.n_out) for value in vectors]
        return tuple([torch.tensor(values) for values in (layer.weight, *whole)])


def spiking_layer(
    synapses: nn.Linear | nn.Conv2d, neuron: Neuron | ForeignNeuron, shape: tuple[int, ...]
) -> SpikingLayer | ForeignLayer:
    """The layer of a neuron of ours or of another library's."""
    if isinstance(neuron, ForeignNeuron):
        return ForeignLayer(synapses, neuron, shape)
    return SpikingLayer(synapses, neuron, shape)


def neuron_of(kind: str, rules: Mapping[str, Any]) -> Neuron | ForeignNeuron:
    """The neuron of a name: one of ours, or another library's with "library:" before it.

    Raises SpikerlError for names and rules that are none.
    """
    if ":" in str(kind):
        return ForeignNeuron(kind, dict(rules))
    try:
        return Neuron(kind, **rules)
    except TypeError as error:
        known = ", ".join(name for name in Neuron.__dataclass_fields__ if name != "kind")
        raise SpikerlError(f"neuron_kwargs: {error}; there are {known}") from None
