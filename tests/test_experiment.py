"""Experiments from the file to the table and the page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest
from experiments import AGENT, done, made_up, row_of, small_cells

import spikerl
from spikerl.errors import SpikerlError, UnsupportedNetwork
from spikerl.experiment import (
    WHEN_AND_WHERE,
    Cell,
    results,
    run_cell,
)
from spikerl.experiment.crew import Finished
from spikerl.experiment.report import make_report, write_report


class MadeUp:
    """A crew whose workers do what a test says: a row, a death, or never an answer.

    does: what a cell of a seed does, by seed: "dies", "dies once", "fails"; else its row.
    """

    def __init__(
        self,
        workers: Mapping[str, Mapping[str, str]] | None = None,
        does: Mapping[int, str] | None = None,
    ) -> None:
        self.present = {"a": {}, "b": {}} if workers is None else dict(workers)
        self.does = dict(does or {})
        self.given: list[tuple[str, int]] = []
        self.most = 0
        self._cells: list[tuple[str, Cell]] = []

    def workers(self) -> Mapping[str, Mapping[str, str]]:
        return self.present

    def start(self, worker: str, cell: Cell) -> None:
        assert worker not in dict(self._cells), "it has a cell already"
        self._cells.append((worker, cell))
        self.given.append((worker, cell.seed))
        self.most = max(self.most, len(self._cells))

    def finished(self, seconds: float) -> list[Finished]:
        worker, cell = self._cells.pop(0)
        does = self.does.get(cell.seed)
        if does == "dies once":
            del self.does[cell.seed]
        if does in ("dies", "dies once"):
            return [Finished(worker, cell, death="killed by signal 9")]
        if does == "fails":
            return [Finished(worker, cell, row_of(cell, status="failed", error="no"))]
        return [Finished(worker, cell, row_of(cell))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._cells.clear()


CELLS = [made_up(number) for number in range(7)]


# --- one cell ------------------------------------------------------------------------------------


def test_a_cell_is_what_convert_and_evaluate_give_by_hand(tmp_path: Path) -> None:
    from spikerl.conversion.checkpoints import load_checkpoint
    from spikerl.evaluation import evaluate
    from spikerl.process import one_thread

    (cell,) = small_cells(
        seeds=[3], episodes=2, backends=["cpu"], conversions=[{"n_calibration": 200}]
    )
    row = run_cell(cell, str(tmp_path))
    import gymnasium as gym

    with one_thread():
        agent = spikerl.convert(AGENT, sim_steps=4, seed=3, n_calibration=200)
        with spikerl.HardwarePolicy(agent, seed=3) as policy:
            result = evaluate(
                policy,
                lambda: gym.make("CartPole-v1"),
                original=load_checkpoint(AGENT).model,
                episodes=2,
                seed=6,
            )
    assert row["status"] == "done", row["error"]
    assert result.agreement is not None
    assert result.original is not None
    assert agent.report is not None
    assert json.loads(row["returns"]) == list(result.spiking.returns)
    assert json.loads(row["original_returns"]) == list(result.original.returns)
    assert row["agreement"] == result.agreement.value
    assert row["agreement_low"] == result.agreement.low
    assert row["synaptic_operations"] == result.synaptic_operations
    assert row["held_out"] == agent.report.faithfulness.value
    assert row["network_sha256"] == agent.network.fingerprint()
    assert row["neurons"] == 128
    assert row["spikerl"] == spikerl.__version__
    assert row["simulator"].startswith("numba ")
    assert row["seconds"] > row["seconds_converting"] > 0


def test_converted_agents_are_made_once_and_again_where_damaged(tmp_path: Path) -> None:
    cells = small_cells(conversions=[{"n_calibration": 200}])
    first = [run_cell(cell, str(tmp_path)) for cell in cells]
    (file,) = tmp_path.glob("*.spk")
    assert not list(tmp_path.glob("*.lock"))
    stamp = file.stat().st_mtime_ns
    assert results([run_cell(cells[0], str(tmp_path))]) == results(first[:1])
    assert file.stat().st_mtime_ns == stamp
    file.write_bytes(file.read_bytes()[:-100])
    assert results([run_cell(cells[0], str(tmp_path))]) == results(first[:1])
    assert file.stat().st_mtime_ns != stamp
    assert first[0]["agent_sha256"] == first[1]["agent_sha256"]


def test_what_goes_wrong_in_a_cell_is_in_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spikerl.experiment.checks.trial_problems", lambda entry: [])
    cells = small_cells(
        backends=[{"name": "cpu", "options": {"precision": "float128"}}, "reference"],
        conversions=[{"n_calibration": 200}],
    )
    row = run_cell(cells[0], str(tmp_path))
    assert row["status"] == "failed"
    assert "float128" in row["error"]
    assert row["return"] is None

    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("of the simulator")

    monkeypatch.setattr("spikerl.backends.reference.ReferenceBackend.compile", broken)
    row = run_cell(cells[1], str(tmp_path))
    assert (row["status"], row["error"]) == ("failed", "ZeroDivisionError: of the simulator")

    def refusing(*_: Any, **__: Any) -> None:
        raise UnsupportedNetwork("reference", ["too large", "too fast"])

    monkeypatch.setattr("spikerl.backends.reference.ReferenceBackend.compile", refusing)
    error = run_cell(cells[1], str(tmp_path))["error"]
    assert error == "back end 'reference' cannot run this network: too large; too fast"


# --- handing out ---------------------------------------------------------------------------------


def test_every_cell_is_done_once_by_workers_with_one_cell_each(tmp_path: Path) -> None:
    crew, seen = MadeUp(), []
    outcome = done(tmp_path / "t.csv", CELLS, crew, progress=seen.append)
    assert sorted(seed for _, seed in crew.given) == list(range(7))
    assert [row["seed"] for row in outcome.rows] == list(range(7))
    assert crew.most == 2
    assert (seen[0], seen[-1]) == (0, 7)
    assert seen == sorted(seen)


def test_a_second_run_does_only_what_is_missing(tmp_path: Path) -> None:
    done(tmp_path / "t.csv", CELLS[:3], MadeUp())
    crew = MadeUp()
    outcome = done(tmp_path / "t.csv", CELLS, crew)
    assert sorted(seed for _, seed in crew.given) == [3, 4, 5, 6]
    assert outcome.before == 3
    assert len(outcome.rows) == 7


def test_a_cell_whose_worker_died_is_done_again(tmp_path: Path) -> None:
    crew = MadeUp(does={2: "dies once"})
    outcome = done(tmp_path / "t.csv", CELLS, crew)
    assert [seed for _, seed in crew.given].count(2) == 2
    assert [row["status"] for row in outcome.rows] == ["done"] * 7
    assert len(outcome.deaths) == 1
    assert "killed by signal 9" in outcome.deaths[0]


def test_a_cell_that_kills_every_worker_fails_and_the_others_go_on(tmp_path: Path) -> None:
    crew = MadeUp(does={2: "dies"})
    outcome = done(tmp_path / "t.csv", CELLS, crew)
    assert [seed for _, seed in crew.given].count(2) == 3
    assert [row["seed"] for row in outcome.failed] == [2]
    assert outcome.failed[0]["error"] == ("its worker died 3 times, at last so: killed by signal 9")
    assert len(outcome.rows) == 7
    again = done(tmp_path / "t.csv", CELLS, MadeUp())
    assert [row["seed"] for row in again.failed] == [2]  # not tried again unless asked


def test_cells_go_to_workers_that_have_their_back_end(tmp_path: Path) -> None:
    cells = [made_up(0, "nest"), made_up(1), made_up(2, "nest"), made_up(3)]
    crew = MadeUp({"a": {"nest": "back end 'nest' cannot be used here"}, "b": {}})
    done(tmp_path / "t.csv", cells, crew)
    assert {worker for worker, seed in crew.given if seed in (0, 2)} == {"b"}


def test_cells_nobody_can_do_are_not_stored_and_named(tmp_path: Path) -> None:
    cells = [made_up(0, "nest"), made_up(1)]
    crew = MadeUp({"a": {"nest": "it is not installed"}})
    outcome = done(tmp_path / "t.csv", cells, crew, patience=0.1)
    assert [row["seed"] for row in outcome.rows] == [1]
    assert outcome.not_run == {str(cells[0]): "a: it is not installed"}
    outcome = done(tmp_path / "t.csv", cells, MadeUp({}), patience=0.1)
    assert list(outcome.not_run.values()) == ["there is no worker"]
    assert len(done(tmp_path / "t.csv", cells, MadeUp()).rows) == 2


def test_no_cell_is_done_by_two_runs_at_once(tmp_path: Path) -> None:
    from test_experiment_table import elsewhere

    path = tmp_path / "t.csv"
    code = (
        "assert table.claim(cells[4].id)\nprint('claimed', flush=True)\nsys.stdin.readline()\n"
        "table.add(row_of(cells[4], worker='the other'))"
    )
    with elsewhere(code, path) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "claimed\n"
        crew = MadeUp()

        def told(count: int) -> None:
            if count == 6 and not other.stdin.closed:
                other.stdin.write("go\n")
                other.stdin.close()

        outcome = done(path, CELLS, crew, progress=told)
    assert 4 not in [seed for _, seed in crew.given]
    assert outcome.elsewhere == 1
    assert outcome.rows[4]["worker"] == "the other"


# --- the page ------------------------------------------------------------------------------------


def figures(cell: Cell, value: float) -> dict[str, Any]:
    return row_of(
        cell,
        **{"return": value, "original_return": 500.0, "agreement": value / 500, "length": 1.0},
        rates="[0.25, 0.75]",
        synaptic_operations=1234.0,
        decisions_per_second=10.0,
        started="2030-01-02T03:04:05Z",
        host="here",
    )


def test_the_page_has_the_means_of_the_seeds_and_what_failed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [figures(CELLS[0], 100.0), figures(CELLS[1], 300.0)]
    rows.append(row_of(CELLS[2], status="failed", error="<b>no</b> disk"))
    write_report(rows, tmp_path / "page.html", "A & B")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "<h1>A &amp; B</h1>" in text
    assert "3 cells, 1 of them failed." in text
    assert "seed 2: &lt;b&gt;no&lt;/b&gt; disk" in text
    (line,) = re.findall(r"<tr>(<td>c</td>.*?)</tr>", text)
    assert re.findall(r"<td>(.*?)</td>", line) == [
        *("c", "cpu", "8", "2", "200.0 \u00b1 100.0", "500.0 \u00b1 0.0", "40.0 %", "0.500"),
        *("1,234", "10"),
    ]
    assert text.count('src="data:image/svg+xml;base64,') == 2  # agreement and return
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert f"<td>spikerl</td><td>{spikerl.__version__}</td>" in text


def test_a_page_of_nothing_is_refused() -> None:
    with pytest.raises(SpikerlError, match="there are no results yet"):
        make_report([], "x")


def test_when_and_where_are_the_last_columns_and_no_results() -> None:
    row = row_of(CELLS[0])
    assert results([row]) == results([row_of(CELLS[0], seconds=9.0, host="x", worker="y")])
    assert results([row]) != results([row_of(CELLS[0], **{"return": 9.0})])
    assert set(WHEN_AND_WHERE) == {
        *("decisions_per_second", "seconds", "seconds_converting", "started", "host", "worker")
    }
