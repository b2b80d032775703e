"""Write zoo/results.md from the files of measured rows beside it.

    python zoo/results.py

measure.py, everywhere.py, trained.py, training_speed.py and `spikerl soak --json` measure; each
keeps its rows in a file of its own, and nothing here is written by hand but the headings.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from spikerl.energy import nano
from spikerl.statistics import over_runs

HERE = Path(__file__).parent
PAGE = HERE / "results.md"
Row = dict[str, Any]
# T, neurons per unit (None: as convert() chooses), distilled
SETTINGS = [(16, None, False), (64, None, False), (16, 8, False), (64, 8, False), (8, 1, True)]
SETTINGS += [(16, 1, True)]
# what is aimed at: agreement in %, error in % of the range; by activation of the source
TARGETS = {
    (16, 8, False): {"ReLU": (95.0, 1.0), "tanh": (99.5, 0.3)},
    (64, 8, False): {"ReLU": (99.0, 0.3), "tanh": (99.5, 0.3)},
    (8, 1, True): {"ReLU": (98.0, None), "tanh": (98.0, None)},
    (16, 1, True): {"ReLU": (99.0, 0.5), "tanh": (99.0, 0.5)},
}
HEAD = """# Measured

Written by `python zoo/results.py` from the rows stored beside it. zoo/ marks the agents bundled
here; the others are of the official DLR-RM/rl-trained-agents collection. Intervals are 95 %. Times
are of a shared machine with two cores: compare them within a table only.
"""
BENCHMARK = """
## Agents and their originals

`python zoo/measure.py DIRECTORY...`. The first seven columns are rl-zoo's benchmark, of the
original policy; then the spiking agent on the same seeds, on the back end `cpu`: agreement with
the original, or the action error in % of the range, on held-out observations. Energies are
estimates (cmos45-float32, Horowitz 2014), the original's multiplications in brackets. Latency is
the median of predict() in one process. An agent that was trained spiking is its own original.
"""
CONVERSIONS = """
## Conversions

Agreement, or the action error in % of the range, on 2,000 on-policy observations of episodes not
used for calibration or training. k: neurons per unit of the source; "as needed" is `convert()`'s
default, one for a ReLU and as many ramps for any other activation as its shape takes. Returns are
over the same 50 seeds, ± the standard deviation; the difference is spiking less original, seed by
seed, ± its standard error. The bundled agents are not among the means.
"""
TRAINED = """
## Trained by rl-zoo3

    python -m rl_zoo3.train --algo ALGO --env ENV --conf-file zoo/ALGO.yml --gym-packages spikerl

and without the last two options for the ordinary network, with rl-zoo3's own settings and the same
number of time steps; `python zoo/trained.py ALGO ENV --steps N` runs both. Where rl-zoo3 has no
settings, as for MuJoCo's v5, the ordinary network has those of zoo/ALGO.yml with another policy.
proxy_td3 is TD3 with a proxy target, by `zoo/train.py`. What a line changes of the settings is
named in it. Returns are of 30 deterministic episodes of the last model of each run, on seeds not
trained on: the mean of each run, and the interquartile mean over all episodes (bootstrap over runs
and episodes).
"""
EVERYWHERE = """
## One agent on every back end

`python zoo/everywhere.py`: the bundled DQN of CartPole-v1 (4-64-64-2, ReLU), converted with
`target=` the back end, T = 64, two neurons per unit (k; one where two do not fit), and played for 3
episodes. Agreement is with the original on the states the spiking agent visited; the second one
is what the reference makes of the converted network on held-out observations: where the first is
lower, the device's own rules or the states met are the reason. Decisions per second are of the
whole loop.
"""
SPEED = """
## Speed of training and acting

`python zoo/training_speed.py` on two free vCPUs, one thread, torch 2.13.0 on the CPU, beside
spikingjelly 2.0.0, snntorch 1.0.0 and norse 1.1.0 in one interleaved run: CPU milliseconds of one
forward and backward pass ("train"), and of one decision without gradients ("act"; ours in float64,
as the deployed network decides). "Products" are the matrix products of a pass alone, in float32,
the floor of any method that multiplies. On CUDA nothing was measured, for want of a GPU;
`--device cuda` does it.

What is aimed at is reached on a machine with AVX2 alone. On a faster one, with AVX-512, it is
missed where memory is the limit: training 64-64 at batch 256 moves a megabyte per array of all
steps through the second-level cache, acting 256-256 at batch 8 looks at all weights, which may have
changed, and adds rows of them in float64.
"""
SOAK = """
## Soak

`spikerl soak --json`: memory, and the median time of a decision, of the first tenth and the last
tenth of a run, and what held. The other core of the machine was training meanwhile.
`nest:pp_psc_delta` is built anew for every decision, which adds 1.3 kB and takes 70 ms: it was not
run 100,000 times.
"""


def stored(name: str) -> list[Row]:
    """The rows of a file beside this one."""
    path = HERE / name
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]


def table(columns: str, rows: list[list[str]]) -> str:
    """Markdown; columns: headings, separated by commas."""
    names = columns.split(", ")
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)]) + "\n"


def setting(row: Row) -> tuple[Any, ...]:
    return (row["sim_steps"], row["per_unit"], row["distilled"])


def target(row: Row) -> float | None:
    both = TARGETS.get(setting(row))
    return None if both is None else both[row["activation"]][row["continuous"]]


def quality(row: Row) -> str:
    value, low, high = row["quality"]
    unit, digits = ("% error", 2) if row["continuous"] else ("%", 1)
    return f"{value:.{digits}f} {unit} [{low:.{digits}f}, {high:.{digits}f}]"


def per_unit(row: Row) -> str:
    return str(row["per_unit"] or "as needed")


def benchmark(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        if "benchmark" not in row:
            continue
        more = row["benchmark"]
        algo, env = row["agent"].split()
        _, low, high = more["return"]
        lines.append(
            [
                f"zoo/{algo}" if row["directory"].startswith("zoo/") else algo,
                env,
                *(f"{value:.3f}" for value in row["original"]),
                f"{more['n_timesteps']:,}",
                f"{more['eval_timesteps']:,}",
                str(row["episodes"]),
                more["backend"],
                str(row["sim_steps"]),
                "trained" if row["activation"] == "spikes" else quality(row),
                f"{row['spiking'][0]:.1f} [{low:.1f}, {high:.1f}]",
                f"{row['synaptic_operations']:,.0f}",
                nano(more["energy_nj"])
                + (f" ({nano(more['original_nj'])})" if more["original_nj"] else ""),
                f"{more['latency_ms']:.2f} ({more['original_latency_ms']:.2f})",
            ]
        )
    columns = "algo, env_id, mean_reward, std_reward, n_timesteps, eval_timesteps, eval_episodes, "
    columns += "back end, T, agreement or error, spiking return, synaptic operations, "
    columns += "energy (original), latency in ms (original)"
    return table(columns, lines)


def means(rows: list[Row]) -> str:
    """Means over the official agents, by setting, activation and action, beside their targets."""
    lines = []
    for steps, units, distilled in SETTINGS:
        for activation in ("ReLU", "tanh"):
            for continuous in (False, True):
                chosen = [
                    row
                    for row in rows
                    if setting(row) == (steps, units, distilled)
                    and not row["directory"].startswith("zoo/")
                    and (row["activation"], row["continuous"]) == (activation, continuous)
                ]
                if not chosen:
                    continue
                goal = target(chosen[0])
                sign, unit = ("≤", "% error") if continuous else ("≥", "%")
                lines.append(
                    [
                        str(steps),
                        per_unit(chosen[0]),
                        "yes" if distilled else "",
                        activation,
                        "continuous" if continuous else "choices",
                        str(len(chosen)),
                        f"{np.mean([row['quality'][0] for row in chosen]):.2f} {unit}",
                        "" if goal is None else f"{sign} {goal:g}",
                    ]
                )
    return table("T, k, distilled, activation, actions, agents, mean, wanted", lines)


def conversions(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        if row["activation"] == "spikes":
            continue
        goal = target(row)
        (o, o_std), (s, s_std), (d, d_error) = row["original"], row["spiking"], row["difference"]
        lines.append(
            [
                ("zoo/" if row["directory"].startswith("zoo/") else "") + row["agent"],
                row["activation"],
                row["network"],
                str(row["sim_steps"]),
                per_unit(row),
                "yes" if row["distilled"] else "",
                quality(row),
                "" if goal is None else f"{'≤' if row['continuous'] else '≥'} {goal:g}",
                f"{o:.1f} ± {o_std:.1f}",
                f"{s:.1f} ± {s_std:.1f}",
                f"{d:+.1f} ± {d_error:.1f}",
                f"{row['synaptic_operations']:,.0f}",
                f"{row['seconds']:.0f}",
            ]
        )
    columns = "agent, activation, network, T, k, distilled, agreement or error, wanted, original, "
    return table(columns + "spiking, difference, synaptic operations, seconds", lines)


def trained(rows: list[Row]) -> str:
    """A line per algorithm, environment, budget and kind of network."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        key = [row[name] for name in ("algo", "env", "n", "network", "changes")]
        groups.setdefault(json.dumps(key), []).append(row)
    lines = []
    for key, found in sorted(groups.items()):
        algo, env, n, network, changes = json.loads(key)
        found.sort(key=lambda row: row["seed"])
        runs = [row["returns"] for row in found]
        over = over_runs(runs)
        lines.append(
            [
                algo,
                env,
                f"{n:,}",
                ", ".join([network, *(f"`{change}`" for change in changes)]),
                ", ".join(f"{row['seed']}{'' if 'versions' in row else '*'}" for row in found),
                ", ".join(f"{np.mean(run):.1f}" for run in runs),
                f"{over.value:.1f} [{over.low:.1f}, {over.high:.1f}]",
                f"{np.mean([row['seconds'] for row in found]) / 60:.1f}",
            ]
        )
    headings = "algo, env_id, steps, network, seeds, mean of each run, IQM, minutes"
    return table(headings, lines) + "\n" + versions(rows) + "\n" + untried(rows)


def untried(rows: list[Row]) -> str:
    """The entries of zoo/*.yml that no run was made with."""
    run = {(row["algo"], row["env"]) for row in rows if row["network"] == "spiking"}
    left = []
    for path in sorted(HERE.glob("*.yml")):
        names = yaml.safe_load(path.read_text("utf-8"))
        without = [env for env in names if (path.stem, env) not in run]
        left += [f"{path.name} ({', '.join(without)})"] if without else []
    return f"Settings that nothing was trained with here: {'; '.join(left)}.\n"


def versions(rows: list[Row]) -> str:
    """What the runs were made with, by the rows that say it."""
    said = [row["versions"] for row in rows if "versions" in row]
    names = sorted({name for row in said for name in row})
    found = [f"{name} {', '.join(sorted({r[name] for r in said if name in r}))}" for name in names]
    older = f"{len(rows) - len(said)} older runs, marked *, do not say theirs"
    return f"Versions: {'; '.join(found)}. {older}.\n"


def everywhere(rows: list[Row]) -> str:
    lines = []
    for row in sorted(rows, key=lambda row: row["backend"]):
        value, low, high = (100 * x for x in row["agreement"])
        lines.append(
            [
                f"`{row['backend']}`",
                str(row["per_unit"]),
                row["reset"],
                str(row["delay"]),
                f"{value:.1f} % [{low:.1f}, {high:.1f}]",
                f"{100 * row['network']:.1f} %",
                f"{row['return']:.1f}",
                f"{row['speed']:,.0f}",
            ]
        )
    columns = "back end, k, reset, delay, agreement as it acts, of its network, return, decisions/s"
    return table(columns, lines)


def speed(rows: list[Row]) -> str:
    aims = {("train", 64): "≥ 3", ("train", 256): "≥ 1.5", ("act", 64): "≥ 5", ("act", 256): "≥ 5"}
    lines = []
    for row in rows:
        ms, products = dict(row["ms"]), row["products"]
        ours = ms.pop("spikerl")
        cells = [f"{value:.2f}" for value in (ours, products, *ms.values())]
        size = f"{row['hidden']}-{row['hidden']}"
        place = [row["cpu"], row["what"], size, str(row["batch"]), str(row["T"])]
        wanted = aims[row["what"], row["hidden"]] if row["T"] == 16 else ""
        lines.append([*place, *cells, f"{min(ms.values()) / ours:.1f}", wanted])
    others = ", ".join(name for name in rows[0]["ms"] if name != "spikerl")
    columns = f"cpu, what, hidden, batch, T, spikerl, products, {others}, fastest other / spikerl"
    return table(f"{columns}, wanted", lines)


def soak(trials: list[Row]) -> str:
    lines = []
    for trial in trials:
        start, end = trial["start"], trial["end"]
        figures = [f"{start[x]:,.1f} to {end[x]:,.1f}" if start else "" for x in ("MiB", "us")]
        held = "**no**" if trial["wrong"] else "yes" if trial["count"] else "not tried"
        seen = "; ".join(part for part in (trial["note"], trial["wrong"]) if part)
        lines.append([trial["name"], f"{trial['count']:,}", *figures, seen, held])
    return table("trial, times, MiB, µs per decision, seen, held", lines)


def write() -> None:
    """The page, anew."""
    rows = stored("results.jsonl")
    text = HEAD + BENCHMARK + "\n" + benchmark(rows)
    text += CONVERSIONS + "\n### Means\n\n" + means(rows) + "\n### Each\n\n" + conversions(rows)
    text += TRAINED + "\n" + trained(stored("trained.jsonl"))
    text += EVERYWHERE + "\n" + everywhere(stored("everywhere.jsonl"))
    text += SPEED + "\n" + speed(stored("speed.jsonl"))
    text += SOAK + "\n" + soak(stored("soak.jsonl"))
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    write()
