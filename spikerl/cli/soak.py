"""spikerl soak: a long test of this machine's back ends and files."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from spikerl import tables
from spikerl.cli.console import Json, Seed, err, out, print_json


def soak(
    decisions: Annotated[
        int, typer.Option(help="On each back end, ten times as many on cpu.")
    ] = 100_000,
    backend: Annotated[
        list[str] | None, typer.Option(help="Only this one; repeat it for several.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Decide without end, kill workers, fill disks, damage files; print what held."""
    from spikerl.testing.soak import soak as trials

    found = []
    with err.status("soaking") as status:
        for trial in trials(decisions, backend, seed=seed, on_trial=status.update):
            found.append(trial)
    if as_json:
        print_json([asdict(trial) for trial in found])
    else:
        out.print(tables.soak(found))
        for trial in found:
            if trial.wrong or not trial.count:
                what = trial.wrong or trial.note
                out.print(f"{trial.name}: {what}", highlight=False, markup=False, soft_wrap=True)
    if any(trial.wrong for trial in found):
        raise typer.Exit(1)
