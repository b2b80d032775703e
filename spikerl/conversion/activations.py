"""Activation functions as numpy knows them, and what torch calls them. Imports torch.

Names are torch's for the module, in lower case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from spikerl.network import FloatArray

Activation = Callable[[FloatArray], FloatArray]


def relu(z: FloatArray) -> FloatArray:
    """max(0, z): the only one a neuron stands for as it is."""
    return np.maximum(z, 0.0)


def _by_torch(function: Callable[..., torch.Tensor], **options: Any) -> Activation:
    """torch's own function in float64: no formula of ours can differ from what was trained."""

    def apply(z: FloatArray) -> FloatArray:
        found: FloatArray = function(torch.from_numpy(np.ascontiguousarray(z)), **options).numpy()
        return found

    return apply


# class of module: the parameters of its own that matter, and torch's function
_MODULES: dict[type[nn.Module], tuple[tuple[str, ...], Callable[..., torch.Tensor]]] = {
    nn.Tanh: ((), torch.tanh),
    nn.Sigmoid: ((), torch.sigmoid),
    nn.ELU: (("alpha",), F.elu),
    nn.CELU: (("alpha",), F.celu),
    nn.SELU: ((), F.selu),
    nn.SiLU: ((), F.silu),
    nn.GELU: (("approximate",), F.gelu),
    nn.LeakyReLU: (("negative_slope",), F.leaky_relu),
    nn.Softplus: (("beta", "threshold"), F.softplus),
    nn.Softsign: ((), F.softsign),
    nn.Mish: ((), F.mish),
    nn.Hardtanh: (("min_val", "max_val"), F.hardtanh),
    nn.ReLU6: ((), F.relu6),
    nn.Hardsigmoid: ((), F.hardsigmoid),
    nn.Hardswish: ((), F.hardswish),
}
_FUNCTIONS: dict[Any, Callable[..., torch.Tensor]] = {
    function: function for _, function in _MODULES.values()
} | {F.tanh: torch.tanh, F.sigmoid: torch.sigmoid, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
_RELUS = (torch.relu, F.relu, "relu", "relu_", torch.relu_)


def of_module(module: nn.Module) -> Activation | None:
    """The activation a torch module computes, or None if it is not a known one."""
    if type(module) is nn.ReLU:
        return relu
    if type(module) not in _MODULES:
        return None
    names, function = _MODULES[type(module)]
    return _by_torch(function, **{name: getattr(module, name) for name in names})


def of_function(target: Any, options: dict[str, Any]) -> Activation | None:
    """The activation a function or a method's name of torch computes, or None."""
    options = {key: value for key, value in options.items() if key != "inplace"}
    if target in _RELUS:
        return relu
    if target not in _FUNCTIONS:
        return None
    return _by_torch(_FUNCTIONS[target], **options)
