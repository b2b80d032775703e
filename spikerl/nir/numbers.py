"""How a neuron's numbers read in NIR, and back; numpy only."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from spikerl.errors import ConversionError, SpikerlError
from spikerl.network import FloatArray, NeuronLayer

KEY = "spikerl"  # of what we add to a node's or graph's metadata
ROUNDING = 1e-12  # a gain this near to one is one: r = 1 / dt was rounded


def library() -> Any:
    """The module nir; raises SpikerlError that says what to install."""
    try:
        return import_module("nir")
    except ModuleNotFoundError as error:
        raise SpikerlError(
            f"NIR needs the package {error.name!r}: pip install 'spikerl[nir]'"
        ) from None


def below(threshold: FloatArray) -> FloatArray:
    """The largest float32 below each threshold: v > it equals v >= threshold for float32 v."""
    near = threshold.astype(np.float32)
    lower = np.nextafter(near, np.float32(-np.inf))
    found: FloatArray = np.where(near.astype(np.float64) < threshold, near, lower).astype(
        np.float64
    )
    return found


def spread(value: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """A scalar or a flat row as an array of its own, of the shape of a layer."""
    n = int(np.prod(shape))
    return np.array(np.broadcast_to(value, (n,)).reshape(shape))


def parameters(layer: NeuronLayer, shape: tuple[int, ...], dt: float) -> dict[str, FloatArray]:
    """The parameters of the NIR node of a layer, by name; tau only where it leaks."""
    found = {}
    if leaks(layer.decay):
        tau = dt / (1.0 - spread(layer.decay, shape))
        found = {"tau": tau, "r": tau / dt, "v_leak": np.zeros(shape)}
    else:
        found["r"] = np.full(shape, 1.0 / dt)
    if layer.spiking:
        found["v_threshold"] = below(spread(layer.v_threshold, shape))
        found["v_reset"] = np.zeros(shape)
    return found


def leaks(decay: FloatArray) -> bool:
    """Whether every neuron leaks; some of them is refused before."""
    return bool((decay < 1).all())


def node_kind(layer: NeuronLayer) -> str:
    """The NIR node that computes a layer's neurons."""
    if layer.spiking:
        return "LIF" if leaks(layer.decay) else "IF"
    return "LI" if leaks(layer.decay) else "I"


NEURON_FIELDS = (
    *("decay", "v_threshold", "reset", "v_init", "delay_steps", "refractory_steps"),
    *("v_min", "spiking"),
)


def remembered(layer: NeuronLayer) -> dict[str, Any]:
    """The neuron fields of a layer as metadata that an HDF5 file can hold."""
    found = {}
    for name in NEURON_FIELDS:
        value = getattr(layer, name)
        if isinstance(value, np.ndarray):
            found[name] = value.copy() if value.ndim else float(value)  # nir writes no 0-d arrays
        elif value is not None:
            found[name] = value
    return found


def _float64(value: Any) -> FloatArray:
    return np.asarray(value, np.float64)


def recalled(metadata: dict[str, Any]) -> dict[str, Any]:
    """The fields again, out of metadata that may have been through a file."""
    kinds: dict[str, Any] = {"reset": str, "delay_steps": int, "refractory_steps": int}
    kinds |= {"spiking": bool, "v_min": float}
    found = {}
    for name in NEURON_FIELDS:
        if name in metadata:
            value = metadata[name]
            try:
                found[name] = kinds.get(name, _float64)(value)
            except (TypeError, ValueError):
                raise ConversionError(
                    f"metadata {name}={value!r} is not what it should be"
                ) from None
    return found
