"""From torch modules to plain layers: every operation is seen and understood, or refused by name.

Imports torch. Modules are traced with torch.fx, so that functional calls (torch.relu) are seen as
well as modules (nn.ReLU), in the order in which forward() uses them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from spikerl.conversion import activations
from spikerl.conversion.stack import PlainLayer, Spikes, Step
from spikerl.errors import ConversionError
from spikerl.network import AvgPool2d, FloatArray
from spikerl.nn.memory import SpikingMemory
from spikerl.nn.population import PopulationReadout
from spikerl.nn.stack import SpikingStack

Named = list[tuple[str, nn.Module]]
# Do nothing to a row when acting.
TRANSPARENT = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout)
_NOTHING = ("float", "contiguous")
_FLAT = (torch.flatten, "flatten", "view", "reshape", torch.reshape)
_SIZES = ("size", getattr)  # asked for by view(); says nothing about the values
INSTEAD = {
    nn.MaxPool2d: "average pooling (nn.AvgPool2d) and strided convolutions are supported",
    nn.LayerNorm: "it depends on the input; nn.BatchNorm is folded into the weights",
    nn.LSTM: "train with spikerl.policies.SpikingRecurrentPolicy instead",
    nn.GRU: "train with spikerl.policies.SpikingRecurrentPolicy instead",
}


class _Tracer(fx.Tracer):
    """Does not look into spiking layers: they say themselves what they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, (SpikingStack, SpikingMemory, PopulationReadout))
        return ours or super().is_leaf_module(m, module_qualified_name)


class _NotPlain(Exception):
    """One operation that has no place in a plain stack."""


@dataclass
class Tracing:
    """What a chain of modules computes, collected operation by operation.

    shape: of one row that comes in: (channels, height, width) of an image, else (n,).
    """

    shape: tuple[int, ...]
    layers: list[PlainLayer] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    # An affine map of the input that no weights have taken up yet: (scale, shift).
    _map: tuple[FloatArray, FloatArray] | None = None
    _pool: AvgPool2d | None = None
    _spikes: Spikes | None = None

    def run(self, chain: Named) -> tuple[PlainLayer, ...]:
        """The layers of the modules, one after the other; raises ConversionError with problems."""
        for name, module in chain:
            self._module(name, module)
        if not self.problems and not self.layers:
            self.problems.append("there is no Linear layer")
        if not self.problems and self.layers[-1].activation is not None:
            kind = "a ReLU" if self.layers[-1].activation is activations.relu else "an activation"
            self.problems.append(f"{self.layers[-1].name}: {kind} on the outputs is not supported")
        if not self.problems and (self._map is not None or self._pool is not None):
            self.problems.append("scaling or pooling of the outputs is not supported")
        if self.problems:
            raise ConversionError("this policy cannot be converted", self.problems)
        return tuple(self.layers)

    def _module(self, name: str, module: nn.Module) -> None:
        tracer = _Tracer()
        if tracer.is_leaf_module(module, name):
            self._try(name, lambda: self._leaf(name, module))
            return
        try:
            graph = tracer.trace(module)
        except Exception as error:  # whatever forward() does with a stand-in for a tensor
            self.problems.append(
                f"{name or type(module).__name__}: {type(module).__name__}.forward() cannot be "
                f"traced ({error}); layers applied one after the other can"
            )
            return
        parts = dict(module.named_modules(remove_duplicate=False))
        last: fx.Node | None = None
        for node in graph.nodes:
            if node.op == "placeholder":
                last = last or node
            elif node.op == "output":
                if node.args[0] is not last:
                    self.problems.append(f"{name}: forward() returns something on the way")
            elif node.op != "get_attr" and node.target not in _SIZES:
                label = node.target if node.op == "call_module" else node.name
                full = f"{name}.{label}".lstrip(".")
                if node.target in _SWAPS and len(node.args) == 2 and node.args[1] is last:
                    # 2 * x is x * 2, and 2 - x is -x + 2
                    node.target, node.args = _SWAPS[node.target], node.args[::-1]
                if node.args and node.args[0] is not last:
                    self.problems.append(
                        f"{full} does not follow on {last}: only layers one after the other can be "
                        "converted"
                    )
                    return
                self._try(full, partial(self._node, full, node, module, parts))
                last = node

    def _try(self, name: str, step: Callable[[], None]) -> None:
        try:
            step()
        except _NotPlain as reason:
            self.problems.append(f"{name}: {reason}")

    def _node(self, name: str, node: fx.Node, root: nn.Module, parts: dict[str, nn.Module]) -> None:
        if node.op == "call_module":
            self._leaf(name, parts[str(node.target)])
            return
        if node.target in _FLAT or node.target in _NOTHING:
            if node.target in _FLAT:
                self._flatten()
            return
        constants = [_constant(argument, root) for argument in node.args[1:]]
        options = {key: _constant(value, root) for key, value in node.kwargs.items()}
        if node.target is F.linear:
            weight, *bias = constants
            given = bias[0] if bias else options.get("bias")
            self._linear(name, _array(weight), None if given is None else _array(given))
        elif node.target is F.dropout and not options.get("training", True):
            pass
        elif (activation := activations.of_function(node.target, options)) and not constants:
            self._activate(name, activation)
        elif node.target in _AFFINE and len(constants) == 1:
            self._affine(*_AFFINE[node.target](_array(constants[0])))
        elif node.target is operator.neg:
            self._affine(np.array(-1.0), np.array(0.0))
        else:
            raise _NotPlain(f"the operation {_called(node)} is not supported")

    def _leaf(self, name: str, module: nn.Module) -> None:
        if isinstance(module, nn.Flatten):
            self._flatten()
        elif isinstance(module, TRANSPARENT):
            pass
        elif isinstance(module, SpikingStack):
            encoder = None if module.encoder is None else module.encoder.to_encoder()
            rest = {"encoder": encoder, "weight_bits": module.weight_bits}
            self._take_spikes(module, module.to_layers(), module.decide_as_designed, **rest)
        elif isinstance(module, SpikingMemory):
            self._take_spikes(module, (module.to_layer(),), module.first, walk=_walk(module))
        elif isinstance(module, PopulationReadout):
            self._linear(name, module.dense_weight(), _array(module.bias))
        elif type(module) is nn.Linear:
            bias = None if module.bias is None else _array(module.bias)
            self._linear(name, _array(module.weight), bias)
        elif type(module) is nn.Conv2d:
            self._convolution(name, module)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            self._batch_norm(module)
        elif type(module) is nn.AvgPool2d:
            self._average(module)
        elif (activation := activations.of_module(module)) is not None:
            self._activate(name, activation)
        else:
            instead = INSTEAD.get(type(module), "Linear, Conv2d, AvgPool2d and ReLU are")
            raise _NotPlain(f"{type(module).__name__} is not supported; {instead}")

    def _take_spikes(
        self,
        module: SpikingStack | SpikingMemory,
        layers: tuple[Any, ...],
        decide: Callable[[torch.Tensor], torch.Tensor],
        **rest: Any,
    ) -> None:
        if self.layers or self._spikes is not None or self._map is not None:
            raise _NotPlain("only the first layers may spike, with the observation as it is")

        def rates(rows: FloatArray) -> FloatArray:
            parts = np.array_split(rows, -(-len(rows) // 500))
            place = next(module.parameters()).device
            found = [decide(torch.as_tensor(part, device=place)) for part in parts]
            return torch.cat(found).cpu().numpy().astype(np.float64)

        self._spikes = Spikes(layers, module.sim_steps, rates, **rest)
        self.shape = (layers[-1].n_out,)

    def _flatten(self) -> None:
        self.shape = (int(np.prod(self.shape)),)

    def _linear(self, name: str, weight: FloatArray, bias: FloatArray | None) -> None:
        bias = np.zeros(len(weight)) if bias is None else bias
        self._check(weight, bias)
        weight, bias = self._take_up(weight, bias)
        open_end = self.layers and self.layers[-1].activation is None
        if open_end and self._pool is None and self.layers[-1].input_shape is None:
            before = self.layers.pop()  # nothing between two linear maps: they are one
            weight, bias = weight @ before.weight, weight @ before.bias + bias
            layer = replace(before, name=name, weight=weight, bias=bias)
        elif open_end:
            raise _NotPlain("there is no activation between it and the convolution before")
        else:
            layer = PlainLayer(name, weight, bias, pool=self._pool, spikes=self._spikes)
        self._pool = None
        self.layers.append(layer)
        self.shape = (len(weight),)

    def _convolution(self, name: str, module: nn.Conv2d) -> None:
        plain = module.groups == 1 and set(module.dilation) == {1}
        if not plain or module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise _NotPlain("Conv2d with groups, dilation or padding by name is not supported")
        if len(self.shape) != 3:
            raise _NotPlain(f"Conv2d wants an image, found rows of shape {self.shape}")
        if self.layers and self.layers[-1].activation is None:
            raise _NotPlain("there is no activation between it and the layer before")
        weight = _array(module.weight)
        bias = np.zeros(len(weight)) if module.bias is None else _array(module.bias)
        self._check(weight, bias)
        if self._map is not None and np.any(self._map[1]) and any(module.padding):
            raise _NotPlain("a shift before a convolution with padding cannot be folded into it")
        weight, bias = self._take_up(weight, bias)
        channels, height, width = self.shape
        layer = PlainLayer(
            name,
            weight,
            bias,
            pool=self._pool,
            input_shape=(channels, height, width),
            stride=(int(module.stride[0]), int(module.stride[1])),
            padding=(int(module.padding[0]), int(module.padding[1])),
        )
        self._pool = None
        self.layers.append(layer)
        self.shape = layer.core.output_shape  # type: ignore[union-attr]

    def _average(self, module: nn.AvgPool2d) -> None:
        if module.ceil_mode or module.divisor_override or _pair(module.padding) != (0, 0):
            raise _NotPlain("AvgPool2d with padding, ceil_mode or another divisor is not supported")
        if len(self.shape) != 3:
            raise _NotPlain(f"AvgPool2d wants an image, found rows of shape {self.shape}")
        if self._pool is not None or (self.layers and self.layers[-1].activation is None):
            raise _NotPlain("there is no activation between it and the layer before")
        channels, height, width = self.shape
        self._pool = AvgPool2d(
            (channels, height, width), _pair(module.kernel_size), _pair(module.stride)
        )
        self.shape = self._pool.output_shape

    def _batch_norm(self, module: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        if module.running_mean is None or module.running_var is None:
            raise _NotPlain("batch normalisation without running statistics is not supported")
        scale = 1.0 / np.sqrt(_array(module.running_var) + module.eps)
        shift = -_array(module.running_mean) * scale
        if module.affine:
            weight, bias = _array(module.weight), _array(module.bias)
            scale, shift = scale * weight, shift * weight + bias
        self._affine(scale, shift)

    def _activate(self, name: str, activation: activations.Activation) -> None:
        if not self.layers:
            kind = "ReLU" if activation is activations.relu else "an activation"
            raise _NotPlain(f"{kind} acts on the observation itself, before any Linear")
        last = self.layers[-1]
        if last.spikes is not None:
            raise _NotPlain("behind layers that spike only a read-out, without activation, can be")
        if last.activation is not None:
            if activation is activations.relu and last.activation is activations.relu:
                return
            raise _NotPlain("two activations follow on each other")
        if self._pool is not None:
            raise _NotPlain("an activation behind pooling is not supported; put it before")
        self.layers[-1] = replace(last, activation=activation)

    def _affine(self, scale: FloatArray, shift: FloatArray) -> None:
        """x * scale + shift, folded into the weights before, or else into those after."""
        if max(np.size(scale), np.size(shift)) > 1 and self._units() not in (
            np.size(scale),
            np.size(shift),
        ):
            raise _NotPlain(f"{np.size(scale)} factors do not fit {self._units()} units")
        last = self.layers[-1] if self.layers else None
        if last is not None and last.activation is None and self._pool is None:
            column = np.broadcast_to(scale, (last.units,))
            self.layers[-1] = replace(
                last,
                weight=last.weight * column.reshape(-1, *[1] * (last.weight.ndim - 1)),
                bias=last.bias * column + shift,
            )
            return
        factor, offset = self._map or (np.array(1.0), np.array(0.0))
        self._map = (factor * scale, offset * scale + shift)

    def _units(self) -> int:
        return self.shape[0]

    def _take_up(self, weight: FloatArray, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weights and bias with the affine map of their input folded in."""
        if self._map is None:
            return weight, bias
        channels = weight.shape[1]
        copies = channels // max(np.size(part) for part in self._map)
        scale, shift = (
            np.repeat(np.broadcast_to(part, (channels // copies,)), copies) for part in self._map
        )
        rest = (1,) * (weight.ndim - 2)
        bias = bias + (weight * shift.reshape(1, -1, *rest)).reshape(len(weight), -1).sum(axis=1)
        self._map = None
        return weight * scale.reshape(1, -1, *rest), bias

    def _check(self, weight: FloatArray, bias: FloatArray) -> None:
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise _NotPlain("weights or biases are NaN or infinite")


_AFFINE: dict[Any, Callable[[FloatArray], tuple[FloatArray, FloatArray]]] = {
    operator.add: lambda c: (np.array(1.0), c),
    operator.sub: lambda c: (np.array(1.0), -c),
    operator.mul: lambda c: (c, np.array(0.0)),
    operator.truediv: lambda c: (1.0 / c, np.array(0.0)),
}
for _function, _same in (
    (torch.add, operator.add),
    (torch.sub, operator.sub),
    (torch.mul, operator.mul),
    (torch.div, operator.truediv),
):
    _AFFINE[_function] = _AFFINE[_function.__name__] = _AFFINE[_same]


def _walk(memory: SpikingMemory) -> Callable[[], Step]:
    def begin() -> Step:
        step, place = memory.walk(), next(memory.parameters()).device

        def rates(rows: FloatArray, starts: Any) -> FloatArray:
            given = (torch.as_tensor(part, device=place) for part in (rows, starts))
            return step(*given).cpu().numpy().astype(np.float64)

        return rates

    return begin


def _subtracted_from(x: Any, c: Any) -> Any:
    """c - x."""
    return c - x


_AFFINE[_subtracted_from] = lambda c: (np.array(-1.0), c)
_SWAPS: dict[Any, Any] = {
    operator.add: operator.add,
    operator.mul: operator.mul,
    torch.add: operator.add,
    torch.mul: operator.mul,
    operator.sub: _subtracted_from,
    torch.sub: _subtracted_from,
}


def _constant(value: Any, root: nn.Module) -> Any:
    """An argument that is known before any observation; raises _NotPlain for one that is not."""
    if not isinstance(value, fx.Node):
        return value
    if value.op != "get_attr":
        raise _NotPlain(
            f"it combines two results ({value}); only layers one after the other can be converted"
        )
    found: Any = root
    for part in str(value.target).split("."):
        found = getattr(found, part)
    return found


def _called(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _array(value: Any) -> FloatArray:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy().astype(np.float64)
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise _NotPlain(f"{value!r} is no number") from None


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))
