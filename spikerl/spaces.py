"""Gymnasium spaces to plain data and back. Imports numpy, gymnasium, container and errors.

Box, Discrete, MultiDiscrete, MultiBinary and Dict; bounds and counts keep their dtype and every
bit, infinite bounds included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from spikerl.container import ArrayWriter, ContainerReader, shown
from spikerl.errors import FileFormatError

Space = spaces.Space[Any]

_INTEGERS = ("|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8")
_MAX_DEPTH = 8  # of Dict in Dict
_MAX_SIZE = 2**31  # numbers in one element of a space


def write_space(space: Any, arrays: ArrayWriter) -> dict[str, Any]:
    """Plain data for a space; raises FileFormatError for another kind of space."""
    kind = type(space)
    if kind is spaces.Box:
        return {
            "space": "Box",
            "low": arrays.add(space.low),
            "high": arrays.add(space.high),
            # kept apart: for whole numbers an infinite bound is stored as the largest number
            "bounded_below": arrays.add(space.bounded_below),
            "bounded_above": arrays.add(space.bounded_above),
        }
    if kind is spaces.Discrete:
        dtype = np.dtype(space.dtype).newbyteorder("<").str
        return {"space": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": dtype}
    if kind is spaces.MultiDiscrete:
        return {
            "space": "MultiDiscrete",
            "nvec": arrays.add(space.nvec),
            "start": arrays.add(space.start),
        }
    if kind is spaces.MultiBinary:
        n = space.n if isinstance(space.n, (int, np.integer)) else [int(k) for k in space.n]
        return {"space": "MultiBinary", "n": n if isinstance(n, list) else int(n)}
    if kind is spaces.Dict:
        for key in space.spaces:
            if not isinstance(key, str):
                raise FileFormatError(f"a Dict space with the key {key!r} cannot be saved")
        entries = [[key, write_space(entry, arrays)] for key, entry in space.spaces.items()]
        return {"space": "Dict", "entries": entries}
    known = ", ".join(_READERS)
    raise FileFormatError(f"a space of type {kind.__name__} cannot be saved, only {known}")


def read_space(data: Any, source: ContainerReader, where: str, depth: int = 0) -> Space:
    """The space that write_space() described; raises FileFormatError for anything else."""
    name = data.get("space") if isinstance(data, dict) else None
    if not isinstance(name, str) or name not in _READERS:
        raise FileFormatError(f"{where} is {shown(data)}, wanted a space of {', '.join(_READERS)}")
    if depth > _MAX_DEPTH:
        raise FileFormatError(f"{where} is nested too deeply")
    reader, fields = _READERS[name]
    if set(data) != {"space", *fields}:
        raise FileFormatError(f"{where} has the fields {shown(sorted(data))} for a {name}")
    return reader(data, source, where, depth)


def _box(data: Any, source: ContainerReader, where: str, depth: int) -> Space:
    names = ("low", "high", "bounded_below", "bounded_above")
    low, high, below, above = (source.array(data[name], f"{where}.{name}") for name in names)
    if low.dtype != high.dtype or not low.shape == high.shape == below.shape == above.shape:
        raise FileFormatError(f"the bounds of {where} differ in dtype or shape")
    if below.dtype != np.bool_ or above.dtype != np.bool_:
        raise FileFormatError(f"{where} has bounded_below or bounded_above of another dtype")
    if not (low <= high).all():  # false for NaN as well
        raise FileFormatError(f"{where} has a lower bound that is not below the upper one")
    if np.isposinf(low).any() or np.isneginf(high).any():
        raise FileFormatError(f"{where} has bounds that no number lies between")
    if low.dtype.kind == "f" and not (
        np.array_equal(below, low > -np.inf) and np.array_equal(above, high < np.inf)
    ):
        raise FileFormatError(f"{where} contradicts itself about infinite bounds")
    box = spaces.Box(low.copy(), high.copy(), dtype=low.dtype.type)
    box.bounded_below, box.bounded_above = below.copy(), above.copy()
    return box


def _discrete(data: Any, source: ContainerReader, where: str, depth: int) -> Space:
    n, start, dtype = data["n"], data["start"], data["dtype"]
    if not isinstance(dtype, str) or dtype not in _INTEGERS:
        raise FileFormatError(f"{where} has dtype {shown(dtype)}, wanted whole numbers")
    info = np.iinfo(dtype)
    whole = type(n) is int and type(start) is int
    if not whole or n < 1 or not info.min <= start <= start + n - 1 <= info.max or n > info.max:
        raise FileFormatError(f"{where} has n = {shown(n)} and start = {shown(start)}")
    return spaces.Discrete(n, start=start, dtype=np.dtype(dtype).type)


def _multi_discrete(data: Any, source: ContainerReader, where: str, depth: int) -> Space:
    nvec: NDArray[Any] = source.array(data["nvec"], f"{where}.nvec")
    start: NDArray[Any] = source.array(data["start"], f"{where}.start")
    if nvec.dtype.str not in _INTEGERS or start.dtype != nvec.dtype or start.shape != nvec.shape:
        raise FileFormatError(f"{where} has nvec and start of other dtypes or shapes")
    if not nvec.size or (nvec < 1).any():
        raise FileFormatError(f"{where} has a choice without options")
    return spaces.MultiDiscrete(nvec, dtype=nvec.dtype.type, start=start)


def _multi_binary(data: Any, source: ContainerReader, where: str, depth: int) -> Space:
    n = data["n"]
    sizes = n if isinstance(n, list) else [n]
    whole = bool(sizes) and all(type(k) is int and k >= 1 for k in sizes)
    if not whole or len(sizes) > 8 or math.prod(sizes) > _MAX_SIZE:
        raise FileFormatError(f"{where} has n = {shown(n)}, wanted whole numbers >= 1")
    return spaces.MultiBinary(n)


def _dict(data: Any, source: ContainerReader, where: str, depth: int) -> Space:
    entries = data["entries"]
    if not isinstance(entries, list) or not entries:
        raise FileFormatError(f"{where} has entries {shown(entries)}, wanted a list")
    found: dict[str, Space] = {}
    for pair in entries:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise FileFormatError(f"{where} has the entry {shown(pair)}, wanted [key, space]")
        if pair[0] in found:
            raise FileFormatError(f"{where} has the key {shown(pair[0])} twice")
        place = f"{where}[{shown(pair[0])}]"
        found[pair[0]] = read_space(pair[1], source, place, depth + 1)
    return spaces.Dict(list(found.items()))  # a list keeps its order, a dict would be sorted


_READERS: dict[str, tuple[Callable[[Any, ContainerReader, str, int], Space], tuple[str, ...]]] = {
    "Box": (_box, ("low", "high", "bounded_below", "bounded_above")),
    "Discrete": (_discrete, ("n", "start", "dtype")),
    "MultiDiscrete": (_multi_discrete, ("nvec", "start")),
    "MultiBinary": (_multi_binary, ("n",)),
    "Dict": (_dict, ("entries",)),
}
