"""Which SpiNNaker board is configured, what is said where none is, and where files go."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from fake_spynnaker import FakeSpynnaker
from test_spinnaker import ZOO, small

import spikerl
from spikerl import backends
from spikerl.backends import spinnaker_config as settings
from spikerl.backends.spinnaker import SpinnakerBackend
from spikerl.errors import BackendError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and working directory."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "system"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def test_without_a_board_the_error_says_what_to_write_where(home: Path) -> None:
    with pytest.raises(BackendError) as caught:
        SpinnakerBackend().compile(small())
    text = str(caught.value)
    assert f"{home}/.spynnaker.cfg" in text
    assert "[Machine]\nmachine_name = 192.168.240.1\nversion = 5" in text
    assert "dry_run()" in text
    assert [path.name for path in home.iterdir()] == ["work"]  # and wrote nothing there
    assert settings.missing().startswith("no board configured; write machine_name and version of")


def test_a_policy_without_a_board_says_so_and_one_with_a_board_decides(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda m: m)  # as if all were installed
    agent = spikerl.convert(ZOO, sim_steps=16, reset="zero", delay_steps=1, n_calibration=500)
    with pytest.raises(BackendError, match=r"no board configured: no file .*\.spynnaker\.cfg"):
        spikerl.HardwarePolicy(agent, "spinnaker")
    (home / ".spynnaker.cfg").write_text("[Machine]\nmachine_name = near\nversion = 5\n")
    monkeypatch.setattr("spikerl.backends.spinnaker.spynnaker", FakeSpynnaker)
    observations = np.random.default_rng(1).uniform(-0.2, 0.2, (30, 4)).astype(np.float32)
    with spikerl.HardwarePolicy(agent, "spinnaker", n_envs=10) as policy:
        ours = policy.predict(observations)[0]
    with spikerl.HardwarePolicy(agent, "reference") as policy:
        theirs = policy.predict(observations)[0]
    assert (ours == theirs).mean() > 0.9
    assert len(set(theirs.tolist())) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[Machine]\nversion = 5\n", "none is named in"),
        ("[Machine]\nmachineName = None\nversion = 5\n", "none is named in"),
        ("[Mode]\nmode = Debug\n", "none is named in"),
        ("[Machine]\nmachine_name = 10.1.1.1\n", "has a machine_name, but version = None"),
        ("[Machine]\nvirtual_board = True\nversion = 5\n", "asks for a virtual one"),
        ("machine_name = 10.1.1.1\n", "settings unreadable"),
    ],
)
def test_settings_that_name_no_board_are_refused(home: Path, text: str, said: str) -> None:
    (home / ".spynnaker.cfg").write_text(text)
    with pytest.raises(BackendError, match=said):
        settings.board()
    assert settings.missing()


def test_settings_are_found_where_spynnaker_looks_and_the_nearest_win(home: Path) -> None:
    (home / "user").mkdir()
    (home / "user" / ".spynnaker.cfg").write_text("[Machine]\nspalloc_server = far.example\n")
    assert settings.board().address == "far.example"
    Path("spynnaker.cfg").write_text("[Machine]\nmachineName = near\nversion = 3\n")
    found = settings.board()
    assert (found.address, found.sections["Machine"]["version"]) == ("near", "3")
    assert settings.missing() == ""
    own = home / "own.cfg"
    own.write_text("[Machine]\nmachine_spec_file = %s\n" % (home / "spec.cfg"))
    (home / "spec.cfg").write_text("[Machine]\nmachine_name = third\nversion = 5\n")
    assert settings.board(own).address == "third"
    with pytest.raises(BackendError, match=r"nowhere\.cfg"):
        settings.board("nowhere.cfg")


def test_a_workspace_is_the_home_for_a_while_and_keeps_the_settings(home: Path) -> None:
    files = settings.Workspace({"Machine": {"machinename": "near"}, "Mode": {"mode": "Debug"}})
    with files.at_home():
        assert Path.home() == files.path
        assert Path.cwd().samefile(files.path)
        text = (files.path / ".spynnaker.cfg").read_text()
    assert Path.home() == home
    assert Path.cwd().samefile(home / "work")
    for line in ("machinename = near", "mode = Debug", f"defaultreportfilepath = {files.path}"):
        assert line in text
    files.close()
    files.close()
    assert not files.path.exists()


def test_the_registry_tells_a_missing_board_from_a_missing_package(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(backends, "find_spec", lambda m: m)  # as if all were installed
    state = backends.available()["spinnaker"]
    assert (state.usable, str(state)) == (False, settings.missing())
    assert backends.get("spinnaker").name == "spinnaker"
    with pytest.raises(
        BackendError, match=r"cannot be used here: no board configured; write machine"
    ):
        backends.ready("spinnaker")
    (home / ".spynnaker.cfg").write_text("[Machine]\nmachine_name = near\nversion = 5\n")
    assert backends.available()["spinnaker"].usable
    monkeypatch.setattr(backends, "find_spec", lambda m: None if m == "spynnaker" else found(m))
    with pytest.raises(BackendError, match=r"needs spynnaker.*pip install 'spikerl\[spinnaker\]'"):
        backends.get("spinnaker")
