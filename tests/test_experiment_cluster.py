"""Experiments on a real Dask cluster of this machine, whose workers are killed."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
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
            dashboard_address=None,
            silence_logs=50,
            env={"PYTHONPATH": here},
        ) as made:
            yield made


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_cluster_with_a_killed_worker_has_the_results_of_one_process(
    tmp_path: Path, cluster: Any
) -> None:
    cells = small_cells()
    folder = str(tmp_path / "agents")
    with Table(tmp_path / "alone.csv") as table:
        alone = run_cells(cells, table, Alone(folder))
    crew = DaskCluster(cluster.scheduler_address, cells, str(tmp_path / "others"))
    killed = []

    def kill(done: int) -> None:
        """The worker of a cell that is being worked on, once."""
        if not killed and crew._running:
            address, _ = next(iter(crew._running.values()))
            pids = crew._client.run(os.getpid, workers=[address])
            os.kill(pids[address], signal.SIGKILL)
            killed.append(address)

    watched, start = [0], crew.start

    def start_and_kill(worker: str, cell: Any) -> None:
        start(worker, cell)
        watched[0] += 1
        if watched[0] == 2:
            kill(0)

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


def test_an_address_without_a_scheduler_is_one_error(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("spikerl.experiment.cluster.CONNECT_S", 0.5)
    with pytest.raises(SpikerlError, match="no Dask scheduler answers at tcp://"):
        DaskCluster("tcp://127.0.0.1:1", small_cells(), str(tmp_path))
