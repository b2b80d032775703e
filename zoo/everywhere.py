"""One trained agent on every back end this interpreter has; writes zoo/everywhere.jsonl.

    python zoo/everywhere.py [NAME...]      run on these back ends, or on all that are usable

The agent is converted for each back end by its rules (target=) and acts for a few episodes. Rows
are kept, the newest of each back end: simulators that do not fit into one environment are run from
several. zoo/results.md is written anew.
"""

import argparse
import json
import warnings
from importlib.metadata import version
from pathlib import Path

import results
import torch

import spikerl
from spikerl import backends
from spikerl.conversion.checkpoints import load_checkpoint
from spikerl.conversion.environments import maker
from spikerl.errors import SpikerlError
from spikerl.evaluation import evaluate

HERE = Path(__file__).parent
STORE = HERE / "everywhere.jsonl"
AGENT = HERE / "agents" / "dqn" / "CartPole-v1_1"
STEPS, EPISODES = 64, 3


def played(name: str) -> dict[str, object]:
    checkpoint = load_checkpoint(AGENT)
    make_env = maker("CartPole-v1", {}, ())
    for per_unit in (2, 1):
        agent = spikerl.convert(
            AGENT,
            env=make_env,
            sim_steps=STEPS,
            target=name,
            neurons_per_unit=per_unit,
            n_calibration=3000,
        )
        if not backends.get(name).problems(agent.network):
            break
    with spikerl.HardwarePolicy(agent, name, seed=0) as policy:
        result = evaluate(policy, make_env, original=checkpoint.model, episodes=EPISODES)
    rules = backends.rules(name)
    return {
        "backend": name,
        "per_unit": per_unit,
        "reset": rules["reset"],
        "delay": rules["delay_steps"],
        "agreement": [result.agreement.value, result.agreement.low, result.agreement.high],
        "network": agent.report.agreement.value,
        "return": result.spiking.mean_return.value,
        "speed": result.spiking.decisions_per_second,
        "spikerl": version("spikerl"),
    }


def stored() -> dict[str, dict]:
    return {row["backend"]: row for row in results.stored(STORE.name)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    usable = [name for name, state in backends.available().items() if state.usable]
    for name in arguments.names or usable:
        try:
            rows = stored() | {name: played(name)}
        except SpikerlError as error:
            print(f"{name}: {error}")
            continue
        STORE.write_text("".join(json.dumps(row) + "\n" for row in rows.values()), "utf-8")
        print(rows[name], flush=True)
    results.write()
