"""The one table of an experiment's results, which several runs may fill at the same time.

Imports formats, locks and columns. A row is stored whole or not at all; a run that was killed goes
on where it stopped; of two runs each cell is worked on by one.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from spikerl import __version__
from spikerl.errors import SpikerlError
from spikerl.experiment.columns import Row
from spikerl.experiment.formats import CsvFile, ParquetFile, TableFile
from spikerl.experiment.locks import Claims

_FORMATS: dict[str, type[TableFile]] = {".csv": CsvFile, ".parquet": ParquetFile}
_WRITING = 0  # the byte that is locked while the file is read or written
_open: set[str] = set()  # of this process: its locks do not keep itself out


def default_path(experiment: Path) -> Path:
    """Where the results of an experiment's file go: beside it, in what was begun, or Parquet."""
    begun = [path for end in _FORMATS if (path := experiment.with_suffix(end)).exists()]
    if len(begun) > 1:
        raise SpikerlError(f"{begun[0]} and {begun[1]} are both there: pass --output with one")
    if begun:
        return begun[0]
    return experiment.with_suffix(".csv" if find_spec("pyarrow") is None else ".parquet")


class Table:
    """Rows by cell, in a .csv or .parquet file that is shared with other processes.

    A hidden file beside it, .NAME.lock, carries the locks and may be removed when no run is left.
    Raises SpikerlError for a file of another kind or version, with rows of another spikerl, damaged
    or already open in this process.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.realpath(path))
        kind = _FORMATS.get(self.path.suffix.lower())
        if kind is None:
            wanted = " or ".join(_FORMATS)
            raise SpikerlError(f"{os.fspath(path)} must end in {wanted}, to say what it is")
        if kind is ParquetFile and find_spec("pyarrow") is None:
            raise SpikerlError(
                f"{os.fspath(path)} needs pyarrow; install it (pip install pyarrow), or name a .csv"
            )
        if str(self.path) in _open:
            raise SpikerlError(f"{self.path} is open in this program already")
        self.rows: dict[str, Row] = {}
        self._file = kind(self.path)
        self._seen: tuple[int, int, int] | None = None
        self._claims = Claims(self.path.with_name(f".{self.path.name}.lock"))
        _open.add(str(self.path))
        try:
            with self._locked():
                self._file.clear()
            self.refresh()
        except BaseException:
            self.close()
            raise

    def refresh(self) -> None:
        """Read what other processes have stored since."""
        with self._locked():
            self._read()

    def claim(self, cell: str) -> bool:
        """Keep other processes from a cell; False if one has it, or it is stored already."""
        if not self._claims.take(_byte(cell)):
            return False
        self.refresh()  # it may have been stored just before
        if cell in self.rows:
            self.give_back(cell)
            return False
        return True

    def give_back(self, cell: str) -> None:
        """Let other processes have a cell that was claimed."""
        self._claims.give_back(_byte(cell))

    def add(self, row: Row) -> None:
        """Store a row and give its cell back; a cell that is there already stays as it is.

        Raises SpikerlError where it cannot be written, say because the disk is full: the rows
        before are still there.
        """
        with self._locked():
            self._read()
            if row["cell"] not in self.rows:
                try:
                    self._file.append(row, self.rows.values())
                except OSError as error:
                    raise self._unwritable(error) from None
                self.rows[row["cell"]] = row
                self._seen = self._stamp()
        self.give_back(row["cell"])

    def forget_failed(self, cells: set[str]) -> int:
        """Remove the failed rows among these cells, so that they run again; returns how many."""
        with self._locked():
            self._read()
            found = {c for c in cells & set(self.rows) if self.rows[c]["status"] == "failed"}
            if found:
                kept = {cell: row for cell, row in self.rows.items() if cell not in found}
                try:
                    self._file.write(kept.values())
                except OSError as error:
                    raise self._unwritable(error) from None
                self.rows, self._seen = kept, self._stamp()
        return len(found)

    def close(self) -> None:
        """Give back every claim."""
        if str(self.path) in _open:
            _open.discard(str(self.path))
            self._claims.close()

    def _read(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        rows = self._file.read()
        self.rows = {row["cell"]: row for row in rows}
        if len(self.rows) != len(rows) or None in self.rows:
            raise SpikerlError(f"{self.path} is damaged: it holds a cell twice, or without a name")
        others = sorted({str(row["spikerl"]) for row in rows} - {__version__})
        if others:
            raise SpikerlError(
                f"{self.path} holds results of spikerl {', '.join(others)}, this is {__version__}: "
                "they cannot be compared; name another file with --output"
            )
        self._seen = stamp

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        return (found.st_ino, found.st_size, found.st_mtime_ns)

    def _unwritable(self, error: OSError) -> SpikerlError:
        return SpikerlError(
            f"{self.path} cannot be written: {error.strerror}; it still holds "
            f"{len(self.rows)} rows, and the same command goes on from there"
        )

    def _locked(self) -> _Writing:
        return _Writing(self._claims)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Writing:
    """Holds the lock on the file while it is read or written."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims

    def __enter__(self) -> None:
        self._claims.take(_WRITING, wait=True)

    def __exit__(self, *exc: object) -> None:
        self._claims.give_back(_WRITING)


def _byte(cell: str) -> int:
    """The byte of the lock file that stands for a cell."""
    return 1 + int(cell[:15], 16)
