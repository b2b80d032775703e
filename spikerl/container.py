"""The container of a saved agent: one file with a JSON document, arrays, and their SHA-256 sums.

Imports numpy and errors. The file is a zip with these members, in this order:

    agent.json       the document; an array in it is {"array": name, "dtype": ..., "shape": [...]}
    arrays/<n>.npy   NPY 1.0, little-endian, C order
    SHA256SUMS       of every other member, as `sha256sum -c` reads them

It is stricter than zip: members are stored uncompressed, one after the other, with nothing before,
between or behind them. So the length of the file bounds what a reader allocates, and there are no
zip bombs, hidden members or appended data. Reading parses JSON and compares bytes, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import zipfile
from collections.abc import Sequence
from struct import error as StructError
from struct import unpack
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from spikerl.errors import FileFormatError

MAX_BYTES = 2**31 - 2**20  # a zip of this size needs none of the 64-bit extensions
MAX_ARRAY_BYTES = 2**31 - 2**21
MAX_DOCUMENT_BYTES = 2**24
MAX_MEMBERS = 4096
MAX_AXES = 8
DTYPES = (
    *("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8"),
    *("<f2", "<f4", "<f8"),
)

DOCUMENT = "agent.json"
SUMS = "SHA256SUMS"
_ARRAY = "arrays/{}.npy"
_DATE = (1980, 1, 1, 0, 0, 0)  # the same agent gives the same bytes
_END = 22  # bytes of the end record of a zip without a comment
_ENTRY = 128  # bytes of a member's entry in the table, at most: 46 and its name
_LOCAL = 30  # bytes of a member's header before its name
_DAMAGED = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, StructError),
    *(ValueError, LookupError, OSError),
)


class ArrayWriter:
    """Collects the arrays of a document; equal arrays are kept once."""

    def __init__(self) -> None:
        self.members: dict[str, bytes] = {}
        self._names: dict[str, str] = {}

    def add(self, value: NDArray[Any]) -> dict[str, Any]:
        """What stands for the array in the document; raises FileFormatError for other dtypes."""
        array = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).reshape(value.shape)
        dtype = array.dtype.str
        if dtype not in DTYPES:
            raise FileFormatError(f"an array of dtype {array.dtype} cannot be saved")
        data = npy_header(dtype, array.shape) + array.tobytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._names:
            self._names[digest] = _ARRAY.format(len(self.members))
            self.members[self._names[digest]] = data
        return {"array": self._names[digest], "dtype": dtype, "shape": list(array.shape)}


def write(file: BinaryIO, document: Any, arrays: ArrayWriter) -> None:
    """Write the container to an open file."""
    text = json.dumps(document, indent=1, allow_nan=False).encode()
    members = {DOCUMENT: text, **arrays.members}
    sums = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in members.items()
    )
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {**members, SUMS: sums.encode()}.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), data)


class ContainerReader:
    """A container open for reading; raises FileFormatError for anything that is not sound.

    document: parsed, its digest not yet checked: a reader looks at its version first, then calls
              verify(), then array() for every array, and finish().
    """

    def __init__(self, file: BinaryIO) -> None:
        size = file.seek(0, 2)
        _check_end(file, size)
        try:
            self._zip = zipfile.ZipFile(file)
        except _DAMAGED as error:
            raise FileFormatError(f"its table of contents is damaged ({error})") from None
        infos = self._zip.infolist()
        self._members = {info.filename: info for info in infos}
        if len(self._members) != len(infos):
            raise FileFormatError("it holds two members of the same name")
        if DOCUMENT not in self._members:
            raise FileFormatError(
                f"it is a zip without {DOCUMENT}, so no spikerl agent; an SB3 model must be "
                "converted with spikerl.convert() first"
            )
        self._infos = infos
        self._sums: dict[str, str] = {}
        self._used: set[str] = set()
        self._granted = 0
        self._check_layout()
        self._text = self._read(DOCUMENT, MAX_DOCUMENT_BYTES)
        self.document = parse(self._text)

    def verify(self) -> None:
        """Check the list of digests, and the document's own."""
        if SUMS not in self._members:
            raise FileFormatError(f"{SUMS} is missing")
        try:
            lines = self._read(SUMS, MAX_MEMBERS * 256).decode("ascii").splitlines(keepends=True)
        except UnicodeDecodeError:
            raise FileFormatError(f"{SUMS} is damaged") from None
        for line in lines:
            match = re.fullmatch(r"([0-9a-f]{64})  (\S+)\n", line)
            if match is None or match[2] in self._sums:
                raise FileFormatError(f"{SUMS} is damaged")
            self._sums[match[2]] = match[1]
        if set(self._sums) != set(self._members) - {SUMS}:
            raise FileFormatError(f"{SUMS} does not list the members that the file holds")
        self._compare(DOCUMENT, self._text)

    def array(self, data: Any, where: str) -> NDArray[Any]:
        """The array a reference in the document stands for; its size is checked before it is read.

        Every check here comes before an allocation, and the sum over all references is bounded.
        """
        if not isinstance(data, dict) or set(data) != {"array", "dtype", "shape"}:
            raise FileFormatError(f"{where} is {shown(data)}, wanted an array")
        name, dtype, shape = data["array"], data["dtype"], data["shape"]
        if not isinstance(name, str) or name not in self._members or name in (DOCUMENT, SUMS):
            raise FileFormatError(f"{where} names the array {shown(name)}, which is not there")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise FileFormatError(f"{where} has dtype {shown(dtype)}, which is not allowed")
        if not _is_shape(shape):
            raise FileFormatError(f"{where} has shape {shown(shape)}, wanted whole numbers >= 0")
        header = npy_header(dtype, tuple(shape))
        length = math.prod(shape) * np.dtype(dtype).itemsize
        if length + len(header) != self._members[name].file_size:
            raise FileFormatError(f"{where} has shape {shown(shape)}, but {name} has another size")
        self._granted += length
        if length > MAX_ARRAY_BYTES or self._granted > MAX_BYTES:
            raise FileFormatError(f"{where} is larger than agents may be")
        raw = self._read(name, MAX_BYTES)
        self._compare(name, raw)
        if not raw.startswith(header):
            raise FileFormatError(f"{name} is not the array the document describes ({where})")
        self._used.add(name)
        if dtype == "|b1" and np.frombuffer(raw, "|u1", offset=len(header)).max(initial=0) > 1:
            raise FileFormatError(f"{where} holds booleans that are neither 0 nor 1")
        return np.frombuffer(raw, dtype, offset=len(header)).reshape(shape)

    def finish(self) -> None:
        """Check that the document used every array of the file."""
        extra = sorted(set(self._members) - self._used - {DOCUMENT, SUMS})
        if extra:
            raise FileFormatError(f"it holds {shown(extra[0])}, which the agent does not use")

    def _check_layout(self) -> None:
        """Members tile the file in the order of the table: none overlaps, none is compressed."""
        offset = 0
        for info in self._infos:
            name = shown(info.filename)
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise FileFormatError(f"the member {name} is compressed; agents are stored as is")
            if info.header_offset != offset or info.flag_bits or info.extra or info.comment:
                raise FileFormatError(f"the member {name} is not where agents keep it")
            offset += _LOCAL + len(info.orig_filename) + info.file_size
        if offset != self._zip.start_dir:
            raise FileFormatError("its table of contents does not match its length")

    def _read(self, name: str, limit: int) -> bytes:
        info = self._members[name]
        if info.file_size > limit:
            raise FileFormatError(f"{name} has {info.file_size} bytes, at most {limit} are allowed")
        try:
            with self._zip.open(info) as member:
                return member.read()
        except _DAMAGED as error:
            raise FileFormatError(f"{name} is damaged ({error})") from None

    def _compare(self, name: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != self._sums[name]:
            raise FileFormatError(f"{name} is damaged: its SHA-256 is not the one written down")


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The one NPY 1.0 header that this dtype and shape have in our files.

    A reader compares it byte for byte, so that no header is ever parsed.
    """
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {tuple(shape)!r}, }}"
    text = text.ljust(-(len(text) + 11) % 64 + len(text)) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("ascii")


def parse(text: bytes) -> Any:
    """JSON without what JSON leaves open: no NaN, no infinity, no key twice, no deep nesting."""
    try:
        return json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except RecursionError:
        raise FileFormatError(f"{DOCUMENT} is nested too deeply") from None
    except UnicodeDecodeError:
        raise FileFormatError(f"{DOCUMENT} is not UTF-8") from None
    except FileFormatError:
        raise
    except ValueError as error:
        raise FileFormatError(f"{DOCUMENT} is not JSON ({error})") from None


def shown(value: Any) -> str:
    """A short, printable form of what was found."""
    try:
        text = ascii(value)
    except (RecursionError, ValueError):  # ValueError: a number of thousands of digits
        return "something unprintable"
    return text if len(text) <= 60 else text[:57] + "..."


def _check_end(file: BinaryIO, size: int) -> None:
    """Check the zip's end record before zipfile reads as much as it says."""
    file.seek(0)
    start = file.read(4)
    if not start:
        raise FileFormatError("it is empty")
    if not start.startswith(b"PK"):
        raise FileFormatError("it is no spikerl agent: it does not begin like one")
    if size > MAX_BYTES:
        raise FileFormatError(f"it has {size} bytes, at most {MAX_BYTES} are allowed")
    file.seek(max(0, size - _END))
    end = file.read(_END)
    if len(end) < _END or not end.startswith(b"PK\x05\x06"):
        raise FileFormatError("it is truncated, or something was appended to it")
    disk, first, here, members, length, offset, comment = unpack("<4H2IH", end[4:])
    if members > MAX_MEMBERS:
        raise FileFormatError(f"it has {members} members, at most {MAX_MEMBERS} are allowed")
    if length > MAX_MEMBERS * _ENTRY:  # zipfile reads so much, whatever the number of members says
        raise FileFormatError(f"its table of contents has {length} bytes, too many for an agent")
    if disk or first or comment or here != members or offset + length + _END != size:
        raise FileFormatError("its end record is damaged, or a part of the file is missing")


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) <= MAX_AXES
        and all(type(n) is int and 0 <= n < 2**31 for n in shape)
    )


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise FileFormatError(f"{DOCUMENT} has the key {shown(twice)} twice")
    return found


def _no_constant(text: str) -> Any:
    raise FileFormatError(f"{DOCUMENT} holds {text}, which is no number")
