"""What the command line prints of a result: tables and lines. Imports rich."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from spikerl.energy import nano

if TYPE_CHECKING:
    from spikerl.backends import BackendState
    from spikerl.backends.base import Capabilities
    from spikerl.bench import BenchResult
    from spikerl.energy import Hardware
    from spikerl.evaluation import Evaluation
    from spikerl.testing.soak import Trial


def evaluation(result: Evaluation, names: Mapping[str, str]) -> Table:
    """Both policies' returns side by side; names: what is said of each in brackets."""
    first, last = result.seeds[0], result.seeds[-1]
    table = Table(
        title=f"{result.environment}: {len(result.seeds)} episodes, seeds {first} to {last}"
    )
    for heading in ("policy", "return", "95 % interval", "length", "decisions/s"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for side in (result.original, result.spiking):
        if side is None:
            continue
        e = side.mean_return
        table.add_row(
            f"{side.name} ({names[side.name]})",
            f"{e.value:.1f} ± {side.std:.1f}",
            "" if e.n == 1 else f"{e.low:.1f} to {e.high:.1f}",
            f"{side.mean_length:.0f}",
            f"{side.decisions_per_second:,.0f}",
        )
    return table


def evaluation_lines(result: Evaluation, error_unit: str) -> list[str]:
    """What does not fit into the table; error_unit: what an action error is in per cent of."""
    lines = []
    if (e := result.agreement) is not None:
        shown = f"{e.value:.1%}, 95 % interval {e.low:.1%} to {e.high:.1%}"
        lines.append(f"agreement on the states visited: {shown}")
    if (e := result.action_error) is not None:
        shown = f"{e.value:.2f} % of {error_unit}"
        shown += f", 95 % interval {e.low:.2f} to {e.high:.2f}"
        lines.append(f"action error on the states visited: {shown}")
    if (test := result.paired) is not None:
        shown = f"{test.difference.value:+.1f}, p = {test.p_value:.2g} ({test.method})"
        lines.append(f"return of spiking less original, seed by seed: {shown}")
    rates = ", ".join(f"{rate:.3f}" for rate in result.rates)
    lines.append(f"spikes per neuron and step, by layer: {rates}")
    lines.append(f"synaptic operations per decision: {result.synaptic_operations:,.0f}")
    return lines


def cost_lines(result: Evaluation, places: Iterable[str]) -> list[str]:
    """What a decision costs; places: hardware to estimate its energy on."""
    cost, counted = result.cost, result.cost.operations
    latencies = [
        f"{side.name} {side.latency_ms:.3g} ms (99 % within {side.slow_ms:.3g})"
        for side in (result.original, result.spiking)
        if side is not None
    ]
    lines = [
        f"latency here: {', '.join(latencies)}",
        f"a decision: {counted.spikes:,.0f} spikes, {counted.effective_acs:,.0f} ACs, "
        f"{counted.effective_macs:,.0f} MACs, {counted.dense:,.0f} dense; activation sparsity "
        f"{cost.activation_sparsity:.3f}, connection sparsity {cost.connection_sparsity:.3f}, "
        f"footprint {cost.footprint:,} bytes",
    ]
    for place in places:
        found = cost.on(place)
        line = f"energy on {place}: {found}"
        if found.original is not None:
            line += f"; the original's {cost.original_macs:,} MACs: {nano(found.original)}"
        lines.append(line)
    return lines


def hardware(entries: Iterable[Hardware]) -> Table:
    """Energies of operations in pJ, and whose figures they are."""
    table = Table(title="published energies in pJ", show_lines=True)
    for heading in ("name", "technology", "MAC", "AC", "update", "leak", "spike"):
        table.add_column(heading, justify="left" if heading in ("name", "technology") else "right")
    table.add_column("source", overflow="fold")
    for entry in entries:
        prices = (entry.mac, entry.ac, entry.update, entry.leak, entry.spike)
        shown = ("" if price is None else f"{price:,g}" for price in prices)
        table.add_row(
            entry.name, entry.technology, *shown, f"{entry.source}, {entry.year}: {entry.note}"
        )
    return table


def experiment(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line per cell of an experiment."""
    table = Table()
    left = ("agent", "conversion", "back end")
    headings = (*left, "T", "seed", "return", "original", "agreement", "operations")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right")
    for row in rows:
        place = [row["agent"], row["conversion"], row["backend"], row["sim_steps"], row["seed"]]
        if row["status"] != "done":
            table.add_row(*map(str, place), "failed")
            continue
        if row["agreement"] is not None:
            like = f"{row['agreement']:.1%}"
        else:
            like = f"{row['action_error']:.2f} % error"
        table.add_row(
            *map(str, place),
            f"{row['return']:,.1f}",
            f"{row['original_return']:,.1f}",
            like,
            f"{row['synaptic_operations']:,.0f}",
        )
    return table


def soak(trials: Sequence[Trial]) -> Table:
    """What each trial did, and the figures of its start and end."""
    table = Table()
    headings = ("trial", "times", "MiB", "us per decision", "seen", "held")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in headings[1:4] else "left")
    for trial in trials:
        table.add_row(
            trial.name,
            f"{trial.count:,}",
            *(
                f"{trial.start[name]:,.1f} to {trial.end[name]:,.1f}" if trial.start else ""
                for name in ("MiB", "us")
            ),
            trial.note if trial.count else "",
            "NO" if trial.wrong else ("yes" if trial.count else "not tried"),
        )
    return table


def bench(result: BenchResult) -> Table:
    """Decisions per CPU-second of every contender, and the ratios."""
    table = Table(title="decisions per CPU-second")
    headings = ("net", "T", "batch", "contender", "decisions/s", "x SB3", "x torch loop", "rate")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("net", "contender") else "right")
    last: tuple[Any, ...] | None = None
    for row in result.rows:
        place = (row.net, row.sim_steps, row.batch)
        if last is not None and place != last:
            table.add_section()
        last = place
        table.add_row(
            *(str(part) for part in place),
            row.backend,
            f"{row.decisions_per_cpu_second:,.0f}",
            _ratio(row.ratio_to_sb3),
            _ratio(row.ratio_to_torch_loop),
            "" if row.mean_rate is None else f"{row.mean_rate:.2f}",
        )
    return table


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def backends(states: Mapping[str, BackendState], can: Mapping[str, Capabilities | None]) -> Table:
    """What every back end can do; what it lacks here is said below, where there is room."""
    # 80 columns are all that some terminals have.
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    headings = ("back end", "here", "exact", "reset", "delay", "batches", "keeps\nstate")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for name, state in states.items():
        c = can[name]
        usable = "yes" if state.usable else "no"
        if c is None:
            table.add_row(name, usable)
            continue
        table.add_row(
            name,
            usable,
            c.exactness,
            ", ".join(sorted(c.resets)),
            _delays(c.min_delay_steps, c.max_delay_steps),
            c.batching,
            "yes" if c.keeps_state else "no",
        )
    return table


def _delays(low: int, high: int | None) -> str:
    if high is None:
        return f"≥ {low}" if low else "any"
    return f"{low}" if low == high else f"{low} to {high}"
