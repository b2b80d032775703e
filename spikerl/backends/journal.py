"""What has to be told again to a worker that takes the place of a dead one.

Imports numpy and errors. A journal holds the messages that led from the start state to the present
one. It lives in a temporary file, so that the memory of the process stays flat.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from spikerl.errors import BackendError

Resets = NDArray[np.bool_] | Literal["all"] | None
_FREE = np.iinfo(np.int64).max  # of a row that has not run since its reset
_HEAD = 8
_COMPACT = 2**22  # bytes of messages nobody needs any more that are worth moving the others


class Journal:
    """The runs since the last reset of every row that has run; one run where all are reset first.

    Rows do not influence each other, so what came before the oldest "last reset of a row" is
    dropped. What bounds the file is thus the longest episode among the rows, and `limit` bytes:
    past them nothing more is kept until the next full reset, and messages() raises BackendError.
    """

    def __init__(self, batch_size: int, limit: int) -> None:
        self._starts = np.full(batch_size, _FREE)  # where each row's history begins in the file
        self._limit = limit
        self._file: IO[Any] | None = None
        self._end = 0  # of the file; `_last` comes next
        self._last: bytes | None = None  # written down when another run follows without a reset
        self._lost = ""

    @property
    def lost(self) -> str:
        """Why the state cannot be rebuilt; empty if it can."""
        return self._lost

    def add(self, message: bytes, resets: Resets, rows: int) -> None:
        """Note a run of the first rows that went through, and what it reset before it."""
        if isinstance(resets, str):
            self._starts[:] = _FREE
        elif resets is not None:
            self._starts[resets] = _FREE
        first = int(self._starts.min())
        if first == _FREE:
            self._end, self._last, self._lost = 0, None, ""
        elif not self._lost:
            self._write()
            if first >= _COMPACT and 2 * first >= self._end:
                self._drop(first)
        ran = self._starts[:rows]
        ran[ran == _FREE] = self._end
        self._last = message if not self._lost else None

    def messages(self) -> Iterator[bytes]:
        """Every message that leads from the start state to the present one, in order."""
        if self._lost:
            raise BackendError(f"the state of the session cannot be rebuilt: {self._lost}")
        at = int(self._starts.min())
        while at < self._end and self._file is not None:
            length = int.from_bytes(self._read(at, _HEAD), "little")
            yield self._read(at + _HEAD, length)
            at += _HEAD + length
        if self._last is not None:
            yield self._last

    def close(self) -> None:
        """Give the file back; calling it again does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self) -> None:
        if self._last is None:
            return
        data = len(self._last).to_bytes(_HEAD, "little") + self._last
        if self._end + len(data) > self._limit:
            self._forget(f"its journal has grown past {self._limit} bytes since the last reset")
            return
        try:
            self._put(data, self._end)
        except OSError as error:
            self._forget(f"its journal could not be written ({error})")
            return
        self._end += len(data)

    def _drop(self, first: int) -> None:
        """Move what is needed to the front of the file."""
        for at in range(first, self._end, _COMPACT):
            self._put(self._read(at, min(_COMPACT, self._end - at)), at - first)
        self._end -= first
        self._starts[self._starts != _FREE] -= first
        if self._file is not None:
            self._file.truncate(self._end)

    def _forget(self, reason: str) -> None:
        self._lost, self._last, self._end = reason, None, 0
        if self._file is not None:
            self._file.truncate(0)

    def _put(self, data: bytes, at: int) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (close() closes it)
        self._file.seek(at)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def _read(self, at: int, length: int) -> bytes:
        assert self._file is not None
        self._file.seek(at)
        parts = []
        while length:
            part = self._file.read(length)
            if not part:
                raise BackendError("the journal of the session was cut short")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)
