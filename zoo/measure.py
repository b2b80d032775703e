"""Convert and run trained agents; writes zoo/results.jsonl and, from it, zoo/results.md.

    python zoo/measure.py AGENT_DIRECTORY...     measure what is not in the file yet
    python zoo/measure.py                        only write the table again

Each directory is one of rl-zoo's (ALGO/ENV_1). Every agent is measured under each of SETTINGS. A
row is stored as soon as it is measured, so a run that is stopped goes on where it was.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import spikerl
from spikerl.conversion.activations import relu
from spikerl.conversion.algorithms import plain_stack
from spikerl.conversion.checkpoints import load_checkpoint
from spikerl.conversion.environments import maker, todays_id
from spikerl.evaluation import evaluate

HERE = Path(__file__).parent
STORE, TABLE = HERE / "results.jsonl", HERE / "results.md"
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
HEAD = """# Measured conversions

Made by `python zoo/measure.py zoo/agents/dqn/CartPole-v1_1 AGENT_DIRECTORY...`; the other
directories are agents of the official DLR-RM/rl-trained-agents collection. Agreement (or action
error in % of the range) is on 2,000 on-policy observations of episodes not used for calibration or
training, with a 95 % interval. Returns are means over the same seeds, both policies deterministic,
back end `cpu`; the difference is spiking less original, seed by seed, with its standard error.
The bundled agent is not among the means. k: neurons per unit of the source; "as needed" is
`convert()`'s default, one for a ReLU and as many ramps for any other activation as its shape takes.
"""


def label(directory: Path) -> str:
    """What a directory is called in the table: ALGO/ENV_1, with zoo/ before the bundled one."""
    bundled = HERE in directory.resolve().parents
    return "/".join((*(["zoo"] if bundled else []), *directory.parts[-2:]))


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row["directory"], row["sim_steps"], row["per_unit"], row["distilled"])


def measured(
    directory: Path, steps: int, per_unit: int | None, distilled: bool, episodes: int
) -> dict[str, Any]:
    checkpoint = load_checkpoint(directory)
    make_env = maker(todays_id(str(checkpoint.env_id)), checkpoint.env_kwargs, checkpoint.wrappers)
    start = time.perf_counter()
    agent = spikerl.convert(directory, env=make_env, sim_steps=steps, neurons_per_unit=per_unit)
    if distilled:
        agent = spikerl.distill(agent, directory, env=make_env)
    seconds = time.perf_counter() - start
    with spikerl.HardwarePolicy(agent, seed=0) as policy:
        result = evaluate(policy, make_env, original=checkpoint.model, episodes=episodes)
    e = agent.report.faithfulness
    scale = 1.0 if agent.report.agreement is None else 100.0
    gain = [s - o for s, o in zip(result.spiking.returns, result.original.returns, strict=True)]
    n = len(gain)
    mean = sum(gain) / n
    spread = (sum((x - mean) ** 2 for x in gain) / (n - 1)) ** 0.5
    sizes = (agent.network.n_in, *(x.n_out for x in agent.network.layers))
    policy = checkpoint.model.policy
    stack = plain_stack(policy, policy.observation_space, policy.action_space, 0.0)
    return {
        "directory": label(directory),
        "agent": f"{checkpoint.details['algorithm']} {result.environment}",
        "activation": "ReLU" if stack.layers[0].activation is relu else "tanh",
        "network": "-".join(map(str, sizes)),
        "sim_steps": steps,
        "per_unit": per_unit,
        "distilled": distilled,
        "continuous": agent.report.agreement is None,
        "quality": [e.value * scale, e.low * scale, e.high * scale],
        "original": [result.original.mean_return.value, result.original.std],
        "spiking": [result.spiking.mean_return.value, result.spiking.std],
        "difference": [mean, spread / n**0.5],
        "episodes": n,
        "synaptic_operations": result.synaptic_operations,
        "seconds": seconds,
        "spikerl": spikerl.__version__,
    }


def stored() -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in STORE.read_text("utf-8").splitlines()]
        if (STORE.exists())
        else []
    )


def target(row: dict[str, Any]) -> float | None:
    both = TARGETS.get((row["sim_steps"], row["per_unit"], row["distilled"]))
    return None if both is None else both[row["activation"]][row["continuous"]]


def line(row: dict[str, Any]) -> str:
    value, low, high = row["quality"]
    unit, digits = ("% error", 2) if row["continuous"] else ("%", 1)
    goal = target(row)
    shown = "" if goal is None else f"{'≤' if row['continuous'] else '≥'} {goal:g}"
    (o, o_std), (s, s_std), (d, d_error) = row["original"], row["spiking"], row["difference"]
    return (
        f"| {row['agent']} | {row['activation']} | {row['network']} | {row['sim_steps']} | "
        f"{row['per_unit'] or 'as needed'} | {'yes' if row['distilled'] else ''} | "
        f"{value:.{digits}f} {unit} [{low:.{digits}f}, {high:.{digits}f}] | {shown} | "
        f"{o:.1f} ± {o_std:.1f} | {s:.1f} ± {s_std:.1f} | {d:+.1f} ± {d_error:.1f} | "
        f"{row['synaptic_operations']:,.0f} | {row['seconds']:.0f} |"
    )


def means(rows: list[dict[str, Any]]) -> list[str]:
    """Means over the official agents, by setting, activation and action, beside their targets."""
    found = [
        "| T | k | distilled | activation | actions | agents | mean | wanted |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for steps, per_unit, distilled in SETTINGS:
        for activation in ("ReLU", "tanh"):
            for continuous in (False, True):
                chosen = [
                    row
                    for row in rows
                    if key(row)[1:] == (steps, per_unit, distilled)
                    and not row["directory"].startswith("zoo/")
                    and (row["activation"], row["continuous"]) == (activation, continuous)
                ]
                if not chosen:
                    continue
                mean = sum(row["quality"][0] for row in chosen) / len(chosen)
                goal = target(chosen[0])
                sign, unit = ("≤", "% error") if continuous else ("≥", "%")
                found.append(
                    f"| {steps} | {per_unit or 'as needed'} | {'yes' if distilled else ''} | "
                    f"{activation} | {'continuous' if continuous else 'choices'} | {len(chosen)} | "
                    f"{mean:.2f} {unit} | {'' if goal is None else f'{sign} {goal:g}'} |"
                )
    return found


def write_table() -> None:
    rows = stored()
    columns = "agent activation network T k distilled agreement|error wanted original spiking "
    columns += "difference synaptic|operations seconds"
    names = [name.replace("|", " ") for name in columns.split()]
    text = [HEAD, "## Means", "", *means(rows), "", "## Every agent", ""]
    text += ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    text += [line(row) for row in rows]
    TABLE.write_text("\n".join(text) + "\n", "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directories", nargs="*", type=Path)
    parser.add_argument("--episodes", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", spikerl.errors.ConversionWarning)
    done = {key(row) for row in stored()}
    for setting in SETTINGS:
        for directory in arguments.directories:
            if (label(directory), *setting) in done:
                continue
            row = measured(directory, *setting, arguments.episodes)
            with STORE.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(line(row), flush=True)
    write_table()
