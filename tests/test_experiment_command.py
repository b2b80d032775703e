"""Experiments in several processes, and by the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from experiments import AGENT, done, small_cells
from processes import run_python

from spikerl.cli import experiment as command_line
from spikerl.errors import SpikerlError
from spikerl.experiment import (
    Alone,
    Cell,
    Processes,
    cells_of,
    read_grid,
    results,
)


def test_processes_have_the_results_of_one_though_one_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    cells = small_cells()
    alone = done(tmp_path / "alone.csv", [*cells], Alone(str(tmp_path / "alone")))
    crew = Processes(str(tmp_path / "both"), 2)
    started: list[str] = []
    start = crew.start

    def start_and_kill(worker: str, cell: Cell) -> None:
        start(worker, cell)
        started.append(worker)
        if len(started) == 2:
            (pid,) = crew._executors[worker]._processes
            os.kill(pid, signal.SIGKILL)

    crew.start = start_and_kill  # type: ignore[method-assign]
    both = done(tmp_path / "both.csv", [*cells], crew)
    assert len(both.deaths) == 1
    assert results(both.rows) == results(alone.rows)
    assert len(results(both.rows)) == len(cells)
    assert {row["status"] for row in both.rows} == {"done"}
    workers = {str(row["worker"]).split(",")[0] for row in both.rows}
    assert workers == {"process 1", "process 2"}
    assert len({row["cell"] for row in alone.rows}) == len(cells)


def command(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "spikerl", "experiment", *map(str, arguments)]


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return run_python(*command(*arguments)[1:], env={"COLUMNS": "160"})


def grid_file(folder: Path, **other: str) -> Path:
    lines = {
        "agents": f"[{AGENT}]",
        "conversions": "[{n_calibration: 200}]",
        "backends": "[cpu, torch]",
        "sim_steps": "4",
        "seeds": "[0, 1]",
        "episodes": "1",
        **other,
    }
    path = folder / "grid.yml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return path


def test_a_killed_command_goes_on_where_it_stopped(tmp_path: Path) -> None:
    file = grid_file(tmp_path)
    table, page = tmp_path / "out.csv", tmp_path / "page.html"
    with subprocess.Popen(command(file, "-o", table, "--json")) as first:
        while not (table.exists() and table.read_bytes().count(b"\n") > 1):
            assert first.poll() is None
        first.kill()
    stored = table.read_bytes().count(b"\n") - 1
    assert 1 <= stored < 4
    kept = table.read_bytes()
    finished = run(file, "-o", table, "--report", page, "--json")
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout)
    assert (told["cells"], told["stored_before"]) == (4, stored)
    assert table.read_bytes().startswith(kept)
    assert len({row["cell"] for row in told["rows"]}) == len(told["rows"]) == 4
    cells = [*cells_of(read_grid(file))]
    fresh = done(tmp_path / "fresh.csv", cells, Alone(str(tmp_path / "fresh")))
    assert results(fresh.rows) == results(told["rows"])
    assert "<h1>grid</h1>" in page.read_text("utf-8")


def test_failed_cells_are_told_and_tried_again_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spikerl.experiment.checks.trial_problems", lambda entry: [])
    file = grid_file(
        tmp_path,
        backends="[cpu, {name: cpu, label: odd, options: {precision: float128}}]",
        seeds="0",
    )

    def told(**options: Any) -> Any:
        with pytest.raises(typer.Exit) as caught:
            command_line.experiment(file, **options)
        assert caught.value.exit_code == 1
        return capsys.readouterr()

    first = told()
    assert "failed: dqn/CartPole-v1_1, n_calibration=200, odd, T=4, seed 0: " in first.err
    assert "float128" in first.err
    assert "failed" in first.out
    assert json.loads(told(as_json=True).out)["stored_before"] == 2
    assert json.loads(told(as_json=True, retry=True).out)["stored_before"] == 1


def test_a_check_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command_line.experiment(grid_file(tmp_path), check=True, output=tmp_path / "out.csv")
    assert "4 cells, 0 of them in" in capsys.readouterr().out
    assert not (tmp_path / "out.csv").exists()
    assert not (tmp_path / "out.agents").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "workers must be a whole number >= 1"),
        ({"workers": 2, "scheduler": "tcp://x:1"}, "a --scheduler has its own"),
        ({"scheduler": "ray://x:1"}, "clusters of Ray are not supported"),
        ({"output": Path("out.txt")}, "must end in .csv or .parquet"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpikerlError, match=message):
        command_line.experiment(grid_file(tmp_path), **arguments)


def test_an_error_of_the_command_is_one_line(tmp_path: Path) -> None:
    answer = run(grid_file(tmp_path, sims="1"))
    assert answer.returncode == 1
    (line,) = [line for line in answer.stderr.splitlines() if line.strip()]
    assert line.startswith("error: ")
    assert "the file has the key 'sims'; did you mean 'sim_steps'?" in line
