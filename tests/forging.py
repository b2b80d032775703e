"""Makes agent files that are wrong in one way and right in all others."""

from __future__ import annotations

import hashlib
import json
import zipfile
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from small_agents import AGENTS

from spikerl.agent import SpikingAgent
from spikerl.errors import FileFormatError

Members = dict[str, bytes]


@cache
def saved(name: str) -> bytes:
    with TemporaryDirectory() as folder:
        AGENTS[name]().save(Path(folder) / "a")
        return (Path(folder) / "a").read_bytes()


@cache
def members_of(name: str) -> Members:
    with zipfile.ZipFile(BytesIO(saved(name))) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def document_of(name: str) -> Any:
    return json.loads(members_of(name)["agent.json"])


def forged(members: Members, *, sums: bool = True) -> bytes:
    """A file of these members with digests that match, as a forger would write it."""
    members = dict(members)
    if sums:
        members.pop("SHA256SUMS", None)
        lines = [f"{hashlib.sha256(data).hexdigest()}  {name}" for name, data in members.items()]
        members["SHA256SUMS"] = ("\n".join(lines) + "\n").encode()
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return file.getvalue()


def with_document(name: str, document: Any, **arrays: bytes) -> bytes:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return forged({**members_of(name), "agent.json": text, **arrays})


def refused(data: bytes, reason: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(data)
        with pytest.raises(FileFormatError, match=reason):
            SpikingAgent.load(path)
