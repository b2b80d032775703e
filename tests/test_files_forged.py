"""What a forger would try: each file is refused with its reason."""

from __future__ import annotations

import json
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forging import Members, document_of, forged, members_of, refused, saved, with_document
from gymnasium import spaces
from small_agents import AGENTS, REPORT

from spikerl import container
from spikerl.agent import SpikingAgent
from spikerl.container import npy_header
from spikerl.network import Dense, SpikingNetwork
from spikerl.preprocessing import from_space


def changed(name: str, path: str, value: Any) -> bytes:
    """The file with one value of its document replaced; path is dotted."""
    document = document_of(name)
    *way, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    holder = document
    for key in way:
        holder = holder[key]
    holder[last] = value
    return with_document(name, document)


def test_a_future_version_says_which_was_found_and_to_upgrade() -> None:
    document = document_of("pole") | {"version": 7, "written_by": "3.2", "agent": "other"}
    refused(
        with_document("pole", document),
        r"it has format version 7, written by spikerl '3\.2'; spikerl .* knows versions up to 3: "
        r"upgrade it \(pip install -U spikerl\)",
    )
    # a later format may change everything but where its version stands
    refused(
        forged({"agent.json": json.dumps({"format": "spikerl agent", "version": 4}).encode()}),
        "it has format version 4, written by spikerl None",
    )


def test_a_file_of_version_1_is_read_as_one_whose_report_had_no_gaps(tmp_path: Path) -> None:
    document = document_of("pole") | {"version": 1}
    report = document["agent"]["report"]
    del report["gaps"]
    for content, wanted in ((report, replace(REPORT, gaps=None)), (None, None)):
        document["agent"]["report"] = content
        (tmp_path / "old").write_bytes(with_document("pole", document))
        assert SpikingAgent.load(tmp_path / "old").report == wanted
    document["agent"] = "other"
    refused(with_document("pole", document), "agent is 'other'")


def test_a_file_of_version_2_has_neither_currents_nor_adaptation(tmp_path: Path) -> None:
    document = document_of("pole") | {"version": 2}
    for layer in document["agent"]["network"]["layers"]:
        for name in ("current_decay", "adaptation", "adaptation_decay"):
            assert layer.pop(name, 0.0) == 0.0
    (tmp_path / "old").write_bytes(with_document("pole", document))
    network = SpikingAgent.load(tmp_path / "old").network
    assert network.fingerprint() == AGENTS["pole"]().network.fingerprint()


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None])
def test_a_version_that_is_none_is_refused(version: Any) -> None:
    refused(changed("pole", "version", version), "its format version is .*, wanted 3")


FORGED: dict[str, tuple[Callable[[], bytes], str]] = {
    "another format": (
        lambda: changed("pole", "format", "other"),
        "its format is 'other', wanted 'spikerl agent'",
    ),
    "unknown field": (
        lambda: changed("pole", "agent.network.layers.0.gain", 1.0),
        r"agent\.network\.layers\[0\] has the unknown field 'gain'",
    ),
    "unknown type": (
        lambda: changed("pole", "agent.encoder", {"type": "os.system"}),
        r"agent\.encoder is 'os\.system', wanted one of constant, poisson",
    ),
    "number as text": (
        lambda: changed("pole", "agent.sim_steps", "16"),
        r"agent\.sim_steps is '16', wanted a whole number in \[1,",
    ),
    "true as number": (
        lambda: changed("pole", "agent.sim_steps", True),
        r"agent\.sim_steps is True, wanted a whole number",
    ),
    "not a number": (
        lambda: with_document(
            "pole", members_of("pole")["agent.json"].replace(b": 1.0", b": NaN", 1)
        ),
        "agent.json holds NaN, which is no number",
    ),
    "beyond a float": (
        lambda: with_document(
            "pole", members_of("pole")["agent.json"].replace(b": 1.0", b": 1e999", 1)
        ),
        r"decay is inf, wanted a finite number",
    ),
    "an integer of many digits": (
        lambda: with_document(
            "pole", members_of("pole")["agent.json"].replace(b": 1.0", b": " + b"9" * 9999, 1)
        ),
        "agent.json is not JSON",
    ),
    "key twice": (
        lambda: with_document(
            "pole", members_of("pole")["agent.json"].replace(b"{", b'{"format": 1, ', 1)
        ),
        "agent.json has the key 'format' twice",
    ),
    "deep nesting": (
        lambda: with_document("pole", b"[" * 200_000 + b"]" * 200_000),
        "agent.json is nested too deeply",
    ),
    "deep provenance": (
        lambda: changed("pole", "agent.provenance", json.loads('{"a":' * 60 + "1" + "}" * 60)),
        r"nested too deeply",
    ),
    "not UTF-8": (lambda: with_document("pole", b'{"a": "\xff"}'), "agent.json is not UTF-8"),
    "not JSON": (lambda: with_document("pole", b"{'a': 1}"), "agent.json is not JSON"),
    "large document": (
        lambda: with_document("pole", b" " * (2**24 + 1)),
        "agent.json has 16777217 bytes, at most 16777216 are allowed",
    ),
    "member not used": (
        lambda: forged({**members_of("pole"), "arrays/evil.npy": b"x"}),
        "it holds 'arrays/evil.npy', which the agent does not use",
    ),
    "path outside": (
        lambda: forged({**members_of("pole"), "../../evil": b"x"}),
        "it holds '../../evil', which the agent does not use",
    ),
    "huge shape": (
        lambda: changed("pole", "agent.network.layers.0.weight.shape", [2**30, 2**30]),
        r"layers\[0\]\.weight has shape \[1073741824, 1073741824\], but arrays/0\.npy has another",
    ),
    "overflowing shape": (
        lambda: changed("pole", "agent.network.layers.0.weight.shape", [2**32, 2**32]),
        "wanted whole numbers >= 0",
    ),
    "object array": (
        lambda: changed("pole", "agent.network.layers.0.weight.dtype", "|O"),
        "has dtype '|O', which is not allowed",
    ),
    "another dtype": (
        lambda: changed("pole", "agent.network.layers.0.weight.dtype", "<i8"),
        "is not the array the document describes",
    ),
    "another shape of that size": (
        lambda: changed("pole", "agent.network.layers.0.weight.shape", [4, 8]),
        "is not the array the document describes",
    ),
    "NaN weight": (
        lambda: forged(
            {
                **members_of("thrower"),
                "arrays/0.npy": npy_header("<f8", (2, 2)) + np.full((2, 2), np.nan).tobytes(),
            }
        ),
        "weight holds NaN or infinite values",
    ),
    "huge map": (
        lambda: changed("pixels", "agent.network.layers.0.input_shape", [2, 2**27, 2**27]),
        "has a map of .* numbers, too many for an agent",
    ),
    "huge padding": (
        lambda: changed("pixels", "agent.network.layers.0.padding", [2**27, 2**27]),
        "has a map of .* numbers, too many for an agent",
    ),
    "huge delay": (
        lambda: changed("pole", "agent.network.layers.0.delay_steps", 2**40),
        "delay_steps is 1099511627776, wanted a whole number in",
    ),
    "huge one-hot": (
        lambda: changed("arm", "agent.preprocessing.inputs.2.steps.0.nvec", [2**28]),
        "one-hot of .* does not fit the observation space",
    ),
    "layers that do not fit": (
        lambda: changed(
            "pole",
            "agent.network.layers.1.weight",
            document_of("pole")["agent"]["network"]["layers"][0]["weight"],
        ),
        r"layers\[1\] is not sound: bias has shape \(2,\), wanted \(8,\)",
    ),
    "decay above one": (
        lambda: changed("pole", "agent.network.layers.0.decay", 1.5),
        r"decay must be finite and in \(0, 1\]",
    ),
    "encoder that does not fit": (
        lambda: changed("pole", "agent.encoder", {"type": "poisson", "scale": 1.0, "signed": True}),
        "the encoder has 8 channels, the network 4",
    ),
    "histogram of other lengths": (
        lambda: changed("pole", "agent.report.gaps.counts", [1, 2, 3]),
        "agent.report.gaps must have rising edges, one more than counts",
    ),
    "histogram of falling edges": (
        lambda: changed("pole", "agent.report.gaps.edges", [1.0, 0.5, 2.0]),
        "agent.report.gaps must have rising edges, one more than counts",
    ),
    "report without a result": (
        lambda: changed("pole", "agent.report.agreement", None),
        "agent.report must have an agreement or an action error",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_file_is_refused_with_its_reason(name: str) -> None:
    make, reason = FORGED[name]
    refused(make(), reason)


def archive_of(members: Members, method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.comment = comment
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def test_compressed_members_are_refused_before_they_are_unpacked() -> None:
    """A zip bomb: 64 MiB of zeros in a few kB."""
    bomb = archive_of({**members_of("pole"), "x": bytes(2**26)}, zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    refused(bomb, "the member .* is compressed; agents are stored as is")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def test_a_member_twice_is_refused() -> None:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("agent.json", members_of("pole")["agent.json"])
    refused(file.getvalue(), "two members of the same name")


def test_comments_and_extra_fields_are_refused() -> None:
    refused(archive_of(members_of("pole"), comment=b"hello"), "something was appended")
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members_of("pole").items():
            info = zipfile.ZipInfo(name)
            info.comment = b"hidden"
            archive.writestr(info, data)
    refused(file.getvalue(), "is not where agents keep it")


def test_overlapping_members_are_refused() -> None:
    """Two entries of the table that point to the same bytes."""
    members = {"agent.json": b"x" * 50, "b": b"y" * 50}
    data = bytearray(archive_of(members))
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[second + 42 : second + 46] = bytes(4)
    refused(bytes(data), "is not where agents keep it")


def test_many_members_and_large_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refused(archive_of({f"m{i}": b"" for i in range(5000)}), "5000 members, at most 4096")
    data = saved("pole")  # before the limit shrinks
    monkeypatch.setattr(container, "MAX_BYTES", 1000)
    refused(data, r"it has \d+ bytes, at most 1000 are allowed")


def test_a_table_of_contents_longer_than_its_number_of_members_is_refused() -> None:
    """The number is a lie that zipfile would not notice: it reads as far as the table is long."""
    many = bytearray(archive_of({f"member{i:060}": b"" for i in range(6000)}))
    many[-14:-10] = (5).to_bytes(2, "little") * 2
    refused(bytes(many), r"its table of contents has \d+ bytes, too many for an agent")


def test_one_array_named_many_times_does_not_multiply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every layer would copy it: the sum over all references is bounded, not only the file."""
    space = spaces.Box(-1, 1, (64,))
    hidden, last = Dense(np.eye(64)), Dense(np.ones((2, 64)), spiking=False)
    agent = replace(
        AGENTS["pole"](),
        network=SpikingNetwork((hidden, last)),
        preprocessing=from_space(space),
        observation_space=space,
    )
    agent.save(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    document = json.loads(members["agent.json"])
    layers = document["agent"]["network"]["layers"]
    document["agent"]["network"]["layers"] = [layers[0]] * 20 + [layers[1]]
    data = forged({**members, "agent.json": json.dumps(document).encode()})
    monkeypatch.setattr(container, "MAX_BYTES", len(data))
    refused(data, "is larger than agents may be")


def test_an_array_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved("pole")  # before the limit shrinks
    monkeypatch.setattr(container, "MAX_ARRAY_BYTES", 100)
    refused(data, r"layers\[0\]\.weight is larger than agents may be")


def test_digests_that_are_damaged_or_incomplete_are_refused() -> None:
    members = dict(members_of("pole"))
    lines = members["SHA256SUMS"].splitlines(keepends=True)
    for sums, reason in (
        (b"".join(lines[1:]), "does not list the members"),
        (b"".join([*lines, lines[0]]), "SHA256SUMS is damaged"),
        (b"\xff" + members["SHA256SUMS"], "SHA256SUMS is damaged"),
        (members["SHA256SUMS"].replace(b"  ", b" "), "SHA256SUMS is damaged"),
        (lines[0].replace(lines[0][:4], b"0000") + b"".join(lines[1:]), "agent.json is damaged"),
    ):
        refused(forged({**members, "SHA256SUMS": sums}, sums=False), reason)
    del members["SHA256SUMS"]
    refused(forged(members, sums=False), "SHA256SUMS is missing")
