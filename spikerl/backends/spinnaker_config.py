"""Which SpiNNaker board is configured, and a place of its own for everything sPyNNaker writes.

Imports errors only. sPyNNaker reads its settings from the home directory and the working directory,
writes a template into the home directory where it finds none, and reports wherever it is started.
Here it is shown a directory made for one session instead, and put back on the old paths after it.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from configparser import Error as ConfigError
from configparser import RawConfigParser
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar
from weakref import ref

from spikerl.errors import BackendError

NAME = "spynnaker.cfg"
VIRTUAL = {"Machine": {"virtual_board": "True", "version": "5"}}
EXAMPLE = """\
[Machine]
machine_name = 192.168.240.1
version = 5"""
HOW = f"""write these lines, with the address of your board, to ~/.{NAME} (version 3: 4 chips, \
5: 48 chips):

{EXAMPLE}

or name another file with config=...; for a shared machine give spalloc_server = https://... \
instead of machine_name. Without a board, spikerl.backends.spinnaker.dry_run() maps the network \
and predicts its decisions"""


@dataclass(frozen=True)
class Board:
    """Settings that name a board.

    address:  the board's name or the server that lends one.
    source:   the file that says so.
    sections: every setting by section and option, in lower case.
    """

    address: str
    source: str
    sections: dict[str, dict[str, str]]


class _Parser(RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr.lower().replace("_", "")  # sPyNNaker reads machineName as machine_name


def files() -> list[Path]:
    """Where settings may be, from the weakest to the strongest, as sPyNNaker looks for them."""
    home = Path.home()
    system = os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep)[0] or "/etc/xdg"
    user = os.environ.get("XDG_CONFIG_HOME") or home / ".config"
    return [Path(system, f".{NAME}"), Path(user, f".{NAME}"), home / f".{NAME}", Path(NAME)]


def board(config: str | os.PathLike[str] | None = None) -> Board:
    """The configured board; raises BackendError that says what to write where if there is none.

    config: a file to read instead of sPyNNaker's own places.
    """
    places = files() if config is None else [Path(config)]
    found = [place for place in places if place.is_file()]
    if not found:
        looked = ", ".join(map(str, places))
        raise BackendError(f"no board configured: no file {looked}; {HOW}")
    parser = _Parser()
    try:
        parser.read(found, encoding="utf-8")
        spec = parser.get("Machine", "machine_spec_file", fallback="None")
        if spec.lower() != "none":  # a file of its own for the board, relative to where one is
            parser.read(spec, encoding="utf-8")
            parser.remove_option("Machine", "machine_spec_file")
    except (ConfigError, UnicodeDecodeError) as error:
        raise BackendError(f"settings unreadable: {error}; {HOW}") from None
    machine = dict(parser["Machine"]) if parser.has_section("Machine") else {}
    given = {k: v for k, v in machine.items() if v.strip().lower() not in ("", "none")}
    source = ", ".join(map(str, found))
    if given.get("virtualboard", "no").lower() in ("y", "yes", "t", "true", "on", "1"):
        raise BackendError(
            f"no board configured: {source} asks for a virtual one, on which nothing is computed; "
            f"take out virtual_board and {HOW}"
        )
    if "machinename" in given and not given.get("version", "").isdigit():
        raise BackendError(
            f"no board configured: {source} has a machine_name, but version = "
            f"{given.get('version')!r}; {HOW}"
        )
    for key in ("machinename", "spallocserver", "remotespinnakerurl"):
        if key in given:
            sections = {name: dict(parser[name]) for name in parser.sections()}
            return Board(given[key], source, sections)
    raise BackendError(f"no board configured: none is named in {source}; {HOW}")


def missing() -> str:
    """Why no board can be used, and what to do, in a line; "" if one is configured."""
    try:
        board()
    except BackendError as error:
        return (
            f"{str(error).partition(':')[0]}; write machine_name and version of one under "
            f"[Machine] in ~/.{NAME}, or predict its decisions with "
            "spikerl.backends.spinnaker.dry_run()"
        )
    return ""


class Claim:
    """The one place at sPyNNaker's global simulator; taking it while it is taken raises."""

    _holder: ClassVar[ref[Claim] | None] = None

    def __init__(self) -> None:
        self.held = False
        holder = Claim._holder() if Claim._holder is not None else None
        if holder is not None and holder.held:
            raise BackendError(
                "sPyNNaker has one simulator per process and another 'spinnaker' session or dry "
                "run is open: close it first, or give each a process with "
                "HardwarePolicy(..., isolation='process')"
            )
        self.held = True
        Claim._holder = ref(self)

    def release(self) -> None:
        """Let the next one in."""
        self.held = False


class Workspace:
    """A temporary directory that sPyNNaker takes for the home; close() removes it."""

    def __init__(self, sections: dict[str, dict[str, str]]) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="spikerl-spinnaker-")
        self.path = Path(self._directory.name)
        self._log = self.path / "messages.txt"
        merged = _Parser()
        merged.read_dict(sections)
        merged.read_dict(
            {
                "Logging": {"instantiate": "False"},
                "Reports": {"default_report_file_path": str(self.path)},
            }
        )
        with open(self.path / f".{NAME}", "w", encoding="utf-8") as file:
            merged.write(file)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """A context in which what sPyNNaker prints goes to a file: stdout belongs to the user."""
        with (
            open(self._log, "w", encoding="utf-8") as log,
            redirect_stdout(log),
            redirect_stderr(log),
        ):
            yield

    @contextmanager
    def at_home(self) -> Iterator[None]:
        """A context in which this directory is the home and the working directory.

        For sPyNNaker's setup(), which reads the settings; handlers of the root logger are out of
        its reach meanwhile, because it would give them its own filter and format.
        """
        names = ("HOME", "USERPROFILE", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS")
        before = {name: os.environ.get(name) for name in names}
        where = os.getcwd()
        handlers, logging.root.handlers = logging.root.handlers, []
        nowhere = str(self.path / "none")  # the same file found twice would be an error there
        try:
            os.environ.update(dict.fromkeys(names[:2], str(self.path)))
            os.environ.update(dict.fromkeys(names[2:], nowhere))
            os.chdir(self.path)
            yield
        finally:
            os.chdir(where)
            logging.root.handlers = handlers
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def prune(self) -> None:
        """Remove the recordings of earlier decisions: sPyNNaker opens a file for each."""
        kept = sorted(self.path.glob("reports/*/*/data*.sqlite3"), key=lambda f: f.stat().st_mtime)
        for file in kept[:-1]:
            file.unlink()

    def close(self) -> None:
        """Remove the directory and everything in it; calling it again does nothing."""
        # At exit sPyNNaker would come back to this directory, make it anew to read the log it kept
        # there, and note how the simulation ended.
        if log := sys.modules.get("spinn_utilities.log"):
            log.FormatAdapter.set_log_store(None)
        if writer := sys.modules.get("spinn_utilities.data.utils_data_writer"):
            atexit.unregister(writer.UtilsDataWriter.write_errored_file)
        self._directory.cleanup()


def spynnaker() -> Any:
    """The module spynnaker.pyNN; raises BackendError where it cannot be imported."""
    try:
        with redirect_stdout(sys.stderr):
            return import_module("spynnaker.pyNN")
    except ImportError as error:
        raise BackendError(
            f"sPyNNaker cannot be imported ({error}); install it: pip install 'spikerl[spinnaker]'"
        ) from error
