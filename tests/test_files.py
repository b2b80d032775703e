"""Saved agents: a bit-exact round trip, an atomic write, one clear error for everything else."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import zipfile
from dataclasses import fields, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from small_agents import AGENTS, REPORT, contents, observations, pole, thrower

from spikerl import container, document, files
from spikerl.agent import SpikingAgent
from spikerl.container import ArrayWriter, ContainerReader, npy_header
from spikerl.encoding import ConstantCurrent
from spikerl.errors import FileFormatError, SpikerlError
from spikerl.fields import Record, Tagged
from spikerl.hardware import HardwarePolicy
from spikerl.network import Dense, SpikingNetwork
from spikerl.preprocessing import from_space
from spikerl.spaces import read_space, write_space


@pytest.fixture(params=AGENTS)
def agent(request: pytest.FixtureRequest) -> SpikingAgent:
    return AGENTS[request.param]()


def test_a_round_trip_keeps_every_bit(agent: SpikingAgent, tmp_path: Path) -> None:
    agent.save(tmp_path / "agent.spk")
    again = SpikingAgent.load(tmp_path / "agent.spk")
    assert again.network.fingerprint() == agent.network.fingerprint()
    assert again.observation_space == agent.observation_space
    assert again.action_space == agent.action_space
    assert again.report == agent.report
    assert again.stateful == agent.stateful
    assert contents(again, tmp_path) == contents(agent, tmp_path)


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_loaded_agent_acts_as_the_saved_one(
    agent: SpikingAgent, deterministic: bool, tmp_path: Path
) -> None:
    agent.save(tmp_path / "agent.spk")
    seen = observations(agent)
    actions = []
    for one in (agent, tmp_path / "agent.spk"):
        with HardwarePolicy(one, "reference", n_envs=6, seed=1) as policy:
            actions.append(policy.predict(seen, deterministic=deterministic)[0])
    assert actions[0].dtype == actions[1].dtype
    assert np.array_equal(*actions)


def test_a_loaded_agent_is_independent_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "agent.spk"
    pole().save(path)
    again = SpikingAgent.load(path)
    path.unlink()
    again.save(path)
    assert SpikingAgent.load(path).network.fingerprint() == pole().network.fingerprint()


def test_every_field_of_every_type_is_in_the_file() -> None:
    """A field added to a dataclass and forgotten here would be lost silently."""
    records: list[Record] = []

    def visit(kind: Any) -> None:
        if isinstance(kind, Record):
            records.append(kind)
            for inner in kind.fields.values():
                visit(inner)
        elif isinstance(kind, Tagged):
            for record in kind.records.values():
                visit(record)
        elif hasattr(kind, "kind"):
            visit(kind.kind)

    visit(document.AGENT)
    assert len(records) >= 25
    for record in records:
        assert set(record.fields) == {field.name for field in fields(record.type)}, record.type


def test_the_tables_hold_every_layer_and_encoder() -> None:
    from spikerl.encoding import ENCODERS, ReceptiveFields
    from spikerl.network import LAYER_TYPES

    assert {r.type for r in document.LAYERS.records.values()} == set(LAYER_TYPES)
    encoders = {**ENCODERS, "receptive_fields": ReceptiveFields}
    assert {tag: r.type for tag, r in document.ENCODERS.records.items()} == encoders


def test_the_report_stands_in_the_file_as_to_dict_says(tmp_path: Path) -> None:
    report = replace(REPORT, value_error=0.5)
    replace(pole(), report=report).save(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a") as archive:
        data = container.parse(archive.read("agent.json"))["agent"]["report"]
    assert type(report).from_dict(data) == report
    assert data == json.loads(json.dumps(report.to_dict()))


def test_provenance_keeps_plain_data_and_turns_numpy_scalars_plain(tmp_path: Path) -> None:
    given_ = {"a": np.int64(3), "b": np.float32(0.5), "c": (1, "x"), "d": {"e": [None, -np.inf]}}
    replace(pole(), provenance=given_).save(tmp_path / "a")
    found = SpikingAgent.load(tmp_path / "a").provenance
    assert found == {"a": 3, "b": 0.5, "c": [1, "x"], "d": {"e": [None, -np.inf]}}
    assert type(found["a"]) is int


@pytest.mark.parametrize(
    "value", [{"a": object()}, {"a": {1: 2}}, {"a": b"bytes"}, {"$float": "nan"}, {"a": np.ones(2)}]
)
def test_provenance_that_is_no_plain_data_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"agent\.provenance.*no plain data"):
        replace(pole(), provenance=value).save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_part_of_unknown_type_is_refused(tmp_path: Path) -> None:
    class OwnEncoder(ConstantCurrent):
        pass

    with pytest.raises(FileFormatError, match=r"OwnEncoder, which cannot be saved, only Constant"):
        replace(pole(), encoder=OwnEncoder()).save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"sim_steps is 2097152, wanted a whole number in"):
        replace(pole(), sim_steps=2**21).save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_the_members_are_what_unzip_numpy_and_sha256sum_understand(tmp_path: Path) -> None:
    pole().save(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a") as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names[0] == "agent.json"
        assert names[-1] == "SHA256SUMS"
        weight = np.load(BytesIO(archive.read("arrays/0.npy")), allow_pickle=False)
        archive.extractall(tmp_path)
    assert np.array_equal(weight, pole().network.layers[0].weight)  # type: ignore[union-attr]
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(hnp.arrays(st.sampled_from(container.DTYPES), hnp.array_shapes(min_dims=0, min_side=0)))
def test_numpy_reads_our_array_headers(array: np.ndarray) -> None:
    header = npy_header(array.dtype.str, array.shape)
    assert len(header) % 64 == 0
    found = np.load(BytesIO(header + array.tobytes()), allow_pickle=False)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()


SPACES = {
    "bounded": spaces.Box(-1.0, 1.0, (3,)),
    "unbounded": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    "half": spaces.Box(np.float32([0, -np.inf]), np.float32([np.inf, 1e-45])),
    "image": spaces.Box(0, 255, (4, 5, 3), np.uint8),
    "whole": spaces.Box(-5, 2**62, (2,), np.int64),
    "unbounded whole": spaces.Box(-np.inf, np.inf, (2,), np.int32),
    "half precision": spaces.Box(-1, 1, (2,), np.float16),
    "no axes": spaces.Box(-1, 1, ()),
    "discrete": spaces.Discrete(5),
    "shifted": spaces.Discrete(5, start=-3, dtype=np.int16),
    "multi": spaces.MultiDiscrete([2, 5]),
    "multi shifted": spaces.MultiDiscrete([[2, 5], [3, 3]], np.int32, start=[[1, 2], [0, -1]]),
    "binary": spaces.MultiBinary(4),
    "binary map": spaces.MultiBinary([2, 3]),
    "dict": spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Box(0, 1, (1,)))]),
    "nested": spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})}),
}


@pytest.mark.parametrize("name", SPACES)
def test_spaces_come_back_as_they_were(name: str) -> None:
    space = SPACES[name]
    arrays, file = ArrayWriter(), BytesIO()
    container.write(file, write_space(space, arrays), arrays)
    reader = ContainerReader(file)
    reader.verify()
    again = read_space(reader.document, reader, "space")
    reader.finish()
    assert again == space
    assert again.dtype == space.dtype
    second = ArrayWriter()
    assert write_space(again, second) == reader.document
    assert second.members == arrays.members
    space.seed(3)
    again.seed(3)
    if isinstance(space, spaces.Dict):
        assert [*again.spaces] == [*space.spaces]  # type: ignore[attr-defined]
    assert str(again.sample()) == str(space.sample())


@pytest.mark.parametrize("space", [spaces.Text(3), spaces.Tuple([spaces.Discrete(2)])])
def test_other_spaces_are_refused(space: Any) -> None:
    with pytest.raises(FileFormatError, match=r"space of type (Text|Tuple) cannot be saved, only"):
        write_space(space, ArrayWriter())


def test_equal_arrays_are_kept_once(tmp_path: Path) -> None:
    space = spaces.Box(0, 255, (3, 30, 30), np.uint8)
    agent = SpikingAgent(
        network=SpikingNetwork((Dense(np.full((2, 2700), 1e-3), spiking=False),)),
        preprocessing=from_space(space),
        encoder=ConstantCurrent(),
        decoder=pole().decoder,
        sim_steps=1,
        observation_space=space,
        action_space=spaces.Discrete(2),
    )
    agent.save(tmp_path / "a")
    assert (tmp_path / "a").stat().st_size < 2 * 2700 * 8 + 3 * 2700 + 8000
    assert SpikingAgent.load(tmp_path / "a").observation_space == space


# --- writing -----------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "agent.spk"
    pole().save(path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for module, name in ((os, "fsync"), (os, "replace"), (files, "write")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(SpikerlError, match=r"cannot be written: No space left"):
                thrower().save(path)
        assert path.read_bytes() == before
        assert [*tmp_path.iterdir()] == [path]


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pole().save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_write_that_reads_back_differently_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_load", lambda _: thrower())
    with pytest.raises(FileFormatError, match=r"cannot be saved.*not what was written"):
        pole().save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_saving_follows_links_and_keeps_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "agent.spk", tmp_path / "link.spk"
    target.write_bytes(b"old")
    link.symlink_to(target)
    pole().save(link)
    assert link.is_symlink()
    assert SpikingAgent.load(target).sim_steps == 16
    (tmp_path / "plain").write_bytes(b"")
    mode = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_saving_to_impossible_places_says_why(tmp_path: Path) -> None:
    with pytest.raises(SpikerlError, match=r"cannot be written: it is a directory"):
        pole().save(tmp_path)
    with pytest.raises(SpikerlError, match=r"cannot be written: No such file or directory"):
        pole().save(tmp_path / "missing" / "agent.spk")
    with pytest.raises(SpikerlError, match=r"wanted the path of a file, found int"):
        pole().save(3)  # type: ignore[arg-type]


# --- loading what is not an agent --------------------------------------------------------------


def refused(path: Path | str, reason: str) -> None:
    with pytest.raises(FileFormatError, match=reason) as caught:
        SpikingAgent.load(path)
    assert str(caught.value).count("cannot be loaded") == 1
    assert caught.value.__cause__ is None


def test_a_missing_file_a_directory_and_odd_paths_say_so(tmp_path: Path) -> None:
    refused(tmp_path / "missing", "there is no such file")
    refused(tmp_path, "it is a directory or no regular file")
    refused("/dev/zero", "it is a directory or no regular file")
    refused("zero\0byte", "null")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "it is a directory or no regular file")
    with pytest.raises(SpikerlError, match="wanted the path of a file, found NoneType"):
        SpikingAgent.load(None)  # type: ignore[arg-type]


def test_a_denied_file_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pole().save(tmp_path / "a")

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    refused(tmp_path / "a", "Permission denied")


def test_files_of_other_kinds_say_so(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for data, reason in (
        (b"", "it is empty"),
        (b"\x80\x04\x95 a pickle", "does not begin like one"),
        (b"PK", "truncated"),
        (b"PK\x05\x06" + bytes(18), "without agent.json"),
    ):
        path.write_bytes(data)
        refused(path, reason)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")
    refused(path, r"no spikerl agent; an SB3 model must be converted with spikerl\.convert\(\)")


def test_loading_needs_only_numpy_and_gymnasium(tmp_path: Path) -> None:
    pole().save(tmp_path / "a")
    code = (
        "import sys; sys.modules['torch'] = sys.modules['stable_baselines3'] = None\n"
        "from spikerl.agent import SpikingAgent\n"
        f"agent = SpikingAgent.load({str(tmp_path / 'a')!r})\n"
        "assert agent.sim_steps == 16"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_loading_executes_nothing(tmp_path: Path) -> None:
    """Reading compiles, imports and starts nothing, as Python's audit events tell."""
    pole().save(tmp_path / "a")
    code = (
        "import sys\n"
        "from spikerl.agent import SpikingAgent\n"
        f"path = {str(tmp_path / 'a')!r}\n"
        "SpikingAgent.load(path)\n"  # modules are imported once
        "seen = set()\n"
        "sys.addaudithook(lambda event, args: seen.add(event))\n"
        "SpikingAgent.load(path)\n"
        "bad = {'exec', 'compile', 'import', 'subprocess.Popen', 'pickle.find_class'}\n"
        "assert 'open' in seen and not seen & bad, seen\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
