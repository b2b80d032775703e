"""spikerl bench and spikerl backends: how fast, and what there is."""

from __future__ import annotations

from typing import Annotated

import typer

from spikerl import tables
from spikerl.cli.console import Json, err, out, print_json


def bench(
    backend: Annotated[
        list[str] | None, typer.Option(help="Measure this one; repeat it for several.")
    ] = None,
    net: Annotated[
        list[str] | None, typer.Option(help="Layer sizes such as 8-64-64-4; repeat it.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="CPU time per line of comparison.")] = 6.0,
    memory: Annotated[
        bool, typer.Option(help="Measure instead whether 100,000 decisions use more memory.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Decisions per CPU-second of every usable back end, of SB3's predict and of a torch loop."""
    from dataclasses import asdict

    from spikerl.bench import NETS, memory_growth, run_bench

    if memory:
        growth = memory_growth()
        if as_json:
            print_json({**asdict(growth), "growth": growth.growth})
        else:
            kib = growth.growth / 1024
            out.print(f"{growth.decisions:,} decisions added {kib:,.0f} KiB", highlight=False)
        return
    with err.status("measuring") as status:
        result = run_bench(
            nets=net or NETS,
            backends=backend,
            seconds=seconds,
            progress=lambda line: status.update(f"measuring {line}"),
        )
    if as_json:
        print_json(result.to_dict())
        return
    out.print(tables.bench(result))
    for note in result.notes:
        out.print(note, highlight=False, markup=False, soft_wrap=True)


def list_energies(as_json: Json = False) -> None:
    """List the published energies that estimates are made of, with their sources."""
    from dataclasses import asdict

    from spikerl.energy import HARDWARE

    if as_json:
        print_json({name: asdict(entry) for name, entry in HARDWARE.items()})
        return
    out.print(tables.hardware(HARDWARE.values()))


def list_backends(as_json: Json = False) -> None:
    """List every back end: usable or what to install, and what it can do."""
    from dataclasses import asdict

    from spikerl import backends

    states = backends.available()
    can = {name: backends.capabilities(name) for name in states}
    if as_json:
        print_json(
            {
                name: {
                    "usable": state.usable,
                    "state": str(state),
                    "capabilities": None if (c := can[name]) is None else asdict(c),
                }
                for name, state in states.items()
            }
        )
        return
    out.print(tables.backends(states, can))
    for state in states.values():
        if not state.usable:
            out.print(f"{state.name}: {state}", highlight=False, markup=False, soft_wrap=True)
