"""The report of a conversion as one HTML page that needs nothing but a browser.

Imports agent, energy, evaluation, metrics and plots; late: jinja2, matplotlib (extra `plots`).
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterator, Mapping
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any

from spikerl import plots
from spikerl.agent import SpikingAgent
from spikerl.energy import nano
from spikerl.errors import SpikerlError
from spikerl.evaluation import Evaluation, Side
from spikerl.metrics import error_unit
from spikerl.report import ConversionReport
from spikerl.statistics import Estimate

NOTHING = "\u2013"  # stands where there is no number


def write_page(
    agent: SpikingAgent, evaluation: Evaluation | None, path: str | os.PathLike[str]
) -> None:
    """Write the page of a converted agent: its report, episodes if there are any, and settings.

    Raises SpikerlError for an agent without a report, where the extra `plots` is not installed, or
    where the file cannot be written.
    """
    write_text(make_page(agent, evaluation), path)


def make_page(agent: SpikingAgent, evaluation: Evaluation | None) -> str:
    """The page as text; see write_page()."""
    report = agent.report
    if report is None:
        raise SpikerlError("this agent has no report; a page is of one made by spikerl.convert()")
    source = agent.provenance.get("source")
    details = source if isinstance(source, Mapping) else {}
    algorithm = details.get("algorithm") or details.get("policy") or details.get("module")
    environment = agent.provenance.get("environment")
    if evaluation is not None:
        environment = evaluation.environment
    sizes = (agent.network.n_in, *(layer.n_out for layer in agent.network.neuron_layers))
    return rendered(
        "page.html",
        title=" ".join(str(part) for part in (algorithm, environment) if part) or "Spiking agent",
        subtitle=f"A spiking network of {'-'.join(map(str, sizes))} neurons, "
        f"{agent.sim_steps} steps per decision.",
        cards=list(_cards(agent, report, evaluation)),
        warnings=report.warnings,
        plots=list(_plots(agent, report, evaluation)),
        sides=[] if evaluation is None else list(_sides(evaluation)),
        verdicts=[] if evaluation is None else list(_verdicts(agent, evaluation)),
        layers=list(_layers(report, evaluation)),
        costs=[] if evaluation is None else list(_costs(evaluation)),
        counted="" if evaluation is None else _counted(evaluation),
        settings=list(_settings(agent, report, evaluation)),
    )


def rendered(template: str, **values: Any) -> str:
    """A page from one of the package's templates; raises SpikerlError as check_installed()."""
    check_installed()
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    loader = FunctionLoader(lambda name: files("spikerl").joinpath(name).read_text("utf-8"))
    engine = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return engine.get_template(template).render(**values)


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write a page; raises SpikerlError where the file cannot be written."""
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpikerlError(f"{os.fspath(path)} cannot be written: {error.strerror}") from None


def check_installed() -> None:
    """Raises SpikerlError where what a page needs is missing."""
    plots.check_installed()
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise SpikerlError(
            "a page needs jinja2; install it: pip install 'spikerl[plots]'"
        ) from None


def _cards(
    agent: SpikingAgent, report: ConversionReport, evaluation: Evaluation | None
) -> Iterator[dict[str, str]]:
    held_out = f"{report.held_out:,} held-out observations"
    yield {
        "name": "Action error" if report.agreement is None else "Agreement",
        "value": _faithful(report.faithfulness, report.agreement is None),
        "note": f"{_interval(report.faithfulness, 1 if report.agreement is None else 100)} %; "
        + held_out,
    }
    if report.value_error is not None:
        yield {
            "name": "Value error",
            "value": f"{report.value_error:.3g}",
            "note": "mean, over the standard deviation of the source's values",
        }
    enough = report.steps_needed
    yield {
        "name": f"Steps for {_aim(report)}",
        "value": f"T > {max(report.by_steps)}" if enough is None else f"T = {enough}",
        "note": "more were not tried" if enough is None else "the fewest of those tried",
    }
    if evaluation is None:
        return
    before = evaluation.original
    yield {
        "name": f"Return on {evaluation.backend}",
        "value": f"{evaluation.spiking.mean_return.value:,.1f}",
        "note": "" if before is None else f"original: {before.mean_return.value:,.1f}",
    }
    if evaluation.paired is not None:
        test = evaluation.paired
        yield {
            "name": "Difference, seed by seed",
            "value": f"{test.difference.value:+,.1f}",
            "note": f"{_interval(test.difference)}; p = {test.p_value:.2g}",
        }
    yield {
        "name": "Synaptic operations",
        "value": f"{evaluation.synaptic_operations:,.0f}",
        "note": "additions of a weight per decision, without those of the input",
    }


def _costs(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    for found in evaluation.cost.energy:
        original = NOTHING if found.original is None else nano(found.original)
        source = f"{found.source} ({found.year})"
        missing = ", ".join(found.left_out) or NOTHING
        yield found.hardware, nano(found.value), original, missing, source


def _counted(evaluation: Evaluation) -> str:
    cost, counted = evaluation.cost, evaluation.cost.operations
    macs = "" if cost.original_macs is None else f" The original: {cost.original_macs:,} MACs."
    return (
        f"A decision takes {counted.spikes:,.0f} spikes, {counted.effective_acs:,.0f} accumulates "
        f"and {counted.effective_macs:,.0f} multiply-accumulates of the input, of "
        f"{counted.dense:,.0f} synaptic operations if all were active.{macs} Activation sparsity "
        f"{cost.activation_sparsity:.3f}, connection sparsity {cost.connection_sparsity:.3f}, "
        f"footprint {cost.footprint:,} bytes; median latency here "
        f"{evaluation.spiking.latency_ms:.3g} ms."
    )


def _plots(
    agent: SpikingAgent, report: ConversionReport, evaluation: Evaluation | None
) -> Iterator[dict[str, str]]:
    continuous = report.agreement is None
    what = "Action error" if continuous else "Agreement"
    unit = f" in % of {error_unit(agent.action_space)}" if continuous else ""
    yield plot_entry(
        f"{what} by steps",
        plots.by_steps(report),
        f"{what}{unit} on observations it was not calibrated on, with 95 % intervals "
        f"({report.faithfulness.method}). The network was converted for T = {report.sim_steps}; "
        f"more steps were tried until they gave {_aim(report)}, up to T = {max(report.by_steps)}.",
    )
    if report.gaps is not None:
        share = 0.0 if report.coarse is None else report.coarse
        yield plot_entry(
            "Action gaps and resolution",
            plots.gaps(report.gaps),
            "How far apart the source's two best actions are. The resolution is the mean error of "
            f"the spiking network in such a gap; {_percent(share)} of the observations have a "
            "smaller one.",
        )
    if evaluation is not None:
        yield plot_entry(
            "Returns",
            plots.returns(evaluation),
            "Dots are episodes, lines join those of one seed, diamonds are means with 95 % "
            "bootstrap intervals.",
        )
    if report.layers:
        yield plot_entry(
            "Firing rates",
            plots.rates(report, evaluation),
            "Spikes per neuron and step of each layer; at most 1.",
        )


def plot_entry(title: str, svg: str, note: str) -> dict[str, str]:
    """A plot as a template takes it."""
    # As an image: styles and names inside one plot cannot reach another, or the page.
    source = "data:image/svg+xml;base64," + b64encode(svg.encode()).decode()
    return {"title": title, "source": source, "note": note, "alt": f"Plot: {title}"}


def _sides(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    for side in (evaluation.original, evaluation.spiking):
        if side is not None:
            yield (
                _name(side, evaluation),
                f"{side.mean_return.value:,.1f}",
                _interval(side.mean_return),
                f"{side.std:,.1f}",
                f"{side.mean_length:,.0f}",
                f"{side.decisions_per_second:,.0f}",
            )


def _name(side: Side, evaluation: Evaluation) -> str:
    if side.name == "original":
        return side.name
    return f"{side.name} ({evaluation.backend}, T = {evaluation.sim_steps})"


def _verdicts(agent: SpikingAgent, evaluation: Evaluation) -> Iterator[str]:
    seeds = evaluation.seeds
    yield f"{len(seeds)} episodes each, seeds {seeds[0]} to {seeds[-1]}, acting deterministically."
    if evaluation.paired is not None:
        test = evaluation.paired
        yield (
            f"Spiking less original, seed by seed: {test.difference.value:+,.2f}, 95 % interval "
            f"{_interval(test.difference, digits=2)}; p = {test.p_value:.3g} ({test.method})."
        )
    if evaluation.agreement is not None:
        e = evaluation.agreement
        yield (
            f"Agreement on the states visited: {_percent(e.value)}, 95 % interval "
            f"{_interval(e, 100)} %."
        )
    if evaluation.action_error is not None:
        e = evaluation.action_error
        yield (
            f"Action error on the states visited: {e.value:.2f} % of "
            f"{error_unit(agent.action_space)}, 95 % interval {_interval(e, digits=2)} %."
        )


def _layers(report: ConversionReport, evaluation: Evaluation | None) -> Iterator[tuple[str, ...]]:
    acting = () if evaluation is None else evaluation.rates
    for i, layer in enumerate(report.layers):
        yield (
            layer.name,
            f"{layer.neurons:,}",
            f"{layer.rate:.3f}",
            f"{acting[i]:.3f}" if i < len(acting) else NOTHING,
            f"{layer.saturated:,}",
            f"{layer.silent:,}",
        )


def _settings(
    agent: SpikingAgent, report: ConversionReport, evaluation: Evaluation | None
) -> Iterator[tuple[str, str]]:
    yield from _flat(agent.provenance)
    held_out = f"{report.held_out:,}"
    yield "held out", held_out + (f", of {report.episodes:,} episodes" if report.episodes else "")
    yield "encoder", type(agent.encoder).__name__
    yield "decoder", f"{type(agent.decoder.read).__name__}, {type(agent.decoder.head).__name__}"
    yield "observation space", str(agent.observation_space)
    yield "action space", str(agent.action_space)
    if evaluation is not None:
        yield "back end of the episodes", evaluation.backend
    yield "SHA-256 of the network", agent.network.fingerprint()


def _flat(data: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}: ")
        elif value is not None:
            yield f"{before}{name}".replace("_", " "), str(value)


def _aim(report: ConversionReport) -> str:
    if report.agreement is None:
        return f"an action error of {report.target:g} %"
    return f"{100 * report.target:g} % agreement"


def _faithful(estimate: Estimate, continuous: bool) -> str:
    return f"{estimate.value:.2f} %" if continuous else _percent(estimate.value)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(estimate: Estimate, scale: float = 1.0, digits: int = 1) -> str:
    if not (isfinite(estimate.low) and isfinite(estimate.high)):
        return NOTHING  # one value has no interval
    return f"{estimate.low * scale:,.{digits}f} to {estimate.high * scale:,.{digits}f}"
