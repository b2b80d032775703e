"""What a worker and its caller say to each other: JSON with arrays as raw bytes, never pickle.

Imports numpy, network, base, container's list of dtypes and errors. A message is

    4 bytes   length of the JSON text, little-endian
    text      JSON; an array in it is {"$array": [dtype, shape]}
    raw       the arrays in the order of the text, C order, each padded to 8 bytes

Reading calls the layers' dataclasses and nothing else, so the two sides may have different versions
of Python and numpy.
"""

from __future__ import annotations

import json
import math
import os
import traceback
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from spikerl import errors
from spikerl.backends.base import Capabilities
from spikerl.container import DTYPES
from spikerl.errors import BackendError, SpikerlError
from spikerl.network import LAYER_TYPES, Recording, SpikingNetwork

PROTOCOL = 1  # changes whenever an older spikerl could misread a message
_ARRAY = "$array"
_LAYERS = {layer.__name__: layer for layer in LAYER_TYPES}


def encode(value: Any) -> bytes:
    """One message; raises BackendError for what neither JSON nor an array can say."""
    raw: list[bytes] = []

    def other(found: Any) -> Any:
        if isinstance(found, np.ndarray):
            array = np.asarray(found, found.dtype.newbyteorder("<"), order="C")
            if array.dtype.str in DTYPES:
                raw.append(_padded(array.tobytes()))
                return {_ARRAY: [array.dtype.str, list(array.shape)]}
        elif isinstance(found, np.generic):
            return found.item()
        elif isinstance(found, os.PathLike):
            return os.fspath(found)
        raise BackendError(
            f"{found!r} cannot be sent to another process, only numbers, strings, booleans, None, "
            "paths, arrays of numbers, and lists and mappings of these"
        )

    text = json.dumps(value, default=other).encode()
    return b"".join([len(text).to_bytes(4, "little"), _padded(text, 4), *raw])


def decode(message: bytes | bytearray) -> Any:
    """What encode() was given, tuples as lists; arrays share the memory of a bytearray."""
    length = int.from_bytes(message[:4], "little")
    at = 4 + length + -(4 + length) % 8

    def made(found: dict[str, Any]) -> Any:
        nonlocal at
        if found.keys() != {_ARRAY}:
            return found
        dtype, shape = found[_ARRAY]
        if dtype not in DTYPES:
            raise BackendError(f"a message holds an array of dtype {dtype!r}")
        count = math.prod(shape)
        array = np.frombuffer(message, dtype, count, at).reshape(shape)
        at += array.nbytes + -array.nbytes % 8
        return array

    return json.loads(message[4 : 4 + length].decode(), object_hook=made)


def _padded(data: bytes, before: int = 0) -> bytes:
    return data + bytes(-(before + len(data)) % 8)


def network_data(network: SpikingNetwork) -> dict[str, Any]:
    """A network as a part of a message."""
    layers = [
        {"type": type(layer).__name__, **{f.name: getattr(layer, f.name) for f in fields(layer)}}
        for layer in network.layers
    ]
    return {"layers": layers, "dt_ms": network.dt_ms}


def network_from(data: Mapping[str, Any]) -> SpikingNetwork:
    """The network of a message; raises NetworkError if it breaks the contract."""
    layers = []
    for found in data["layers"]:
        values = dict(found)
        layers.append(_LAYERS[values.pop("type")](**values))
    return SpikingNetwork(tuple(layers), data["dt_ms"])


def recording_data(recording: Recording) -> dict[str, Any]:
    """A recording as a part of a message."""
    return {field.name: getattr(recording, field.name) for field in fields(recording)}


def recording_from(data: Mapping[str, Any]) -> Recording:
    """The recording of a message: counts [B, n], potentials [B, n], spikes [T, B, n] per layer."""
    spikes = data["spikes"]
    return Recording(
        counts=tuple(data["counts"]),
        potentials=tuple(data["potentials"]),
        sim_steps=data["sim_steps"],
        spikes=None if spikes is None else tuple(spikes),
    )


def capabilities_data(capabilities: Capabilities) -> dict[str, Any]:
    """Capabilities as a part of a message."""
    values = {field.name: getattr(capabilities, field.name) for field in fields(capabilities)}
    values["limits"] = dict(capabilities.limits)
    return {k: sorted(v) if isinstance(v, frozenset) else v for k, v in values.items()}


def capabilities_from(data: Mapping[str, Any]) -> Capabilities:
    """The capabilities of a message."""
    values: dict[str, Any] = {
        key: frozenset(value) if isinstance(value, list) else value for key, value in data.items()
    }
    return Capabilities(**values)


def error_data(error: Exception, backend: str) -> dict[str, Any]:
    """An exception as a part of a message; what is not spikerl's own arrives as a BackendError."""
    if not isinstance(error, SpikerlError):
        return {
            "type": "BackendError",
            "message": f"back end {backend!r} raised {type(error).__name__}: {error}",
            "note": "in the worker:\n" + "".join(traceback.format_exception(error)).rstrip(),
        }
    known = next(t.__name__ for t in type(error).__mro__ if getattr(errors, t.__name__, None) is t)
    problems, name = getattr(error, "problems", None), getattr(error, "backend", None)
    return {
        "type": known,
        "message": str(error),
        "problems": None if problems is None else [str(problem) for problem in problems],
        "backend": None if name is None else str(name),
    }


def error_from(data: Mapping[str, Any]) -> SpikerlError:
    """The error of a message, of the same class and with the same text and problems."""
    kind: type[SpikerlError] = getattr(errors, data["type"])
    error = kind.__new__(kind)
    error.args = (data["message"],)
    if data.get("problems") is not None:
        error.problems = tuple(data["problems"])  # type: ignore[attr-defined]
    if data.get("backend") is not None:
        error.backend = data["backend"]  # type: ignore[attr-defined]
    if data.get("note"):
        error.add_note(data["note"])
    return error
