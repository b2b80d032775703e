"""What an experiment names is looked at before its first cell runs: agents, settings, back ends.

Imports grid, cell, trained, trial and the registry; SB3 and torch late.
"""

from __future__ import annotations

import os
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

from spikerl import backends
from spikerl.backends.base import capability_problems
from spikerl.errors import ConversionError, SpikerlError, listed
from spikerl.experiment.cell import Cell
from spikerl.experiment.grid import (
    AgentEntry,
    BackendEntry,
    ConversionEntry,
    Grid,
    read_data,
    understood,
)
from spikerl.experiment.trained import Trained, trained_agent
from spikerl.experiment.trial import trial_problems
from spikerl.network import Dense, SpikingNetwork


def read_cells(path: str | os.PathLike[str], *, here: bool = True) -> tuple[Cell, ...]:
    """Every cell of the grid in a YAML file; see read_grid() and cells_of().

    Raises SpikerlError with all that is wrong with the file and, as far as it is understood, with
    what it names.
    """
    grid, problems = understood(read_data(path), Path(path).parent)
    named, trained = _looked_at(grid, here)
    if problems:
        raise SpikerlError(listed(f"{os.fspath(path)} cannot be used", [*problems, *named]))
    return _cells(grid, named, trained)


def cells_of(grid: Grid, *, here: bool = True) -> tuple[Cell, ...]:
    """Every cell of a grid.

    here: the cells run on this machine, so the back ends must be usable here, with the options and
          interpreters that are given; another machine's are not looked at.
    Raises SpikerlError with all that would go wrong: files that are no checkpoints, environments
    that are not there or have other spaces, statistics of other observations, settings convert()
    refuses, back ends that are missing, lack an option or cannot run what a conversion makes, steps
    and settings that an agent which spikes already does not have.
    """
    return _cells(grid, *_looked_at(grid, here))


def _looked_at(grid: Grid, here: bool) -> tuple[list[str], list[Trained]]:
    """What is wrong with what a grid names, and its agents: all, if nothing is."""
    problems: list[str] = []
    trained = [
        found for agent in grid.agents if (found := trained_agent(agent, problems)) is not None
    ]
    for conversion in grid.conversions:
        problems += _argument_problems(conversion, grid)
    for backend in grid.backends:
        problems += _backend_problems(backend, here)
    if problems:  # what follows from them is not said too
        return problems, trained
    for agent, found in zip(grid.agents, trained, strict=True):
        problems += _spiking_problems(agent, found, grid)
    if not all(found.steps for found in trained):
        for conversion, backend in product(grid.conversions, grid.backends):
            problems += _pair_problems(conversion, backend)
    return problems, trained


def _cells(grid: Grid, problems: list[str], trained: list[Trained]) -> tuple[Cell, ...]:
    from spikerl.conversion import STEPS

    if problems:
        raise SpikerlError(listed("this experiment cannot be run", problems))
    cells = tuple(
        Cell(agent, conversion, backend, steps, seed, grid.episodes, found.origin)
        for agent, found in zip(grid.agents, trained, strict=True)
        for conversion, steps, seed, backend in product(
            grid.conversions,
            grid.sim_steps or (found.steps or STEPS,),
            grid.seeds,
            grid.backends,
        )
    )
    seen: dict[str, Cell] = {}
    for cell in cells:
        if cell.id in seen:
            problems.append(f"'{seen[cell.id]}' and '{cell}'")
        seen.setdefault(cell.id, cell)
    if problems:
        raise SpikerlError(listed("these cells are the same under two names", problems))
    return cells


def _spiking_problems(agent: AgentEntry, found: Trained, grid: Grid) -> list[str]:
    """What a grid asks of an agent that spikes already, and is exported as it is."""
    if found.steps is None or found.network is None:
        return []
    where = f"agent {agent.name} spikes already"
    other = [n for n in grid.sim_steps or () if n != found.steps]
    problems = []
    if other:
        problems.append(
            f"{where} and was trained with sim_steps {found.steps}, found "
            f"{', '.join(map(str, other))}: leave sim_steps out, or give it a file of its own"
        )
    asked: dict[str, None] = {}
    for conversion, backend in product(grid.conversions, grid.backends):
        name = backend.name if conversion.settings.get("target") == "backend" else None
        for setting in _chosen({**conversion.settings, **({"target": name} if name else {})}):
            on = f" on back end {backend.label!r}" if name else ""
            asked[f"conversion {conversion.name!r}{on} asks for {setting}"] = None
    problems += [f"{where} and is exported as it is, but {entry}" for entry in asked]
    for backend in grid.backends:
        can = None if backend.python is not None else backends.capabilities(backend.name)
        for problem in [] if can is None else capability_problems(can, found.network):
            problems.append(f"{where} and cannot run on back end {backend.label!r}: {problem}")
    return problems


def _chosen(settings: dict[str, Any]) -> list[str]:
    """Settings that shape a network and are others than convert()'s usual ones."""
    from spikerl.conversion import usual_arguments
    from spikerl.conversion.build import Recipe

    usual = usual_arguments()
    asked, target = dict(settings), settings.get("target")
    if target is not None and backends.capabilities(target) is not None:
        asked |= backends.rules(target)
    shaping = {entry.name for entry in fields(Recipe)}
    return [f"{k}={v!r}" for k, v in asked.items() if k in shaping and v != usual[k]]


def _argument_problems(conversion: ConversionEntry, grid: Grid) -> list[str]:
    from spikerl.conversion import check_arguments

    settings = dict(conversion.settings)
    if settings.get("target") == "backend":
        del settings["target"]
    found: dict[str, None] = {}
    for steps in (None,) if grid.sim_steps is None else grid.sim_steps:
        try:
            check_arguments(sim_steps=steps, seed=0, **settings)
        except ConversionError as error:
            found |= dict.fromkeys(error.problems)
    target = settings.get("target")
    if target is not None:
        try:
            backends.capabilities(target)
        except SpikerlError:
            found[f"its target {target!r} is no back end; {_known()}, or backend"] = None
    for key, value in (conversion.distill or {}).items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            found[f"distill: {key} is {value!r}, wanted a number > 0"] = None
    return [f"conversion {conversion.name!r}: {problem}" for problem in found]


def _backend_problems(backend: BackendEntry, here: bool) -> list[str]:
    try:
        if backend.python is None and here:
            # options may name a board that is not in the settings of this machine
            (backends.get if backend.options else backends.ready)(backend.name)
        elif backend.python is None:
            backends.capabilities(backend.name)
    except SpikerlError as error:
        if backend.name not in backends.available():
            return [f"there is no back end {backend.name!r}; {_known()}"]
        return [str(error)]
    return trial_problems(backend) if here else []


def _pair_problems(conversion: ConversionEntry, backend: BackendEntry) -> list[str]:
    """Whether a back end can run what a conversion makes, as far as its declaration tells."""
    settings = dict(conversion.settings)
    if settings.get("target") == "backend" or backend.python is not None:
        return []
    can = backends.capabilities(backend.name)
    if can is None:
        return []
    wanted = {"reset": "subtract", "delay_steps": 0}
    if settings.get("target") is not None:
        wanted |= {key: backends.rules(settings["target"])[key] for key in wanted}
    wanted |= {key: settings[key] for key in wanted if key in settings}
    hidden = Dense([[1.0]], **wanted)  # type: ignore[arg-type]
    network = SpikingNetwork((hidden, Dense([[1.0]], spiking=False)))
    where = f"conversion {conversion.name!r} on back end {backend.label!r}"
    return [
        f"{where}: {problem.removeprefix('layer 0: ')}; `target: backend` in the conversion "
        "makes it what each back end needs"
        for problem in capability_problems(can, network)
        if problem.startswith("layer 0: ")
    ]


def _known() -> str:
    return f"there are {', '.join(backends.available())}"
