"""Damaged, truncated and forged files: one FileFormatError, or an agent that is sound."""

from __future__ import annotations

import copy
import hashlib
import json
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_agents import AGENTS, observations

from spikerl import container
from spikerl.agent import SpikingAgent
from spikerl.container import npy_header
from spikerl.errors import FileFormatError, ShapeError
from spikerl.hardware import HardwarePolicy
from spikerl.network import Dense, SpikingNetwork
from spikerl.preprocessing import from_space

FUZZ = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
NAMES = st.sampled_from(sorted(AGENTS))
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


def load(data: bytes) -> SpikingAgent | None:
    """The agent in these bytes, or None after one clear FileFormatError."""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        path = Path(folder) / "a"
        path.write_bytes(data)
        try:
            return SpikingAgent.load(path)
        except FileFormatError as error:
            text = str(error)
    assert text.startswith(f"{path} cannot be loaded: ")
    assert len(text) < 1500
    return None


def check_equal(found: SpikingAgent, name: str) -> None:
    with TemporaryDirectory() as folder:
        found.save(Path(folder) / "a")
        assert (Path(folder) / "a").read_bytes() == saved(name)
    wanted = AGENTS[name]()
    assert found.network.fingerprint() == wanted.network.fingerprint()
    assert np.array_equal(actions(found), actions(wanted))


def check_sound(agent: SpikingAgent) -> None:
    """A forged agent that loads may be another one, but it can be saved, and acts or says why not.

    Say why not: statistics of 1e308 may drive an observation beyond float32.
    """
    with TemporaryDirectory() as folder:
        agent.save(Path(folder) / "a")
    work = agent.sim_steps * max(max(layer.n_in, layer.n_out) for layer in agent.network.layers)
    delay = max(layer.delay_steps for layer in agent.network.neuron_layers)
    if work < 10_000 and delay < 100:
        with suppress(ShapeError):
            assert actions(agent).shape[1:] == agent.action_space.shape


def actions(agent: SpikingAgent) -> np.ndarray:
    with np.errstate(all="ignore"), HardwarePolicy(agent, "reference", n_envs=2, seed=0) as policy:
        return policy.predict(observations(agent, 2))[0]


def refused(data: bytes, reason: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(data)
        with pytest.raises(FileFormatError, match=reason):
            SpikingAgent.load(path)


# --- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_the_forger_of_these_tests_writes_files_that_load(name: str) -> None:
    found = load(forged(members_of(name)))
    assert found is not None
    check_equal(found, name)


@FUZZ
@given(NAMES, st.data())
def test_flipped_bits_are_found_or_harmless(name: str, data: st.DataObject) -> None:
    damaged = bytearray(saved(name))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    found = load(bytes(damaged))
    if found is not None:
        check_equal(found, name)


@FUZZ
@given(st.data())
def test_flipped_bits_in_the_table_of_contents_are_found_or_harmless(data: st.DataObject) -> None:
    damaged = bytearray(saved("thrower"))
    start = damaged.index(b"PK\x01\x02")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(start, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    found = load(bytes(damaged))
    if found is not None:
        check_equal(found, "thrower")


@FUZZ
@given(NAMES, st.data())
def test_a_truncated_file_is_refused(name: str, data: st.DataObject) -> None:
    whole = saved(name)
    assert load(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None
    assert load(whole[data.draw(st.integers(1, len(whole))) :]) is None


@FUZZ
@given(NAMES, st.binary(min_size=1, max_size=40))
def test_bytes_before_or_behind_are_refused(name: str, extra: bytes) -> None:
    assert load(saved(name) + extra) is None
    assert load(extra + saved(name)) is None


@FUZZ
@given(st.binary(max_size=200), st.sampled_from([b"", b"PK\x03\x04"]))
def test_arbitrary_bytes_are_refused(data: bytes, start: bytes) -> None:
    assert load(start + data) is None
    end = b"PK\x05\x06" + data[:16] + len(data[16:]).to_bytes(2, "little")
    assert load(start + data + end) is None


@FUZZ
@given(NAMES, st.data())
def test_swapped_members_are_found(name: str, data: st.DataObject) -> None:
    members = members_of(name)
    one, other = data.draw(st.permutations(sorted(members)).map(lambda names: names[:2]))
    swapped = {**members, one: members[other], other: members[one]}
    assert load(forged(swapped, sums=False)) is None


@FUZZ
@given(NAMES, st.data())
def test_members_in_another_order_or_missing_are_refused_or_harmless(
    name: str, data: st.DataObject
) -> None:
    members = members_of(name)
    order = data.draw(st.permutations(sorted(members)))
    found = load(forged({key: members[key] for key in order}, sums=False))
    assert found is not None
    check_equal(found, name)
    fewer = {key: members[key] for key in order[1:]}
    assert load(forged(fewer, sums=False)) is None
    if order[0] != "SHA256SUMS":
        assert load(forged(fewer)) is None


# --- forged documents --------------------------------------------------------------------------

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2, 3, 2**31, 2**53, 2**64, -(2**63), 10**400]),
    st.sampled_from([0.0, -0.0, 0.5, -1.5, 1e308, -1e308, 5e-324]),
    st.sampled_from(["", "zero", "tanh", "\ud800", "arrays/0.npy", "arrays/1.npy", "agent.json"]),
    st.sampled_from(["dense", "flatten", "Box", "Discrete", "<f8", "<f4", "|O", "|V8", ">f8"]),
    st.just([]),
    st.lists(st.sampled_from([0, 1, 2, 2**31, 2**70, -1, None]), max_size=4),
    st.just({}),
    st.just({"$float": "nan"}),
    st.just({"$float": "inf", "more": 1}),
    st.just({"array": "arrays/0.npy", "dtype": "<f8", "shape": [2**30, 2**30]}),
    st.just({"array": "arrays/0.npy", "dtype": "<f8", "shape": []}),
    st.just({"type": "flatten", "input_shape": [4]}),
    st.just({"space": "Discrete", "n": 2, "start": 0, "dtype": "<i8"}),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a document but the whole."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, entry in inner:
        found.append((*path, key))
        if isinstance(entry, (dict, list)):
            found += places(entry, (*path, key))
    return found


def mutate(document: Any, data: st.DataObject) -> None:
    *way, last = data.draw(st.sampled_from(places(document)))
    holder = document
    for key in way:
        holder = holder[key]
    match data.draw(st.sampled_from(["replace", "delete", "add", "copy"])):
        case "replace":
            holder[last] = data.draw(VALUES)
        case "delete":
            del holder[last]
        case "add" if isinstance(holder, dict):
            holder[data.draw(st.sampled_from(["extra", "type", "array", "$float", "v_min"]))] = 1
        case "add":
            holder.append(copy.deepcopy(holder[last]))
        case "copy":
            *other, name = data.draw(st.sampled_from(places(document)))
            source = document
            for key in other:
                source = source[key]
            holder[last] = copy.deepcopy(source[name])


@settings(FUZZ, max_examples=600)
@given(NAMES, st.data())
def test_a_forged_document_is_refused_or_gives_a_sound_agent(
    name: str, data: st.DataObject
) -> None:
    document = document_of(name)
    for _ in range(data.draw(st.integers(1, 2))):
        mutate(document, data)
    found = load(with_document(name, document))
    if found is not None:
        check_sound(found)


@settings(FUZZ, max_examples=300)
@given(NAMES, st.data())
def test_forged_numbers_in_arrays_are_refused_or_give_a_sound_agent(
    name: str, data: st.DataObject
) -> None:
    members = dict(members_of(name))
    key = data.draw(st.sampled_from([key for key in members if key.endswith(".npy")]))
    array = np.load(BytesIO(members[key]), allow_pickle=False)
    changed = array.copy().reshape(-1)
    at = data.draw(st.integers(0, changed.size - 1))
    if array.dtype.kind == "f":
        odd = [np.nan, np.inf, -np.inf, 0.0, -1.0, 6e4, float(np.finfo(array.dtype).max)]
        changed[at] = data.draw(st.sampled_from(odd))
    else:
        changed.view("u1")[at] = data.draw(st.integers(0, 255))
    members[key] = npy_header(array.dtype.str, array.shape) + changed.tobytes()
    found = load(forged(members))
    if found is not None:
        check_sound(found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@FUZZ
@given(JSON)
def test_a_document_of_anything_else_is_refused(value: Any) -> None:
    assert load(with_document("pole", value)) is None
    whole = {"format": "spikerl agent", "version": 1, "written_by": "0.1.0", "agent": value}
    assert load(with_document("pole", whole)) is None


# --- what a forger would try -------------------------------------------------------------------


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
        r"it has format version 7, written by spikerl '3\.2'; spikerl .* knows versions up to 1: "
        r"upgrade it \(pip install -U spikerl\)",
    )
    # a later format may change everything but where its version stands
    refused(
        forged({"agent.json": json.dumps({"format": "spikerl agent", "version": 2}).encode()}),
        "it has format version 2, written by spikerl None",
    )


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None])
def test_a_version_that_is_none_is_refused(version: Any) -> None:
    refused(changed("pole", "version", version), "its format version is .*, wanted 1")


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
    monkeypatch.setattr(container, "MAX_BYTES", 1000)
    refused(saved("pole"), r"it has \d+ bytes, at most 1000 are allowed")


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
    monkeypatch.setattr(container, "MAX_ARRAY_BYTES", 100)
    refused(saved("pole"), r"layers\[0\]\.weight is larger than agents may be")


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
