"""Convert and run trained agents, and print a Markdown table: the source of zoo/results.md.

Usage: python zoo/measure.py AGENT_DIRECTORY... [--episodes 20]
Each directory is one of rl-zoo's (ALGO/ENV_1). Returns are means over episodes, seeds 0, 1, ...;
both policies deterministic; agreement (or action error) is on 2,000 held-out observations.
"""

import argparse
import warnings
from pathlib import Path

import torch

import spikerl
from spikerl.conversion.checkpoints import load_checkpoint
from spikerl.conversion.environments import maker, todays_id
from spikerl.evaluation import evaluate

STEPS = (16, 64, 100)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("directories", nargs="+", type=Path)
parser.add_argument("--episodes", type=int, default=20)
arguments = parser.parse_args()
torch.set_num_threads(1)

print("| agent | network | T | agreement or error [95 %] | return, original | return, spiking |")
print("| --- | --- | --- | --- | --- | --- |")
for directory in arguments.directories:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", spikerl.errors.ConversionWarning)
        checkpoint = load_checkpoint(directory)
        make_env = maker(
            todays_id(str(checkpoint.env_id)), checkpoint.env_kwargs, checkpoint.wrappers
        )
    for steps in STEPS:
        agent = spikerl.convert(directory, env=make_env, sim_steps=steps)
        with spikerl.HardwarePolicy(agent, seed=0) as policy:
            result = evaluate(
                policy, make_env, original=checkpoint.model, episodes=arguments.episodes
            )
        report = agent.report
        scale, unit = (100, "%") if report.action_error is None else (1, "% error")
        e = report.faithfulness
        quality = f"{e.value * scale:.1f} {unit} [{e.low * scale:.1f}, {e.high * scale:.1f}]"
        sizes = "-".join(
            str(n) for n in (agent.network.n_in, *(x.n_out for x in agent.network.layers))
        )
        name = f"{checkpoint.details['algorithm']} {result.environment}"
        theirs, ours = result.original, result.spiking
        print(
            f"| {name} | {sizes} | {steps} | {quality} | "
            f"{theirs.mean_return.value:.1f} ± {theirs.std:.1f} | "
            f"{ours.mean_return.value:.1f} ± {ours.std:.1f} |",
            flush=True,
        )
