"""SpikingLayer: a linear map or convolution and the neurons behind it. Imports torch."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikerl.errors import SpikerlError, listed
from spikerl.layers import Conv2d, Dense, FloatArray
from spikerl.nn.adaptation import fire_adaptive
from spikerl.nn.currents import filtered
from spikerl.nn.firing import Rule, delayed, fire
from spikerl.nn.neurons import Neuron
from spikerl.nn.normalisation import NORMS, BatchNorm
from spikerl.nn.surrogates import Surrogate

Moments = tuple[Tensor, Tensor]
LEAST = 0.1  # of what a chip's weights and thresholds were meant to be
EXTRAS = ("current_decay", "adaptation", "adaptation_decay")


class SpikingLayer(nn.Module):
    """Neurons under the contract of spikerl.network, trained through surrogate gradients.

    Parameters are those of a linear map; thresholds and initial potentials are buffers; potentials
    live in one call only and are never part of the state that is saved.

    synapses: nn.Linear or nn.Conv2d.
    neuron:   what fires behind it.
    norm:     of the current, between the two; None where there is none (see normalise()).
    shape:    of one row of input, (n,) or (channels, height, width).
    """

    v_threshold: Tensor
    v_init: Tensor
    fixed_decay: Tensor

    def __init__(
        self, synapses: nn.Linear | nn.Conv2d, neuron: Neuron, shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.synapses = synapses
        self.neuron = neuron
        self.surrogate = Surrogate(neuron.surrogate, neuron.slope)
        self.norm: BatchNorm | None = None
        self.shape = shape
        self.shape_out = output_shape(synapses, shape)
        self.extras = {name: neuron.extra(name) for name in EXTRAS}
        self.chip: tuple[Tensor, Tensor, Tensor] | None = None
        n = prod(self.shape_out)
        self.register_buffer("v_threshold", torch.full((n,), float(neuron.v_threshold)))
        self.register_buffer("v_init", torch.full((n,), float(neuron.v_init)))
        decay = neuron.starting_decay
        if neuron.kind == "PLIF":
            self.decay_logit = nn.Parameter(torch.logit(torch.tensor(decay)))
        else:
            self.register_buffer("fixed_decay", torch.full((n,), decay))

    @classmethod
    def of(cls, layer: Dense | Conv2d, **rules: Any) -> SpikingLayer:
        """The neurons of a layer of a SpikingNetwork, in float32; rules: see Neuron.

        A learned decay comes back as a fixed one. Raises SpikerlError with what cannot be trained:
        recurrence, refractory steps, a floor, synaptic currents or adaptation of several values in
        one layer, or both of them.
        """
        kind = "LIF" if (np.asarray(layer.decay) != 1).any() else "IF"
        own: tuple[str, ...] = ()
        if layer.has_current:
            kind, own = "CLIF", ("current_decay",)
        elif layer.adapts:
            kind, own = "ALIF", ("adaptation", "adaptation_decay")
        extras = {name: np.unique(getattr(layer, name)) for name in own}
        both = layer.has_current and layer.adapts
        unknown = [
            f"{name} {value!r}"
            for name, value, plain in (
                ("recurrent weights", layer.recurrent_weight is not None, False),
                ("refractory_steps", layer.refractory_steps, 0),
                ("v_min", layer.v_min, None),
                ("both a synaptic current and adaptation", both, False),
            )
            if value != plain
        ]
        unknown += [
            f"several values of {name}" for name, values in extras.items() if values.size > 1
        ]
        if unknown:
            raise SpikerlError(listed("this layer cannot be trained", unknown))
        synapses: nn.Linear | nn.Conv2d
        shape: tuple[int, ...]
        if isinstance(layer, Dense):
            synapses, shape = nn.Linear(layer.n_in, layer.n_out), (layer.n_in,)
        else:
            channels, before, *kernel = layer.weight.shape
            geometry = (layer.stride, layer.padding)
            synapses = nn.Conv2d(before, channels, tuple(kernel), *geometry)
            shape = layer.input_shape
        rules |= {name: values.item() for name, values in extras.items()}
        neuron = Neuron(kind, reset=layer.reset, delay_steps=layer.delay_steps, **rules)
        found = cls(synapses, neuron, shape)
        with torch.no_grad():
            synapses.weight.copy_(torch.tensor(layer.weight))
            assert synapses.bias is not None
            synapses.bias.copy_(torch.tensor(layer.bias))
            found.v_init.copy_(torch.tensor(layer.v_init))
            found.v_threshold.copy_(torch.tensor(layer.v_threshold))
            found.fixed_decay.copy_(torch.tensor(layer.decay))
        return found

    @property
    def n_out(self) -> int:
        """Neurons of the layer."""
        return prod(self.shape_out)

    @property
    def fan_out(self) -> float:
        """Synapses of one neuron of the layer before, in the mean."""
        return prod(self.shape_out) * self.synapses.weight[0].numel() / prod(self.shape)

    @property
    def drive(self) -> float:
        """Current that takes a neuron from rest to its threshold in one step."""
        return float(self.v_threshold.mean())

    def rules(self) -> dict[str, Any]:
        """What its weights mean, compared where they are loaded: see rules.py."""
        norm = next((name for name, kind in NORMS.items() if type(self.norm) is kind), None)
        return {**self.neuron.rules(), **shapes(self.synapses), "norm": norm}

    def learn_v_init(self) -> None:
        """Make the initial potentials parameters, one for each neuron."""
        start = self.v_init
        del self.v_init
        self.v_init = nn.Parameter(start)

    def normalise(self, kind: type[BatchNorm]) -> None:
        """Normalise the current of these neurons; only behind a linear map."""
        if not isinstance(self.synapses, nn.Linear):
            raise SpikerlError("only linear layers can be normalised, found a convolution")
        self.norm = kind(self.n_out, float(self.neuron.v_threshold))

    def decay(self) -> Tensor:
        """[n_out], by gradient to the learned one."""
        if self.neuron.kind == "PLIF":
            return torch.sigmoid(self.decay_logit).expand(self.n_out).contiguous()
        return self.fixed_decay

    def draw(self) -> None:
        """Another chip: factors of weight, bias and threshold under the neuron's mismatch."""
        if self.neuron.mismatch:
            parts = (self.synapses.weight, self.v_threshold[: len(self.synapses.weight)])
            self.chip = tuple(  # type: ignore[assignment]
                (1 + self.neuron.mismatch * torch.randn_like(part)).clamp(min=LEAST)
                for part in (*parts, self.v_threshold)
            )

    def thresholds(self) -> Tensor:
        """[n_out], of the chip if there is one."""
        return self.v_threshold if self.chip is None else self.v_threshold * self.chip[2]

    def weights(self, moments: Moments | None = None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as the target, or the chip that was drawn, holds them.

        moments: to normalise by, instead of the kept ones.
        """
        weight, bias = self._rounded(moments)
        if self.chip is None:
            return weight, bias
        return weight * self.chip[0], None if bias is None else bias * self.chip[1]

    def _rounded(self, moments: Moments | None = None) -> tuple[Tensor, Tensor | None]:
        """As designed: normalisation folded in, rounded if the neuron says so."""
        weight, bias = self.synapses.weight, self.synapses.bias
        if self.norm is not None:
            weight, bias = self.norm.folded(weight, bias, moments)
        if self.neuron.weight_bits is None:
            return weight, bias
        return straight_through(weight, bias, self.neuron.weight_bits)

    def numbers(self) -> tuple[Tensor, ...]:
        """Weight, bias, decay, threshold and v_init, as the target or the chip holds them."""
        weight, bias = self.weights()
        bias = weight.new_zeros(self.n_out) if bias is None else bias
        return weight, bias, self.decay(), self.thresholds(), self.v_init

    @property
    def chunked(self) -> bool:
        """Whether fire_stack() can fire it in training; hooks want it to be called by itself."""
        hooks = self._forward_hooks or self._forward_pre_hooks or self._backward_hooks
        dense = isinstance(self.synapses, nn.Linear) and self.norm is None
        return dense and not hooks and not any(self.extras.values())

    @property
    def rule(self) -> Rule:
        """What fire_stack() wants to know beside the numbers."""
        neuron = self.neuron
        return Rule(
            zero=neuron.reset == "zero",
            surrogate=self.surrogate,
            detach_reset=neuron.detach_reset,
            delay_steps=neuron.delay_steps,
        )

    def current(self, x: Tensor) -> Tensor:
        """W x + b for x [T, B, n_in]: [T, B, n_out]."""
        moments = None
        if self.norm is not None and self.norm.measuring:
            weight, bias = self.synapses.weight, self.synapses.bias
            bias = None if bias is None else bias.to(x.dtype)
            plain = nn.functional.linear(x, weight.to(x.dtype), bias)
            moments = self.norm.moments(plain)
            if self.neuron.weight_bits is None and self.chip is None:
                factor, offset = self.norm.scaled(moments)
                return plain * factor + offset
        weight, bias = self.weights(moments)
        weight = weight.to(x.dtype)
        bias = None if bias is None else bias.to(x.dtype)
        if isinstance(self.synapses, nn.Linear):
            return nn.functional.linear(x, weight, bias)
        maps = x.reshape(-1, *self.shape)
        stride, padding = self.synapses.stride, self.synapses.padding
        found = nn.functional.conv2d(maps, weight, bias, stride, padding)
        return found.reshape(*x.shape[:2], -1)

    def forward(
        self, x: Tensor, sim_steps: int, *, late: int = 0, last: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes [T, B, n_out], counts and final potentials [B, n_out].

        x: [T, B, n_in], or [1, B, n_in] for the same at every step.
        late: steps by which x comes later; until then there is the bias alone.
        last: only the counts are wanted, of the spikes that arrive in time.
        """
        x = delayed(x, late, sim_steps)
        current, rules = self.current(x), self.extras
        if rules["current_decay"]:
            current = filtered(current, rules["current_decay"], sim_steps)
        function: Any = fire
        if rules["adaptation"]:
            function = partial(
                fire_adaptive,
                adaptation=rules["adaptation"],
                adaptation_decay=rules["adaptation_decay"],
            )
        found: tuple[Tensor, Tensor, Tensor] = function(
            current,
            self.v_init.to(current.dtype).expand(current.shape[1], -1),
            self.decay().to(current.dtype),
            self.thresholds().to(current.dtype),
            sim_steps=sim_steps,
            zero=self.neuron.reset == "zero",
            surrogate=self.surrogate,
            detach_reset=self.neuron.detach_reset,
            counted=sim_steps - self.neuron.delay_steps,
            spikes=not last,
        )
        return found

    def to_layer(self) -> Dense | Conv2d:
        """The same neurons as a layer of a SpikingNetwork, exactly; as designed, not of a chip."""
        weight, bias = self._rounded()
        rules: dict[str, Any] = {
            "decay": _shortest(self.decay()),
            "v_threshold": _shortest(self.v_threshold),
            "v_init": _shortest(self.v_init),
            "reset": self.neuron.reset,
            "delay_steps": self.neuron.delay_steps,
            **self.extras,
        }
        given = None if bias is None else exact_array(bias)
        if isinstance(self.synapses, nn.Linear):
            return Dense(exact_array(weight), given, **rules)
        geometry: Any = {"stride": self.synapses.stride, "padding": self.synapses.padding}
        shape: Any = self.shape
        return Conv2d(exact_array(weight), shape, given, **geometry, **rules)


def straight_through(
    weight: Tensor, bias: Tensor | None, bits: int
) -> tuple[Tensor, Tensor | None]:
    """Rounded to whole multiples of one step, with the gradient of what they were (Bengio 2013).

    The largest weight has 2^(bits - 1) - 1 steps; a bias, with more bits on chips, may be larger.
    """
    step = weight.detach().abs().max().clamp(min=1e-12) / (2 ** (bits - 1) - 1)
    rounded = weight + (torch.round(weight / step) * step - weight).detach()
    if bias is not None:
        bias = bias + (torch.round(bias / step) * step - bias).detach()
    return rounded, bias


def shapes(synapses: nn.Linear | nn.Conv2d) -> dict[str, Any]:
    """What the weights of synapses belong to, beside their neurons."""
    found: dict[str, Any] = {"weights": list(synapses.weight.shape)}
    if isinstance(synapses, nn.Conv2d):
        found |= {"stride": list(synapses.stride), "padding": list(synapses.padding)}
    return found


def output_shape(synapses: nn.Linear | nn.Conv2d, shape: tuple[int, ...]) -> tuple[int, ...]:
    """What comes out of one row of this shape."""
    if isinstance(synapses, nn.Linear):
        return (synapses.out_features,)
    with torch.no_grad():
        found = synapses(torch.zeros((1, *shape), device=synapses.weight.device))
    return tuple(int(n) for n in found.shape[1:])


def exact_array(tensor: Tensor) -> FloatArray:
    """The same numbers as float64."""
    return tensor.detach().cpu().numpy().astype(np.float64)


def _shortest(tensor: Tensor) -> Any:
    """One number where all are the same."""
    array = exact_array(tensor)
    return array[0] if (array == array[0]).all() else array
