"""Kinds of fields: how one value of a saved agent is written as plain data, and checked when read.

Imports numpy, container, spaces and errors. `document` says which field is of which kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from spikerl.container import ArrayWriter, ContainerReader, shown
from spikerl.errors import FileFormatError, SpikerlError
from spikerl.spaces import read_space, write_space

MAX_COUNT = 2**53
_MAX_DEPTH = 32  # of plain data
_FLOAT = "$float"  # key that stands for a float JSON has no word for


class Kind(Protocol):
    """How one field is written and read; read() raises FileFormatError for what it cannot be."""

    def write(self, value: Any, arrays: ArrayWriter, where: str) -> Any:
        """Plain data."""
        ...

    def read(self, data: Any, source: ContainerReader, where: str) -> Any:
        """The value."""
        ...


@dataclass(frozen=True)
class Number:
    """A float from low to high; where special=True also NaN and the infinities."""

    low: float = -math.inf
    high: float = math.inf
    special: bool = False

    def write(self, value: Any, arrays: ArrayWriter, where: str) -> Any:
        number = float(value)
        return number if math.isfinite(number) else {_FLOAT: repr(number)}

    def read(self, data: Any, source: ContainerReader, where: str) -> float:
        number = _special(data) if self.special and isinstance(data, dict) else data
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise _unwanted(where, data, "a number")
        try:
            number = float(number)
        except OverflowError:
            raise _unwanted(where, data, "a number a float can hold") from None
        if not self.special and not (math.isfinite(number) and self.low <= number <= self.high):
            raise _unwanted(where, data, f"a finite number in [{self.low:g}, {self.high:g}]")
        return number


@dataclass(frozen=True)
class Whole:
    """A whole number from low to high."""

    low: int = 0
    high: int = MAX_COUNT

    def write(self, value: Any, arrays: ArrayWriter, where: str) -> Any:
        return int(value)

    def read(self, data: Any, source: ContainerReader, where: str) -> int:
        if isinstance(data, bool) or not isinstance(data, int) or not self.low <= data <= self.high:
            raise _unwanted(where, data, f"a whole number in [{self.low}, {self.high}]")
        return data


@dataclass(frozen=True)
class Wholes:
    """A tuple of whole numbers, `length` of them if that is given."""

    length: int | None = None
    low: int = 0
    high: int = MAX_COUNT

    def write(self, value: Any, arrays: ArrayWriter, where: str) -> Any:
        return [int(n) for n in value]

    def read(self, data: Any, source: ContainerReader, where: str) -> tuple[int, ...]:
        if not isinstance(data, list) or len(data) != (self.length or len(data)) or not data:
            raise _unwanted(where, data, f"a list of {self.length or 'some'} whole numbers")
        one = Whole(self.low, self.high)
        return tuple(one.read(n, source, f"{where}[{i}]") for i, n in enumerate(data))


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def write(self, value: Any, arrays: ArrayWriter, where: str) -> Any:
        return bool(value)

    def read(self, data: Any, source: ContainerReader, where: str) -> bool:
        if not isinstance(data, bool):
            raise _unwanted(where, data, "true or false")
        return data


@dataclass(frozen=True)
class Text:
    """A string, one of `choices` if there are any."""

    choices: tuple[str, ...] = ()

    def write(self, value: Any, arrays: ArrayWriter, where: str) -> Any:
        return str(value)

    def read(self, data: Any, source: ContainerReader, where: str) -> str:
        if not isinstance(data, str) or (self.choices and data not in self.choices):
            raise _unwanted(where, data, " or ".join(self.choices) or "a string")
        return data


@dataclass(frozen=True)
class Array:
    """A float64 array; a scalar stands in the document itself, unless inline=False.

    infinite: whether infinite values are allowed; NaN never is.
    """

    infinite: bool = False
    inline: bool = True

    def write(self, value: Any, arrays: ArrayWriter, where: str) -> Any:
        array = np.asarray(value, dtype=np.float64)
        if self.inline and array.ndim == 0 and np.isfinite(array):
            return float(array)
        return arrays.add(array)

    def read(self, data: Any, source: ContainerReader, where: str) -> Any:
        if self.inline and not isinstance(data, dict):
            return np.float64(Number().read(data, source, where))
        array = source.array(data, where)
        if array.dtype != np.float64:
            raise FileFormatError(f"{where} has dtype {array.dtype}, wanted float64")
        if np.isnan(array).any() or not (self.infinite or np.isfinite(array).all()):
            raise FileFormatError(f"{where} holds NaN or infinite values")
        return array


@dataclass(frozen=True)
class Maybe:
    """None, or a value of another kind."""

    kind: Kind

    def write(self, value: Any, arrays: ArrayWriter, where: str) -> Any:
        return None if value is None else self.kind.write(value, arrays, where)

    def read(self, data: Any, source: ContainerReader, where: str) -> Any:
        return None if data is None else self.kind.read(data, source, where)


@dataclass(frozen=True)
class Many:
    """A tuple of values of one kind."""

    kind: Kind

    def write(self, value: Any, arrays: ArrayWriter, where: str) -> Any:
        return [self.kind.write(v, arrays, f"{where}[{i}]") for i, v in enumerate(value)]

    def read(self, data: Any, source: ContainerReader, where: str) -> Any:
        if not isinstance(data, list):
            raise _unwanted(where, data, "a list")
        return tuple(self.kind.read(d, source, f"{where}[{i}]") for i, d in enumerate(data))


@dataclass(frozen=True)
class BySteps:
    """A mapping from numbers of steps; JSON keys are strings."""

    kind: Kind

    def write(self, value: Any, arrays: ArrayWriter, where: str) -> Any:
        return {str(int(key)): self.kind.write(v, arrays, where) for key, v in value.items()}

    def read(self, data: Any, source: ContainerReader, where: str) -> Any:
        if not isinstance(data, dict):
            raise _unwanted(where, data, "an object")
        found = {}
        for key, entry in data.items():
            if not (key.isascii() and key.isdigit() and len(key) <= 7 and str(int(key)) == key):
                raise _unwanted(where, key, "a number of steps")
            found[int(key)] = self.kind.read(entry, source, f"{where}[{key}]")
        return found


@dataclass(frozen=True)
class SpaceKind:
    """A Gymnasium space."""

    def write(self, value: Any, arrays: ArrayWriter, where: str) -> Any:
        return write_space(value, arrays)

    def read(self, data: Any, source: ContainerReader, where: str) -> Any:
        return read_space(data, source, where)


@dataclass(frozen=True)
class Plain:
    """A mapping of plain data: strings, numbers, booleans, None, lists, mappings by strings.

    numpy scalars become plain numbers and tuples become lists; anything else is refused.
    """

    def write(self, value: Any, arrays: ArrayWriter, where: str) -> Any:
        return self._write(value, where, 0)

    def read(self, data: Any, source: ContainerReader, where: str) -> Any:
        if not isinstance(data, dict):
            raise _unwanted(where, data, "an object")
        return self._read(data, where, 0)

    def _write(self, value: Any, where: str, depth: int) -> Any:
        value = value.item() if isinstance(value, np.generic) else value
        if depth <= _MAX_DEPTH:
            if value is None or isinstance(value, (bool, int, str)):
                return value
            if isinstance(value, float):
                return value if math.isfinite(value) else {_FLOAT: repr(value)}
            if isinstance(value, (list, tuple)):
                return [self._write(v, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
            if isinstance(value, Mapping) and all(
                isinstance(k, str) and k != _FLOAT for k in value
            ):
                return {k: self._write(v, f"{where}[{k!r}]", depth + 1) for k, v in value.items()}
        raise FileFormatError(f"{where} cannot be saved: {shown(value)} is no plain data")

    def _read(self, data: Any, where: str, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise FileFormatError(f"{where} is nested too deeply")
        if isinstance(data, list):
            return [self._read(d, where, depth + 1) for d in data]
        if isinstance(data, dict):
            if _FLOAT in data:
                return _special(data)
            return {key: self._read(d, where, depth + 1) for key, d in data.items()}
        if isinstance(data, float) and not math.isfinite(data):  # such as 1e999
            raise _unwanted(where, data, "a number a float can hold")
        return data


@dataclass(frozen=True)
class Record:
    """A dataclass of one known type; check raises FileFormatError for what a file may not hold."""

    type: type
    fields: Mapping[str, Kind]
    check: Callable[[Any, str], None] | None = None

    def write(self, value: Any, arrays: ArrayWriter, where: str) -> Any:
        return {
            name: kind.write(getattr(value, name), arrays, f"{where}.{name}")
            for name, kind in self.fields.items()
        }

    def read(self, data: Any, source: ContainerReader, where: str) -> Any:
        if not isinstance(data, dict):
            raise _unwanted(where, data, "an object")
        for name in sorted(set(data) ^ set(self.fields)):
            fault = "lacks the field" if name in self.fields else "has the unknown field"
            raise FileFormatError(f"{where} {fault} {shown(name)}")
        values = {
            name: kind.read(data[name], source, f"{where}.{name}")
            for name, kind in self.fields.items()
        }
        try:
            made = self.type(**values)
        except SpikerlError as error:
            raise FileFormatError(f"{where} is not sound: {error}") from None
        if self.check is not None:
            self.check(made, where)
        return made


@dataclass(frozen=True)
class Tagged:
    """One of several dataclasses, told apart by the tag under "type"."""

    records: Mapping[str, Record]

    def write(self, value: Any, arrays: ArrayWriter, where: str) -> Any:
        for tag, record in self.records.items():
            if type(value) is record.type:  # a subclass would lose what it adds
                return {"type": tag, **record.write(value, arrays, where)}
        known = ", ".join(record.type.__name__ for record in self.records.values())
        raise FileFormatError(
            f"{where} is a {type(value).__name__}, which cannot be saved, only {known}"
        )

    def read(self, data: Any, source: ContainerReader, where: str) -> Any:
        tag = data.get("type") if isinstance(data, dict) else None
        if not isinstance(tag, str) or tag not in self.records:
            raise _unwanted(where, tag or data, f"one of {', '.join(self.records)}")
        rest = {key: value for key, value in data.items() if key != "type"}
        return self.records[tag].read(rest, source, where)


def _special(data: Any) -> float:
    known = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
    text = data.get(_FLOAT) if len(data) == 1 else None
    if not isinstance(text, str) or text not in known:
        raise FileFormatError(f"{shown(data)} is no number")
    return known[text]


def _unwanted(where: str, found: Any, wanted: str) -> FileFormatError:
    return FileFormatError(f"{where} is {shown(found)}, wanted {wanted}")
