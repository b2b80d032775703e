"""Workers under another interpreter, and who is let in."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_agents import balancer

import spikerl
from spikerl import backends
from spikerl.backends import channel, wire
from spikerl.backends.channel import Channel, ChannelClosed, Door, authenticate, connect
from spikerl.backends.worker import WorkerBackend
from spikerl.errors import BackendError, UnsupportedNetwork
from spikerl.hardware import HardwarePolicy
from spikerl.network import Dense, SpikingNetwork

ELSEWHERE = """
from spikerl.backends.base import Capabilities
from spikerl.backends.reference import ReferenceBackend
class Elsewhere(ReferenceBackend):
    name = "elsewhere"
    capabilities = Capabilities(resets=frozenset({"zero"}), limits={"inputs": 4}, max_sessions=1)
"""


def environment(folder: Path) -> Path:
    """A bare virtual environment; returns its site-packages."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    (site,) = folder.glob("lib/python*/site-packages")
    return site


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with numpy, this spikerl, and a back end that is not installed here."""
    folder = tmp_path_factory.mktemp("other")
    site = environment(folder)
    paths = [str(Path(module.__file__).parents[1]) for module in (np, spikerl)]  # type: ignore[arg-type]
    (site / "borrowed.pth").write_text("\n".join(paths) + "\n")
    (site / "elsewhere.py").write_text(ELSEWHERE)
    info = site / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[spikerl.backends]\nelse = elsewhere:Elsewhere\n")
    return str(folder / "bin" / "python")


def test_a_back_end_that_only_the_other_interpreter_has_is_found_there(python: str) -> None:
    assert "else" not in backends.available()
    backend = WorkerBackend("else", python)
    assert backend.name == "elsewhere"
    assert backend.capabilities.resets == {"zero"}
    assert backend.capabilities.limits == {"inputs": 4}
    wide = SpikingNetwork((Dense(np.ones((1, 5)), delay_steps=1), Dense([[1.0]], spiking=False)))
    assert len(backend.problems(wide)) == 2
    with pytest.raises(UnsupportedNetwork, match="5 inputs, at most 4 fit") as caught:
        backend.compile(wide)
    assert caught.value.problems == tuple(backend.problems(wide))
    with HardwarePolicy(balancer(), "else", python=python) as policy:
        assert policy.predict(np.zeros(4))[0] == 0
        session: Any = policy._session
        command = Path(f"/proc/{session.worker_pid}/cmdline").read_bytes()
    assert command.split(b"\0")[0].decode() == python


def test_nothing_of_this_program_leaks_into_the_other_interpreter(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spikerl.py").write_text("raise SystemExit('the wrong spikerl')")
    monkeypatch.chdir(tmp_path)
    with HardwarePolicy(balancer(), "reference", python=python) as policy:
        policy.predict(np.zeros(4))
    with pytest.raises(BackendError, match="No module named 'troubled'"):
        WorkerBackend("troubled:Troubled", python).compile(balancer().network)


def test_python_implies_a_process_even_if_it_is_the_same_interpreter() -> None:
    with HardwarePolicy(balancer(), "reference", python=sys.executable) as policy:
        assert isinstance(policy.backend, WorkerBackend)
        assert policy.predict(np.zeros(4))[0] == 0


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/no/such/python", "cannot be started.*wanted the path of a Python"),
        ("/", "cannot be started"),
        ("/bin/true", "cannot run a worker; it .* ended with exit code 0"),
        ("/bin/cat", r"cannot run a worker; it .* ended with exit code 1.*\n.*cat"),
    ],
)
def test_a_wrong_interpreter_is_refused_at_once(path: str, said: str) -> None:
    with pytest.raises(BackendError, match=said):
        HardwarePolicy(balancer(), "reference", python=path)
    with pytest.raises(BackendError, match=said):
        WorkerBackend("reference", path).problems(balancer().network)


def test_an_interpreter_without_spikerl_is_told_what_to_install(tmp_path: Path) -> None:
    environment(tmp_path / "bare")
    path = str(tmp_path / "bare" / "bin" / "python")
    with pytest.raises(BackendError) as caught:
        WorkerBackend("reference", path).compile(balancer().network)
    assert "No module named 'spikerl'" in str(caught.value)
    assert f"{path} -m pip install --no-deps spikerl" in str(caught.value)


def test_another_version_of_the_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PROTOCOL", 99)
    with pytest.raises(BackendError, match="speaks version 1 of the protocol, this one 99"):
        WorkerBackend("reference").compile(balancer().network)


# --- who is let in -----------------------------------------------------------------------------


def foreign(address: Any) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    connection.connect(address if isinstance(address, str) else tuple(address))
    return connection


@pytest.fixture(params=["unix", "tcp"])
def door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "tcp":
        monkeypatch.setattr(channel, "_unix", lambda: (_ for _ in ()).throw(OSError()))
    made = Door()
    monkeypatch.undo()
    assert isinstance(made.address, str) == (request.param == "unix")
    yield made
    made.close()


def test_only_who_has_the_key_is_let_in(door: Any) -> None:
    refused: list[str] = []
    silent, junk = foreign(door.address), foreign(door.address)
    junk.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)

    def knock() -> None:
        try:
            connect(door.address, b"another key").close()
        except (ChannelClosed, TimeoutError) as error:
            refused.append(type(error).__name__)
        mine = connect(door.address, b"the key")
        mine.send(b"it is me", 10)
        mine.close()

    thread = threading.Thread(target=knock)
    thread.start()
    admitted = door.admit(b"the key", 60, lambda: True)
    assert admitted.receive(10) == b"it is me"
    thread.join()
    assert refused == ["ChannelClosed"]
    for connection in (admitted, silent, junk):
        connection.close()


def test_a_caller_without_the_key_is_not_served_either() -> None:
    here, there = (Channel(end) for end in socket.socketpair())
    said: list[Exception] = []

    def caller() -> None:
        try:
            authenticate(there, b"wrong", b"caller", b"worker", 10)
        except ChannelClosed as error:
            said.append(error)

    thread = threading.Thread(target=caller)
    thread.start()
    with pytest.raises(ChannelClosed, match="does not have the key"):
        authenticate(here, b"right", b"worker", b"caller", 10)
    thread.join()
    here.close()
    there.close()
    assert len(said) == 1


def test_an_answer_cannot_be_sent_back_to_the_one_who_gave_it() -> None:
    """Who only mirrors what it gets does not come in."""
    here, mirror = socket.socketpair()

    def reflect() -> None:
        while data := mirror.recv(4096):
            mirror.sendall(data)

    thread = threading.Thread(target=reflect)
    thread.start()
    mine = Channel(here)
    with pytest.raises(ChannelClosed, match="does not have the key"):
        authenticate(mine, b"key", b"caller", b"worker", 10)
    mine.close()
    thread.join()
    mirror.close()


def test_a_door_nobody_comes_to_is_given_up(door: Any) -> None:
    with pytest.raises(ChannelClosed, match="the process is gone"):
        door.admit(b"key", 60, lambda: False)
    with pytest.raises(TimeoutError):
        door.admit(b"key", 0.1, lambda: True)


# --- messages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 7, 8, 65_528, 65_529, 5_000_000])
def test_messages_of_any_size_arrive_whole_and_in_order(size: int) -> None:
    here, there = (Channel(end) for end in socket.socketpair())
    sent = [bytes(size), b"behind it", b""]

    def speak() -> None:
        for message in sent:
            there.send(message)

    thread = threading.Thread(target=speak)
    thread.start()
    assert [bytes(here.receive(60)) for _ in sent] == sent
    thread.join()
    here.close()
    there.close()


def test_values_survive_a_message() -> None:
    value = {
        "flags": np.array([[True, False], [False, True]]),
        "none": np.zeros((0, 3)),
        "scalar": np.array(1.5),
        "strided": np.arange(12.0).reshape(3, 4)[::2, ::-1],
        "big endian": np.arange(3, dtype=">i4"),
        "numbers": [1, 0.1, float("inf"), None, True, "é"],
    }
    got = wire.decode(bytearray(wire.encode(value)))
    assert got.keys() == value.keys()
    assert got["numbers"] == value["numbers"]
    for key, array in value.items():
        if isinstance(array, np.ndarray):
            assert got[key].shape == array.shape
            assert np.array_equal(got[key], array)
            assert got[key].dtype.kind == array.dtype.kind


def test_messages_hold_no_objects() -> None:
    with pytest.raises(BackendError, match="cannot be sent"):
        wire.encode({"a": np.array([object()])})
    message = wire.encode({"a": np.zeros(1)}).replace(b"<f8", b"|O8")
    with pytest.raises(BackendError, match="dtype"):
        wire.decode(message)
