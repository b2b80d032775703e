"""What an experiment names is looked at before its first cell runs: agents, settings, back ends.

Imports grid, cell and the registry; SB3 and torch late.
"""

from __future__ import annotations

import hashlib
import warnings
from itertools import product
from pathlib import Path
from typing import Any

from spikerl import backends
from spikerl.backends.base import capability_problems
from spikerl.errors import ConversionError, SpikerlError, listed
from spikerl.experiment.cell import Cell
from spikerl.experiment.grid import AgentEntry, BackendEntry, ConversionEntry, Grid
from spikerl.network import Dense, SpikingNetwork


def cells_of(grid: Grid, *, here: bool = True) -> tuple[Cell, ...]:
    """Every cell of a grid.

    here: the cells run on this machine, so the back ends must be usable here.
    Raises SpikerlError with all that would go wrong: files that are no checkpoints, environments
    that are not there, settings convert() refuses, back ends that are missing or cannot run what a
    conversion makes.
    """
    problems: list[str] = []
    origins = [_origin(agent, problems) for agent in grid.agents]
    for conversion in grid.conversions:
        problems += _argument_problems(conversion, grid)
    for backend in grid.backends:
        problems += _backend_problems(backend, here)
    if not problems and not all(origin["spiking"] for origin in origins):
        for conversion, backend in product(grid.conversions, grid.backends):
            problems += _pair_problems(conversion, backend)
    if problems:
        raise SpikerlError(listed("this experiment cannot be run", problems))
    cells = tuple(
        Cell(agent, conversion, backend, steps, seed, grid.episodes, origin)
        for (agent, origin), conversion, steps, seed, backend in product(
            zip(grid.agents, origins, strict=True),
            grid.conversions,
            grid.sim_steps,
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


def _origin(agent: AgentEntry, problems: list[str]) -> dict[str, Any]:
    """What a checkpoint's files say; a problem where they cannot be used."""
    from spikerl.conversion.checkpoints import load_checkpoint
    from spikerl.conversion.environments import maker, todays_id

    try:
        with warnings.catch_warnings(action="ignore"):
            checkpoint = load_checkpoint(agent.source)
            name = agent.env or checkpoint.env_id
            if name is None:
                raise SpikerlError(
                    f"{agent.source} does not say which environment it is for; give it env"
                )
            kwargs = {} if agent.env else dict(checkpoint.env_kwargs)
            wrappers = () if agent.env else checkpoint.wrappers
            with maker(todays_id(name), kwargs, wrappers)() as env:
                space = env.action_space
            if space != checkpoint.model.action_space:
                raise SpikerlError(
                    f"{name} has the actions {space}, {agent.source} was trained for "
                    f"{checkpoint.model.action_space}"
                )
            environment = todays_id(name)
        statistics = agent.vecnormalize or checkpoint.vecnormalize
        digest = None
        if statistics is not None:
            digest = hashlib.sha256(Path(statistics).read_bytes()).hexdigest()
    except (SpikerlError, OSError) as error:
        problems.append(f"agent {agent.name}: {error}".replace("\n  - ", "; "))
        return {"spiking": False}
    return {
        "sha256": checkpoint.details["sha256"],
        "vecnormalize": digest,
        "algorithm": checkpoint.details["algorithm"],
        "environment": environment,
        "env_kwargs": {key: repr(value) for key, value in kwargs.items()},
        "wrappers": [repr(wrapper) for wrapper in wrappers],
        "spiking": type(checkpoint.model.policy).__module__.startswith("spikerl."),
    }


def _argument_problems(conversion: ConversionEntry, grid: Grid) -> list[str]:
    from spikerl.conversion import check_arguments

    settings = dict(conversion.settings)
    if settings.get("target") == "backend":
        del settings["target"]
    found: dict[str, None] = {}
    for steps in grid.sim_steps:
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
    return []


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
