"""spikerl experiment: every combination in a file is measured, into one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spikerl import tables
from spikerl.cli.console import Json, err, note, out, print_json, progress_bar
from spikerl.errors import SpikerlError


def experiment(
    file: Annotated[Path, typer.Argument(help="YAML: agents, conversions, backends, ...")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The table, .csv or .parquet; default: beside FILE."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes of this machine that share it.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="A Dask scheduler instead, such as tcp://host:8786.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the results as an HTML page.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed cells again.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Check the file, run nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Measure agents x conversions x back ends x steps x seeds; go on where a run stopped."""
    from spikerl.errors import checked_whole
    from spikerl.experiment import Table, default_path, read_cells
    from spikerl.page import check_installed

    if problems := checked_whole("workers", workers):
        raise SpikerlError(problems[0])
    if scheduler is not None and workers > 1:
        raise SpikerlError("--workers are of this machine; a --scheduler has its own")
    if scheduler is not None and "://" in scheduler and scheduler.split("://")[0] == "ray":
        raise SpikerlError("clusters of Ray are not supported; wanted a Dask scheduler, tcp://...")
    if report is not None:
        check_installed()
    with err.status("checking"):
        cells = read_cells(file, here=scheduler is None)
    path = output or default_path(file)
    with Table(path) as table:
        if check:
            stored = sum(cell.id in table.rows for cell in cells)
            told = {"cells": len(cells), "stored": stored, "table": path}
            if as_json:
                print_json(told)
            else:
                out.print(f"{len(cells)} cells, {stored} of them in {path}", highlight=False)
            return
        if retry:
            table.forget_failed({cell.id for cell in cells})
        outcome = _run(cells, table, path.with_suffix(".agents"), workers, scheduler, as_json)
    if report is not None and outcome.rows:
        from spikerl.experiment.report import write_report

        write_report(outcome.rows, report, title=file.stem)
    if as_json:
        print_json(
            {
                "table": path,
                "page": report,
                "cells": len(cells),
                "stored_before": outcome.before,
                "stored_by_other_runs": outcome.elsewhere,
                "deaths": outcome.deaths,
                "not_run": outcome.not_run,
                "rows": outcome.rows,
            }
        )
    else:
        out.print(tables.experiment(outcome.rows))
        for what, where in (("table:", path), ("page:", report)):
            if where is not None:
                out.print(f"{what} {where}", highlight=False, markup=False, soft_wrap=True)
    for death in outcome.deaths:
        note(f"a worker died and its cell was run again: {death}", "warning")
    for row in outcome.failed:
        what = f"{row['agent']}, {row['conversion']}, {row['backend']}, T={row['sim_steps']}"
        note(f"{what}, seed {row['seed']}: {row['error']}", "failed")
    for cell, reason in outcome.not_run.items():
        note(f"{cell}: {reason}", "not run")
    if outcome.failed or outcome.not_run:
        raise typer.Exit(1)


def _run(
    cells: Any, table: Any, folder: Path, workers: int, scheduler: str | None, silent: bool
) -> Any:
    """Have the cells done by whom the options say; folder: of converted agents."""
    from spikerl.experiment import Alone, DaskCluster, Processes, run_cells

    place = str(folder.resolve())
    crew: Any
    if scheduler is not None:
        crew = DaskCluster(scheduler, cells, place)
        for line in crew.notes:
            note(line)
    else:
        crew = Alone(place) if workers == 1 else Processes(place, workers)
    with progress_bar("cells", len(cells), silent) as progress:
        return run_cells(cells, table, crew, progress=progress)
