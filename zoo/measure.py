"""Convert and run trained agents; writes zoo/results.jsonl and, with the rest, zoo/results.md.

    python zoo/measure.py AGENT_DIRECTORY...     measure what is not in the file yet
    python zoo/measure.py --as-needed AGENT_DIRECTORY...     only as convert() chooses, at T = 16

Each directory is one of rl-zoo's (ALGO/ENV_1). Every agent is measured under each of
results.SETTINGS, one that was trained spiking as it is. A row is stored as soon as it is measured,
so a run that is stopped goes on where it was.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import results
import torch

import spikerl
from spikerl.conversion.activations import relu
from spikerl.conversion.algorithms import plain_stack
from spikerl.conversion.checkpoints import load_checkpoint
from spikerl.conversion.environments import maker, todays_id
from spikerl.evaluation import evaluate

HERE = Path(__file__).parent
STORE = HERE / "results.jsonl"
ENERGIES = "cmos45-float32"  # where the original has a price too


def label(directory: Path) -> str:
    """What a directory is called in the table: ALGO/ENV_1, with zoo/ before the bundled one."""
    bundled = HERE in directory.resolve().parents
    return "/".join((*(["zoo"] if bundled else []), *directory.parts[-2:]))


def measured(
    directory: Path, steps: int, per_unit: int | None, distilled: bool, episodes: int
) -> dict[str, Any]:
    checkpoint = load_checkpoint(directory)
    make_env = maker(todays_id(str(checkpoint.env_id)), checkpoint.env_kwargs, checkpoint.wrappers)
    start = time.perf_counter()
    how = {} if spikes(checkpoint) else {"sim_steps": steps, "neurons_per_unit": per_unit}
    agent = spikerl.convert(directory, env=make_env, **how)
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
    energy, earned = result.cost.on(ENERGIES), result.spiking.mean_return
    return {
        "directory": label(directory),
        "agent": f"{checkpoint.details['algorithm']} {result.environment}",
        "activation": activation(checkpoint),
        "network": "-".join(map(str, sizes)),
        "sim_steps": agent.sim_steps,
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
        "benchmark": {
            "n_timesteps": checkpoint.model.num_timesteps,
            "eval_timesteps": round(result.original.mean_length * n),
            "backend": result.backend,
            "return": [earned.value, earned.low, earned.high],
            "energy_nj": energy.value,
            "original_nj": energy.original,
            "latency_ms": result.spiking.latency_ms,
            "original_latency_ms": result.original.latency_ms,
        },
        "spikerl": spikerl.__version__,
    }


def stack_of(checkpoint: Any) -> Any:
    policy = checkpoint.model.policy
    return plain_stack(policy, policy.observation_space, policy.action_space, 0.0)


def spikes(checkpoint: Any) -> bool:
    """Whether it was trained spiking."""
    return stack_of(checkpoint).layers[-1].spikes is not None


def activation(checkpoint: Any) -> str:
    if spikes(checkpoint):
        return "spikes"
    return "ReLU" if stack_of(checkpoint).layers[0].activation is relu else "tanh"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directories", nargs="*", type=Path)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--as-needed", action="store_true", help="only the first setting")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", spikerl.errors.ConversionWarning)
    settings = results.SETTINGS[:1] if arguments.as_needed else results.SETTINGS
    for setting in settings:
        for directory in arguments.directories:
            kept = [
                row for row in results.stored(STORE.name) if row["directory"] == label(directory)
            ]
            trained = any(row["activation"] == "spikes" for row in kept)
            if trained or setting in map(results.setting, kept):
                continue
            row = measured(directory, *setting, arguments.episodes)
            with STORE.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    results.write()
