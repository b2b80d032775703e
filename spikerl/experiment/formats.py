"""Result tables as files: CSV, to which rows are appended, and Parquet, which is written anew.

Imports columns and errors; pyarrow late. Whoever calls holds the table's lock.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any

from spikerl.errors import SpikerlError
from spikerl.experiment.columns import COLUMNS, VERSION, Row, made_row


class TableFile(ABC):
    """A table of rows in one file; a failure leaves the rows that were there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def read(self) -> list[Row]:
        """Every row; none where there is no file. Raises SpikerlError for another kind of file."""

    @abstractmethod
    def append(self, row: Row, before: Iterable[Row]) -> None:
        """Store one more row behind those before; raises OSError."""

    @abstractmethod
    def _encoded(self, rows: Iterable[Row]) -> bytes: ...

    def write(self, rows: Iterable[Row]) -> None:
        """Replace the file by one of these rows, all or nothing; raises OSError."""
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}.tmp")
        try:
            with open(temporary, "xb") as file:
                file.write(self._encoded(rows))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what a killed process left half-written."""
        for path in self.path.parent.glob(f".{self.path.name}.*.tmp"):
            path.unlink(missing_ok=True)


class CsvFile(TableFile):
    """RFC 4180 with one line per row and full precision; an empty field is None.

    The last line of a writer that was killed may be incomplete: it lacks its end. It is not read,
    and the next row takes its place.
    """

    def read(self) -> list[Row]:
        """See TableFile."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        try:
            text = data[: data.rfind(b"\n") + 1].decode("utf-8")
            lines = _fields(text)
        except (UnicodeDecodeError, csv.Error) as error:
            raise SpikerlError(f"{self.path} is damaged: {error}") from None
        if not data:
            return []
        names = lines[0] if lines else []
        if names[:2] != ["format", "cell"]:
            raise SpikerlError(f"{self.path} is no result table of spikerl; name another file")
        if names != list(COLUMNS):
            raise _other_columns(self.path, lines[1][0] if len(lines) > 1 else None, names)
        return [self._row(line, number) for number, line in enumerate(lines[1:], start=2)]

    def append(self, row: Row, before: Iterable[Row]) -> None:
        """See TableFile."""
        if not self.path.exists() or not self.path.stat().st_size:
            self.write([*before, row])
            return
        with open(self.path, "r+b", buffering=0) as file:
            end = _end_of_lines(file)
            try:
                file.truncate(end)
                file.seek(end)
                data = _line(row.values()).encode()
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise

    def _encoded(self, rows: Iterable[Row]) -> bytes:
        lines = [_line(COLUMNS), *(_line(row.values()) for row in rows)]
        return "".join(lines).encode()

    def _row(self, line: list[str], number: int) -> Row:
        where = f"{self.path}, line {number}"
        if line and line[0] != str(VERSION):
            raise _other_version(self.path, line[0])
        if len(line) != len(COLUMNS):
            raise SpikerlError(f"{where} has {len(line)} fields, wanted {len(COLUMNS)}")
        try:
            return made_row(
                {
                    name: None if text == "" else kind(text)
                    for (name, kind), text in zip(COLUMNS.items(), line, strict=True)
                }
            )
        except ValueError as error:
            raise SpikerlError(f"{where} is damaged: {error}") from None


class ParquetFile(TableFile):
    """Parquet with typed columns; pandas, polars and DuckDB read it."""

    def read(self) -> list[Row]:
        """See TableFile."""
        import pyarrow
        from pyarrow import parquet

        if not self.path.exists():
            return []
        # no file system of its own: a name such as a:b is no address
        data = pyarrow.BufferReader(self.path.read_bytes())
        try:
            schema = parquet.read_schema(data)
            about = (schema.metadata or {}).get(b"spikerl")
            if about is None:
                raise SpikerlError(f"{self.path} is no result table of spikerl; name another file")
            version = _version_in(about)
            if version != VERSION:
                raise _other_version(self.path, version)
            if schema.names != list(COLUMNS):
                raise _other_columns(self.path, version, schema.names)
            # threads: a program that ends while they start is aborted
            found: list[Row] = parquet.read_table(data, use_threads=False).to_pylist()
        except pyarrow.ArrowException as error:
            told = " ".join(str(error).split())
            raise SpikerlError(f"{self.path} is damaged, or no Parquet: {told}") from None
        return [made_row(row) for row in found]

    def append(self, row: Row, before: Iterable[Row]) -> None:
        """See TableFile."""
        self.write([*before, row])

    def _encoded(self, rows: Iterable[Row]) -> bytes:
        import pyarrow
        from pyarrow import parquet

        kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
        about = {"spikerl": json.dumps({"format": VERSION})}
        fields = [(name, kinds[kind]) for name, kind in COLUMNS.items()]
        schema = pyarrow.schema(fields, metadata=about)
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), sink)
        data: bytes = sink.getvalue().to_pybytes()
        return data


def _line(values: Iterable[Any]) -> str:
    text = StringIO()
    shown = ("" if v is None else repr(v) if isinstance(v, float) else v for v in values)
    csv.writer(text, lineterminator="\n").writerow(shown)
    return text.getvalue()


def _fields(text: str) -> list[list[str]]:
    limit = csv.field_size_limit(2**31 - 1)  # returns of many thousand episodes are one field
    try:
        return list(csv.reader(StringIO(text), strict=True))
    finally:
        csv.field_size_limit(limit)


def _end_of_lines(file: Any) -> int:
    """Where the last complete line ends."""
    size = file.seek(0, os.SEEK_END)
    step = 2**16
    for start in range(max(0, size - step), -step, -step):
        file.seek(max(0, start))
        at = file.read(step).rfind(b"\n")
        if at >= 0:
            return max(0, start) + int(at) + 1
    return 0


def _version_in(about: bytes) -> Any:
    try:
        return json.loads(about)["format"]
    except (ValueError, KeyError, TypeError):
        return "unknown"


def _other_version(path: Path, version: Any) -> SpikerlError:
    return SpikerlError(
        f"{path} is a result table of format {version}, this spikerl writes format {VERSION}: "
        "name another file, and keep this one for the spikerl that made it"
    )


def _other_columns(path: Path, version: Any, names: list[str]) -> SpikerlError:
    """What to say of a table with other columns: its version if that differs, else which."""
    if version is not None and str(version) != str(VERSION):
        return _other_version(path, version)
    wanted = list(COLUMNS)
    differences = {
        "lacks": [name for name in wanted if name not in names],
        "has besides": [name for name in names if name not in wanted],
        "has more than once": sorted({name for name in names if names.count(name) > 1}),
    }
    told = [f"{what} {', '.join(map(repr, found))}" for what, found in differences.items() if found]
    told = told or ["has them in another order"]
    return SpikerlError(
        f"the columns of {path} are not those of format {VERSION}: it {'; it '.join(told)}. Was it "
        "edited? Name another file"
    )
