"""spikerl evaluate: the original and the spiking agent on the same seeds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from spikerl import tables
from spikerl.cli.console import (
    EnvId,
    Json,
    Source,
    VecNormalizeFile,
    err,
    note,
    out,
    print_json,
    progress_bar,
)
from spikerl.errors import SpikerlError, problems_of, refuse

USUAL = "cmos45-float32"  # where the original has a price too


def evaluate(
    source: Source,
    agent: Annotated[
        Path | None,
        typer.Option(help="A saved spiking agent; without it the source is converted now."),
    ] = None,
    env: EnvId = None,
    backend: Annotated[str, typer.Option(help="Where the spiking network runs.")] = "cpu",
    episodes: Annotated[int, typer.Option(help="Episodes of each policy.")] = 20,
    sim_steps: Annotated[
        int | None, typer.Option("--sim-steps", "-T", help="Steps per decision.")
    ] = None,
    vecnormalize: VecNormalizeFile = None,
    hardware: Annotated[
        list[str] | None,
        typer.Option(help="Estimate a decision's energy on it too; `spikerl energy` lists all."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first episode, and of chance.")] = 0,
    as_json: Json = False,
) -> None:
    """Run the original and the spiking agent on the same seeds, side by side."""
    from spikerl import backends, energy
    from spikerl.agent import SpikingAgent
    from spikerl.conversion import convert as to_agent
    from spikerl.conversion.checkpoints import checkpoint_file
    from spikerl.conversion.environments import todays_id
    from spikerl.errors import checked_seed, checked_whole
    from spikerl.metrics import error_unit

    # what can be known is refused before the work begins
    problems = checked_whole("episodes", episodes) + checked_seed(seed)
    problems += [] if sim_steps is None else checked_whole("sim_steps", sim_steps)
    if agent is not None and vecnormalize is not None:
        problems.append("--vecnormalize is for converting; a saved --agent has its statistics")
    elif agent is not None and not agent.exists():
        problems.append(f"there is no file {agent}")
    asked = hardware or []
    checks: list[Callable[[], Any]] = [lambda: checkpoint_file(source)]
    checks += [] if env is None else [lambda: todays_id(env)]
    checks += [lambda name=name: energy.hardware(name) for name in asked]  # type: ignore[misc]
    checks.append(lambda: backends.ready(backend))
    refuse("this cannot be run", [*problems, *problems_of(*checks)])
    where, places = backends.get(backend), [USUAL, *asked]
    model, make_env, algorithm = origin(source, env)
    if make_env is None:
        raise SpikerlError(f"{source} does not say which environment it is for; pass --env")
    if agent is not None:
        spiking = SpikingAgent.load(agent)
    else:
        with err.status("converting"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the report repeats them, and they are printed below
            given: dict[str, Any] = {"sim_steps": sim_steps, "vecnormalize": vecnormalize}
            spiking = to_agent(source, env=make_env, seed=seed, **given)
            if where.problems(spiking.network):  # it may need delays, or a reset of its own
                spiking = to_agent(source, env=make_env, seed=seed, target=backend, **given)
        assert spiking.report is not None  # convert() always measures
        for warning in spiking.report.warnings:
            note(warning)
    how = {"original": model, "episodes": episodes, "seed": seed, "sim_steps": sim_steps}
    result = played(spiking, backend, make_env, as_json, **how)
    if as_json:
        print_json(result.to_dict())
        return
    names = {"original": algorithm, "spiking": f"{backend}, T={result.sim_steps}"}
    out.print(tables.evaluation(result, names))
    lines = tables.evaluation_lines(result, error_unit(spiking.action_space))
    for line in [*lines, *tables.cost_lines(result, dict.fromkeys(places))]:
        out.print(line, highlight=False, soft_wrap=True)


def origin(source: Path, env: str | None) -> tuple[Any, Any, str]:
    """The model in a checkpoint, what makes its environment if that is known, its algorithm."""
    from spikerl.conversion.checkpoints import load_checkpoint
    from spikerl.conversion.environments import maker, todays_id

    checkpoint = load_checkpoint(source)
    make_env = None
    if env is not None:
        make_env = maker(todays_id(env), {}, ())
    elif checkpoint.env_id is not None:
        make_env = maker(todays_id(checkpoint.env_id), checkpoint.env_kwargs, checkpoint.wrappers)
    return checkpoint.model, make_env, checkpoint.details["algorithm"]


def played(agent: Any, backend: str, make_env: Any, silent: bool, **how: Any) -> Any:
    """Episodes of both policies, with a bar of progress; how: of HardwarePolicy and evaluate()."""
    from spikerl.evaluation import evaluate as run
    from spikerl.hardware import HardwarePolicy

    seed, steps = how["seed"], how.pop("sim_steps", None)
    with (
        HardwarePolicy(agent, backend, seed=seed, sim_steps=steps) as policy,
        progress_bar("episodes", 2 * how["episodes"], silent) as progress,
    ):
        return run(policy, make_env, progress=progress, **how)
