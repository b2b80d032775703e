"""Locks on files that end with the process that holds them, however it ends. Imports errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spikerl.errors import SpikerlError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process has this file locked, and hold it; it is removed afterwards.

    Threads of one process wait for each other too. Raises SpikerlError where there are no locks.
    """
    _require_locks()
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise SpikerlError(f"{path} cannot be written: {error.strerror}") from None
        fcntl.flock(handle, fcntl.LOCK_EX)
        if _is(path, handle):
            break
        os.close(handle)  # it was removed while we waited: another may hold its successor
    try:
        yield
    finally:
        os.unlink(path)
        os.close(handle)


class Claims:
    """A file whose bytes are locked one by one: claims on what the bytes stand for.

    The locks are the process's own: a second Claims on the file in the same process would not be
    kept out, and Table refuses that.
    """

    def __init__(self, path: Path) -> None:
        _require_locks()
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise SpikerlError(f"{path} cannot be written: {error.strerror}") from None

    def take(self, byte: int, *, wait: bool = False) -> bool:
        """Claim a byte; False if another process has it and waiting was not asked for."""
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def give_back(self, byte: int) -> None:
        """Let others have it."""
        fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, byte)

    def close(self) -> None:
        """Give everything back."""
        os.close(self._handle)


def _is(path: Path, handle: int) -> bool:
    """Whether the open file is the one that stands at the path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _require_locks() -> None:
    if fcntl is None:
        raise SpikerlError("experiments lock files as Linux and macOS do; this system does not")
