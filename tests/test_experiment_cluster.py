"""Experiments on a real Dask cluster of this machine, whose workers are killed."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiments import small_cells

from spikerl.errors import SpikerlError
from spikerl.experiment import Alone, DaskCluster, Table, results, run_cells

pytest.importorskip("distributed", exc_type=ImportError)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    import dask
    from distributed import LocalCluster

    with dask.config.set({"distributed.admin.log-length": 0}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Dask's own, about ports and forks
        tests = str(Path(__file__).parent)
        here = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
        with LocalCluster(
            n_workers=3,
            threads_per_worker=2,
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
            env={"PYTHONPATH": here},
        ) as made:
            yield made


def test_an_address_without_a_scheduler_is_one_error(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("spikerl.experiment.cluster.CONNECT_S", 0.5)
    with pytest.raises(SpikerlError, match="no Dask scheduler answers at tcp://"):
        DaskCluster("tcp://127.0.0.1:1", small_cells(), str(tmp_path))


def lacking(name: str) -> None:
    """On a worker: as if what the back end needs were not installed."""
    from spikerl import backends

    known = replace(backends.TABLE[name], needs=("no_such_package",))
    backends.TABLE[name] = known


def as_it_was(name: str) -> None:
    from spikerl import backends

    backends.TABLE[name] = replace(backends.TABLE[name], needs=())


def with_clients(cluster: Any, what: Any, name: str, count: int) -> list[str]:
    from distributed import Client

    with Client(cluster, set_as_default=False) as client:
        chosen = sorted(client.nthreads())[:count]
        client.run(what, name, workers=chosen)
    return chosen


def test_a_back_end_that_one_worker_lacks_runs_on_the_others(tmp_path: Path, cluster: Any) -> None:
    cells = small_cells(backends=["reference"])
    (poor,) = with_clients(cluster, lacking, "reference", 1)
    try:
        crew = DaskCluster(cluster.scheduler_address, cells, str(tmp_path / "agents"))
        with Table(tmp_path / "t.csv") as table:
            outcome = run_cells(cells, table, crew)
    finally:
        with_clients(cluster, as_it_was, "reference", 1)
    assert [note for note in crew.notes if note.startswith(f"worker {poor}: back end 'reference'")]
    assert {row["status"] for row in outcome.rows} == {"done"}
    assert len(outcome.rows) == len(cells)
    assert not [row for row in outcome.rows if poor in str(row["worker"])]


def test_a_back_end_that_every_worker_lacks_is_refused_by_name(
    tmp_path: Path, cluster: Any
) -> None:
    cells = small_cells(backends=["cpu", "reference"])
    poor = with_clients(cluster, lacking, "reference", 3)
    try:
        with pytest.raises(SpikerlError, match="can run back end reference") as caught:
            DaskCluster(cluster.scheduler_address, cells, str(tmp_path))
    finally:
        with_clients(cluster, as_it_was, "reference", 3)
    assert all(f"worker {address}: back end 'reference'" in str(caught.value) for address in poor)
    assert "no_such_package" in str(caught.value)


def test_workers_that_see_other_files_are_refused(tmp_path: Path, cluster: Any) -> None:
    (cell, *_) = small_cells()
    other = replace(cell, origin={**cell.origin, "sha256": "0" * 64})
    away = replace(cell, agent=replace(cell.agent, source=str(tmp_path / "none")))
    for odd, message in ((other, "it sees another file at"), (away, "it sees no checkpoint at")):
        with pytest.raises(SpikerlError, match="can run this experiment") as caught:
            DaskCluster(cluster.scheduler_address, [odd], str(tmp_path))
        assert str(caught.value).count(message) == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_scheduler_that_goes_away_leaves_the_rows_so_far(tmp_path: Path) -> None:
    from distributed import LocalCluster

    cells = small_cells()
    options: Any = {"n_workers": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with LocalCluster(processes=False, **options) as brief, Table(tmp_path / "t.csv") as table:
        crew = DaskCluster(brief.scheduler_address, cells, str(tmp_path / "agents"))

        def told(count: int) -> None:
            if count == 1:
                brief.close()

        with pytest.raises(SpikerlError, match="the Dask scheduler is gone; rows so far"):
            run_cells(cells, table, crew, progress=told)
        assert len(table.rows) == 1
        outcome = run_cells(cells, table, Alone(str(tmp_path / "agents")))
    assert outcome.before == 1
    assert len(outcome.rows) == len(cells)


def test_a_cluster_with_a_killed_worker_has_the_results_of_one_process(
    tmp_path: Path, cluster: Any
) -> None:
    cells = small_cells(backends=["cpu", {"name": "reference", "isolation": "process"}])
    folder = str(tmp_path / "agents")
    with Table(tmp_path / "alone.csv") as table:
        alone = run_cells(cells, table, Alone(folder))
    crew = DaskCluster(cluster.scheduler_address, cells, str(tmp_path / "others"))
    pids = crew._client.run(os.getpid)
    killed: list[str] = []
    start = crew.start

    def start_and_kill(worker: str, cell: Any) -> None:
        start(worker, cell)
        if not killed and len(crew._running) == 2:
            killed.append(worker)
            os.kill(pids[worker], signal.SIGKILL)

    crew.start = start_and_kill  # type: ignore[method-assign]
    with Table(tmp_path / "cluster.csv") as table:
        spread = run_cells(cells, table, crew)
        again = run_cells(cells, table, Alone(folder))
    assert killed
    assert [death for death in spread.deaths if killed[0] in death]
    assert results(spread.rows) == results(alone.rows)
    assert len({row["worker"] for row in spread.rows}) > 1
    assert again.before == len(cells)
    with Table(tmp_path / "cluster.csv") as table:
        assert len(table.rows) == len(cells)
