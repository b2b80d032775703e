"""spikerl convert: a trained agent becomes a spiking one, saved and reported on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from spikerl.cli.console import (
    EnvId,
    Json,
    Seed,
    Source,
    VecNormalizeFile,
    err,
    out,
    print_json,
    progress_bar,
)
from spikerl.cli.evaluate import origin, played


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
            model, make_env, _ = origin(source, env)
        result = None
        if make_env is not None:
            how = {"original": model, "episodes": episodes, "seed": seed}
            result = played(agent, "cpu", make_env, as_json, **how)
        write_page(agent, result, report)
    assert agent.report is not None  # convert() always measures
    if as_json:
        print_json({**agent.report.to_dict(), "saved": output, "page": report})
        return
    sizes = "-".join(str(n) for n in (agent.network.n_in, *(x.n_out for x in agent.network.layers)))
    out.print(f"[bold]{source}[/bold]: spiking network {sizes}", highlight=False)
    out.print(str(agent.report), highlight=False, markup=False, soft_wrap=True)
    for what, path in (("saved to", output), ("page:", report)):
        if path is not None:
            out.print(f"{what} {path}", highlight=False, markup=False)


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
        progress_bar("distilling", 100, silent) as progress,
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
