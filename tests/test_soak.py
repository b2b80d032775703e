"""The soak test, made short: it finds what it looks for, and says what did not hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikerl import backends
from spikerl.errors import SpikerlError
from spikerl.testing.soak import deaths, decisions, files, soak, tables, usable
from spikerl.testing.soak.trial import agent_for, answer


def test_the_command_prints_what_held() -> None:
    arguments = ["soak", "--decisions", "60", "--backend", "cpu", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "spikerl", *arguments], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    trials = {trial["name"]: trial for trial in json.loads(done.stdout)}
    assert list(trials) == [
        *("decisions on cpu", "workers killed", "disk full, agent", "disk full, table"),
        *("two writers, one killed", "damaged agents", "damaged tables"),
    ]
    assert not [trial["wrong"] for trial in trials.values() if trial["wrong"]]
    cpu = trials["decisions on cpu"]
    assert cpu["count"] == 600
    for figures in (cpu["start"], cpu["end"]):
        assert figures["MiB"] > 10
        assert figures["us"] > 1
    assert trials["disk full, agent"]["note"] == "4 refused"


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_agents_are_made_for_every_back_end(name: str) -> None:
    can = backends.capabilities(name)
    assert can is not None
    assert not backends.get(name).problems(agent_for(can, 0).network)


def test_usable_back_ends_simulate_and_are_here() -> None:
    found = usable()
    assert {"cpu", "reference"} <= set(found)
    assert "spinnaker" not in found


def test_a_back_end_that_forgets_to_reset_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from spikerl.backends.reference import ReferenceSession

    # its own process would not have the defect, so it decides in this one
    monkeypatch.setattr(ReferenceSession, "reset", lambda self, rows=None: None)
    found = decisions.decided("reference", 200, seed=0)
    assert "decision" in found["wrong"]
    assert "before" in found["wrong"]


def test_memory_that_grows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"start": {"MiB": 100.0, "us": 5.0}, "end": {"MiB": 105.0, "us": 5.0}, "wrong": ""}
    monkeypatch.setattr(decisions, "answer", lambda code: json.dumps(found))
    assert decisions.trial("cpu", 10, 0).wrong == "5.0 MiB were added"
    found["end"]["MiB"] = 103.0  # type: ignore[index]
    assert decisions.trial("cpu", 10, 0).wrong == ""


def test_workers_that_do_not_die_are_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deaths, "_kill", lambda pid: None)
    assert deaths.trial(20, 2, 0).wrong == "no worker died, so nothing was tried"


def test_a_save_that_destroys_the_old_file_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def destructive(code: str) -> str:
        (tmp_path / "old.spk").write_bytes(b"half")
        return "5"

    monkeypatch.setattr(files, "answer", destructive)
    assert files.full_disk(tmp_path, 5, 0).wrong == "the old file is gone or another"
    monkeypatch.setattr(files, "answer", lambda code: "3")
    assert files.full_disk(tmp_path, 5, 0).wrong == "2 saves told of no full disk"


def test_a_loader_that_accepts_damage_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = files._agent(9)
    monkeypatch.setattr(files.SpikingAgent, "save", lambda self, path: path.write_bytes(b"x" * 99))
    monkeypatch.setattr(files.SpikingAgent, "load", lambda path: other)
    assert files.damaged(tmp_path, 3, 0).wrong == "a damaged file was loaded as another agent"


def test_a_table_that_loses_rows_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "answer", lambda code: "done")

    class Deaf:
        """A writer that never writes; and a table that has one row of five."""

        returncode = 0
        stdout = sys.stdin

        def __init__(self, code: str) -> None:
            with tables.Table(tmp_path / "two.csv") as table:
                table.add(tables.made_row_of(0))
            self.stdout = open("/dev/null")  # noqa: SIM115

        def kill(self) -> None: ...
        def wait(self) -> None: ...
        def communicate(self) -> tuple[str, str]:
            return "", ""

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *exc: object) -> None:
            self.stdout.close()

    monkeypatch.setattr(tables, "started", Deaf)
    assert tables.two_writers(tmp_path, 5, 0).wrong == "1 rows, 1 of 5 cells"


def test_damages_differ_from_the_whole_and_come_again_with_the_seed() -> None:
    whole = bytes(range(256)) * 8
    one, two = (list(files.damages(whole, 40, np.random.default_rng(3))) for _ in range(2))
    assert one == two
    assert sum(data != whole for data in one) >= 39
    assert {len(data) < len(whole) for data in one} == {True, False}


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="ValueError: five"):
        answer("raise ValueError('five')")


def test_a_trial_that_crashes_is_reported_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crash(*_: Any) -> Any:
        raise OSError("no room")

    from spikerl.testing.soak.trial import Trial

    for module, names in (
        (deaths, ["trial"]),
        (files, ["full_disk", "damaged"]),
        (tables, ["full_disk", "two_writers"]),
    ):
        for name in names:
            monkeypatch.setattr(module, name, crash)
    monkeypatch.setattr(tables, "damaged", lambda *_: Trial("damaged tables", 4))
    found = list(soak(40, []))
    assert [trial.wrong for trial in found[:5]] == ["OSError: no room"] * 5
    assert found[5].wrong == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "decisions must be a whole number"),
        ((5, ["abacus"]), "there is no back end"),
        ((0, ["abacus", "sundial"]), "(?s)decisions must.*'abacus'.*'sundial'"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(arguments: Any, message: str) -> None:
    with pytest.raises(SpikerlError, match=message):
        next(soak(*arguments))
