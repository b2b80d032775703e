"""The command line: spikerl convert | evaluate | bench | backends. Imports typer and rich.

Every command has --json: one JSON document on stdout, nothing else there. Errors are one line on
stderr and a non-zero exit status.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spikerl import __version__, tables
from spikerl.errors import SpikerlError

app = typer.Typer(
    help="Spiking neural networks as reinforcement-learning agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Steps = Annotated[int, typer.Option("--sim-steps", "-T", help="Steps per decision.")]
EnvId = Annotated[
    str | None, typer.Option("--env", help="Environment id, if not the checkpoint's own.")
]
Source = Annotated[Path, typer.Argument(help="An SB3 .zip or an rl-zoo directory (ALGO/ENV_1).")]
VecNormalizeFile = Annotated[
    Path | None, typer.Option("--vecnormalize", help="Saved VecNormalize, if not beside the zip.")
]


@app.command()
def convert(
    source: Source,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to save the spiking agent.")
    ] = None,
    env: EnvId = None,
    sim_steps: Annotated[
        int | None, typer.Option("--sim-steps", "-T", help="Steps per decision; 32 if left out.")
    ] = None,
    n_calibration: Annotated[int, typer.Option(help="Observations to calibrate on.")] = 10_000,
    reset: Annotated[str, typer.Option(help="subtract or zero.")] = "subtract",
    threshold: Annotated[str, typer.Option(help="neuron, layer or model.")] = "neuron",
    percentile: Annotated[float, typer.Option(help="Of the activations; 100: maximum.")] = 99.9,
    encoder: Annotated[str, typer.Option(help="constant, poisson or equidistant.")] = "constant",
    decoder: Annotated[
        str,
        typer.Option(
            help="potential, residual_potential, spike_count, signed_spike_count or first_spike."
        ),
    ] = "potential",
    readout: Annotated[str, typer.Option(help="auto, fitted or copied.")] = "auto",
    neurons_per_unit: Annotated[
        int | None, typer.Option(help="Neurons for each unit of the source; default: as needed.")
    ] = None,
    target_agreement: Annotated[
        float | None, typer.Option(help="Search the cheapest setting with this share, up to -T.")
    ] = None,
    target_error: Annotated[
        float | None, typer.Option(help="The same for continuous actions: error in %.")
    ] = None,
    max_neurons: Annotated[
        int | None, typer.Option(help="Spiking neurons in such a search.")
    ] = None,
    delay_steps: Annotated[
        int, typer.Option(help="Steps until the next layer hears a spike; 1 on NEST and chips.")
    ] = 0,
    weight_bits: Annotated[
        int | None, typer.Option(help="Round weights as a target of so many bits does.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Back end to convert for: its reset, delay and weight bits.")
    ] = None,
    distill: Annotated[
        bool, typer.Option("--distill", help="Train the result on what the source does: minutes.")
    ] = False,
    distill_updates: Annotated[int, typer.Option(help="Updates of the weights in it.")] = 20_000,
    vecnormalize: VecNormalizeFile = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the report as an HTML page with episodes and plots.")
    ] = None,
    episodes: Annotated[int, typer.Option(help="Episodes of each policy on that page.")] = 20,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Convert a trained agent and report how faithful it is on observations it has not seen."""
    from spikerl.conversion import convert as to_agent
    from spikerl.page import check_installed, write_page

    if report is not None:
        check_installed()  # before the work begins
    with err.status("converting"):
        agent = to_agent(
            source,
            env=env,
            n_calibration=n_calibration,
            sim_steps=sim_steps,
            reset=reset,  # type: ignore[arg-type]  # checked there, with the other arguments
            threshold=threshold,
            percentile=percentile,
            encoder=encoder,
            decoder=decoder,
            readout=readout,
            neurons_per_unit=neurons_per_unit,
            target_agreement=target_agreement,
            target_error=target_error,
            max_neurons=max_neurons,
            delay_steps=delay_steps,
            weight_bits=weight_bits,
            target=target,
            vecnormalize=vecnormalize,
            seed=seed,
        )
    if distill:
        agent = _distilled(agent, source, env, vecnormalize, distill_updates, seed, as_json)
    if output is not None:
        agent.save(output)
    if report is not None:
        with warnings.catch_warnings(action="ignore"):  # convert() has said it
            model, make_env, _ = _origin(source, env)
        played = None
        if make_env is not None:
            how = {"original": model, "episodes": episodes, "seed": seed}
            played = _played(agent, "cpu", make_env, as_json, **how)
        write_page(agent, played, report)
    assert agent.report is not None  # convert() always measures
    if as_json:
        _print_json({**agent.report.to_dict(), "saved": output, "page": report})
        return
    sizes = "-".join(str(n) for n in (agent.network.n_in, *(x.n_out for x in agent.network.layers)))
    out.print(f"[bold]{source}[/bold]: spiking network {sizes}", highlight=False)
    out.print(str(agent.report), highlight=False, markup=False, soft_wrap=True)
    for what, path in (("saved to", output), ("page:", report)):
        if path is not None:
            out.print(f"{what} {path}", highlight=False, markup=False)


@app.command()
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
    seed: Annotated[int, typer.Option(help="Seed of the first episode, and of chance.")] = 0,
    as_json: Json = False,
) -> None:
    """Run the original and the spiking agent on the same seeds, side by side."""
    from spikerl import backends
    from spikerl.agent import SpikingAgent
    from spikerl.conversion import convert as to_agent
    from spikerl.metrics import error_unit

    where = backends.get(backend)  # refuse an unknown one before the work begins
    if agent is not None and vecnormalize is not None:
        raise SpikerlError("--vecnormalize is for converting; a saved --agent has its statistics")
    model, make_env, algorithm = _origin(source, env)
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
            _note(warning)
    how = {"original": model, "episodes": episodes, "seed": seed, "sim_steps": sim_steps}
    result = _played(spiking, backend, make_env, as_json, **how)
    if as_json:
        _print_json(result.to_dict())
        return
    names = {"original": algorithm, "spiking": f"{backend}, T={result.sim_steps}"}
    out.print(tables.evaluation(result, names))
    for line in tables.evaluation_lines(result, error_unit(spiking.action_space)):
        out.print(line, highlight=False, soft_wrap=True)


def _origin(source: Path, env: str | None) -> tuple[Any, Any, str]:
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


def _distilled(
    agent: Any,
    source: Path,
    env: str | None,
    vecnormalize: Path | None,
    updates: int,
    seed: int,
    silent: bool,
) -> Any:
    """The agent trained on its source, with a bar of progress and the best figure so far."""
    from spikerl.conversion.distillation import distill

    before = agent.report
    with (
        warnings.catch_warnings(action="ignore"),  # convert() has said it
        _progress("distilling", 100, silent) as progress,
    ):

        def told(share: float, best: float) -> None:
            if progress is not None:
                progress(round(100 * share))

        agent = distill(
            agent,
            source,
            env=env,
            updates=updates,
            seed=seed,
            on_progress=told,
            vecnormalize=vecnormalize,
        )
    if not silent:
        err.print(f"before distillation: {str(before).splitlines()[0]}", highlight=False)
    return agent


def _played(agent: Any, backend: str, make_env: Any, silent: bool, **how: Any) -> Any:
    """Episodes of both policies, with a bar of progress; how: of HardwarePolicy and evaluate()."""
    from spikerl.evaluation import evaluate as run
    from spikerl.hardware import HardwarePolicy

    seed, steps = how["seed"], how.pop("sim_steps", None)
    with (
        HardwarePolicy(agent, backend, seed=seed, sim_steps=steps) as policy,
        _progress("episodes", 2 * how["episodes"], silent) as progress,
    ):
        return run(policy, make_env, progress=progress, **how)


@app.command()
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
            _print_json({**asdict(growth), "growth": growth.growth})
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
        _print_json(result.to_dict())
        return
    out.print(tables.bench(result))
    for note in result.notes:
        out.print(note, highlight=False, markup=False, soft_wrap=True)


@app.command("backends")
def list_backends(as_json: Json = False) -> None:
    """List every back end: usable or what to install, and what it can do."""
    from dataclasses import asdict

    from spikerl import backends

    states = backends.available()
    can = {name: backends.capabilities(name) for name in states}
    if as_json:
        _print_json(
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


def main() -> None:
    """The entry point: notes and errors as single lines on stderr."""
    warnings.showwarning = _show_warning
    try:
        app()
    except SpikerlError as error:
        line = str(error).replace(":\n  - ", ": ").replace("\n  - ", "; ")
        err.print(f"error: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


def _show_warning(message: Any, category: Any, *place: Any, **more: Any) -> None:
    from spikerl.errors import ConversionWarning

    if issubclass(category, ConversionWarning):
        _note(message)
    else:
        _note(message, kind=category.__name__)


def _note(message: Any, kind: str = "note") -> None:
    err.print(f"{kind}: {message}", markup=False, highlight=False, soft_wrap=True)


def _print_json(data: Any) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(entry) for entry in value]
        if isinstance(value, (set, frozenset)):
            return sorted(value)
        if hasattr(value, "item"):
            value = value.item()
        if isinstance(value, float) and not isfinite(value):
            return None  # JSON has no word for it
        return value if isinstance(value, (str, int, float, type(None))) else str(value)

    print(json.dumps(plain(data), allow_nan=False))


@contextmanager
def _progress(what: str, total: int, silent: bool) -> Iterator[Callable[[int], None] | None]:
    if silent:
        yield None
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Spiking neural networks as reinforcement-learning agents."""
    if show:
        print(__version__)
        raise typer.Exit
