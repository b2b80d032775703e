"""Damaged, truncated and forged files: one FileFormatError, or an agent that is sound."""

from __future__ import annotations

import copy
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from forging import document_of, forged, members_of, saved, with_document
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_agents import AGENTS, observations

from spikerl.agent import SpikingAgent
from spikerl.container import npy_header
from spikerl.errors import FileFormatError, ShapeError
from spikerl.hardware import HardwarePolicy

FUZZ = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
NAMES = st.sampled_from(sorted(AGENTS))


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
            holder[last] = copy.deepcopy(data.draw(VALUES))  # it may be mutated in turn
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
    whole = {"format": "spikerl agent", "version": 2, "written_by": "0.1.0", "agent": value}
    assert load(with_document("pole", whole)) is None
