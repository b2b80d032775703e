"""Saving and loading agents: one file, JSON and arrays, nothing executed on load.

Imports container, document and errors. `container` says how the file is laid out and `document`
what it may hold.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from spikerl import __version__
from spikerl.container import ArrayWriter, ContainerReader, shown, write
from spikerl.document import AGENT
from spikerl.errors import FileFormatError, SpikerlError

if TYPE_CHECKING:
    from spikerl.agent import SpikingAgent

FORMAT = "spikerl agent"
VERSION = 3


def save_agent(agent: SpikingAgent, path: str | os.PathLike[str]) -> None:
    """Write an agent to one file; the file is there whole or, after a failure, as it was before.

    The new file is read back and compared before it takes its place.
    Raises FileFormatError for an agent with a part the format does not know, SpikerlError where the
    file cannot be written.
    """
    target = os.path.realpath(_checked_path(path))  # so that a link stays a link
    if os.path.isdir(target):
        raise SpikerlError(f"{os.fspath(path)} cannot be written: it is a directory")
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(8)}.tmp")
    try:
        arrays = ArrayWriter()
        content = AGENT.write(agent, arrays, "agent")
        document = {"format": FORMAT, "version": VERSION, "written_by": __version__}
        with open(temporary, "xb") as file:
            write(file, {**document, "agent": content}, arrays)
            file.flush()
            os.fsync(file.fileno())
        again = ArrayWriter()
        if AGENT.write(_load(temporary), again, "agent") != content:
            raise FileFormatError("what was read back is not what was written")
        if again.members != arrays.members:
            raise FileFormatError("the arrays read back are not those that were written")
        os.replace(temporary, target)
    except (ValueError, TypeError) as error:  # FileFormatError among them
        raise FileFormatError(f"the agent cannot be saved to {os.fspath(path)}: {error}") from None
    except OSError as error:
        raise SpikerlError(f"{os.fspath(path)} cannot be written: {error.strerror}") from None
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)


def load_agent(path: str | os.PathLike[str]) -> SpikingAgent:
    """Read an agent back, bit for bit; executes nothing that the file says.

    Raises FileFormatError, in one sentence, for a file that is missing, damaged, forged or of a
    version this spikerl does not know.
    """
    try:
        return _load(_checked_path(path))
    except FileFormatError as error:
        raise FileFormatError(f"{os.fspath(path)} cannot be loaded: {error}") from None


def _load(path: str) -> SpikingAgent:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait forever
            raise FileFormatError("it is a directory or no regular file")
        file = open(path, "rb")  # noqa: SIM115 - only the opening belongs into this try
    except FileNotFoundError:
        raise FileFormatError("there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise FileFormatError(str(getattr(error, "strerror", None) or error)) from None
    with file:
        try:
            reader = ContainerReader(file)
            content = _content(reader.document)
            reader.verify()
            agent: SpikingAgent = AGENT.read(content, reader, "agent")
            reader.finish()
        except MemoryError:
            raise FileFormatError("it needs more memory than there is") from None
        except OSError as error:
            raise FileFormatError(f"it cannot be read ({error.strerror})") from None
    return agent


def _content(document: Any) -> Any:
    """The agent's part of the document, once format and version are known, as of today's."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else document
        raise FileFormatError(f"its format is {shown(found)}, wanted {FORMAT!r}")
    version = document.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise FileFormatError(f"its format version is {shown(version)}, wanted {VERSION}")
    if version > VERSION:
        raise FileFormatError(
            f"it has format version {shown(version)}, written by spikerl "
            f"{shown(document.get('written_by'))}; spikerl {__version__} knows versions up to "
            f"{VERSION}: upgrade it (pip install -U spikerl)"
        )
    if set(document) != {"format", "version", "written_by", "agent"}:
        raise FileFormatError(f"it has the entries {shown(sorted(document))}")
    if not isinstance(document["written_by"], str):
        raise FileFormatError(f"it says it was written by {shown(document['written_by'])}")
    content = document["agent"]
    if version == 1:  # a report did not have the gaps between actions
        report = content.get("report") if isinstance(content, dict) else None
        if isinstance(report, dict):
            report["gaps"] = None
    if version < 3:  # neurons had neither synaptic currents nor thresholds that adapt
        for layer in _neuron_layers(content):
            layer.update(current_decay=0.0, adaptation=0.0, adaptation_decay=0.0)
    return content


def _neuron_layers(content: Any) -> Iterator[dict[str, Any]]:
    network = content.get("network") if isinstance(content, dict) else None
    layers = network.get("layers") if isinstance(network, dict) else None
    for layer in layers if isinstance(layers, list) else []:
        if isinstance(layer, dict) and "decay" in layer:
            yield layer


def _checked_path(path: Any) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise SpikerlError(f"wanted the path of a file, found {type(path).__name__}")
    return os.fsdecode(path)
