"""What each choice of a conversion is worth: one table, one choice changed at a time.

    python compare_settings.py                     the agent of this repository's zoo
    python compare_settings.py AGENT_DIRECTORY     an rl-zoo directory or an SB3 zip

Agreement (or action error) is on held-out observations, with its 95 % interval; the return is the
mean of a few episodes on the same seeds.
"""

import argparse
import warnings
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import spikerl
from spikerl.conversion.checkpoints import load_checkpoint
from spikerl.conversion.environments import maker, todays_id
from spikerl.evaluation import evaluate

ZOO = Path(__file__).resolve().parent.parent / "zoo" / "agents" / "dqn" / "CartPole-v1_1"
CHOICES = {
    "default": [{}],
    "input": [{"encoder": "poisson"}, {"encoder": "equidistant"}],
    "output": [
        {"decoder": "spike_count"},
        {"decoder": "signed_spike_count"},
        {"decoder": "first_spike"},
    ],
    "reset": [{"reset": "zero"}],
    "thresholds": [{"threshold": "model"}, {"threshold": "layer"}, {"percentile": 100}],
    "read-out": [{"readout": "copied"}, {"readout": "fitted"}],
    "delay": [{"delay_steps": 1}],
    "neurons": [{"neurons_per_unit": 4}],
}

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("source", nargs="?", type=Path, default=ZOO)
parser.add_argument("--sim-steps", type=int, default=64)
parser.add_argument("--episodes", type=int, default=3)
parser.add_argument("--n-calibration", type=int, default=4000)
arguments = parser.parse_args()

torch.set_num_threads(1)
warnings.simplefilter("ignore", spikerl.errors.ConversionWarning)
source = arguments.source
usual = {"sim_steps": arguments.sim_steps, "n_calibration": arguments.n_calibration}
checkpoint = load_checkpoint(source)
make_env = maker(todays_id(checkpoint.env_id), checkpoint.env_kwargs, checkpoint.wrappers)

table = Table(title=f"{source.name}, T = {arguments.sim_steps}")
for heading in ("choice", "setting", "agreement or error", "return", "synaptic operations"):
    table.add_column(heading, justify="left" if heading in ("choice", "setting") else "right")
for choice, settings in CHOICES.items():
    for setting in settings:
        shown = ", ".join(f"{name}={value}" for name, value in setting.items())
        try:
            agent = spikerl.convert(source, env=make_env, **usual, **setting)
        except spikerl.errors.ConversionError as error:  # a decoder that these actions rule out
            table.add_row(choice, shown, str(error))
            continue
        with spikerl.HardwarePolicy(agent, seed=0) as policy:
            result = evaluate(
                policy, make_env, original=checkpoint.model, episodes=arguments.episodes
            )
        e = agent.report.faithfulness
        scale, unit = (100, "%") if agent.report.action_error is None else (1, "% error")
        table.add_row(
            choice,
            shown,
            f"{e.value * scale:.1f} {unit} [{e.low * scale:.1f}, {e.high * scale:.1f}]",
            f"{result.spiking.mean_return.value:.1f}",
            f"{result.synaptic_operations:,.0f}",
        )
print(f"original: {result.original.mean_return.value:.1f}")
Console(width=110).print(table)
