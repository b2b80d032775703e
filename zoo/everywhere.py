"""One trained agent on every back end this interpreter has; writes zoo/everywhere.md.

    python zoo/everywhere.py [NAME...]      run on these back ends, or on all that are usable
    python zoo/everywhere.py --table        only write the table again

The agent is converted for each back end by its rules (target=) and acts for a few episodes. Rows
are kept in zoo/everywhere.jsonl, the newest of each back end: simulators that do not fit into one
environment are run from several.
"""

import argparse
import json
import warnings
from importlib.metadata import version
from pathlib import Path

import torch

import spikerl
from spikerl import backends
from spikerl.conversion.checkpoints import load_checkpoint
from spikerl.conversion.environments import maker
from spikerl.errors import SpikerlError
from spikerl.evaluation import evaluate

HERE = Path(__file__).parent
STORE, TABLE = HERE / "everywhere.jsonl", HERE / "everywhere.md"
AGENT = HERE / "agents" / "dqn" / "CartPole-v1_1"
HEAD = """# One agent on every back end

Made by `python zoo/everywhere.py`: the bundled DQN of CartPole-v1 (4-64-64-2, ReLU), converted with
`target=` the back end, T = {steps}, two neurons per unit (k; one where two do not fit), and played
for {episodes} episodes. Agreement is with the original on the states the spiking agent visited; the
second one is what the reference makes of the converted network on held-out observations: where
the first is lower, the device's own rules or the states met are the reason. Decisions per second
are of the whole loop on a shared machine.

| back end | k | reset | delay | agreement, as it acts | of its network | return | decisions/s |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
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
    lines = STORE.read_text("utf-8").splitlines() if STORE.exists() else []
    return {row["backend"]: row for row in map(json.loads, lines)}


def write_table() -> None:
    text = HEAD.format(steps=STEPS, episodes=EPISODES)
    for name, row in sorted(stored().items()):
        value, low, high = (100 * x for x in row["agreement"])
        text += (
            f"| `{name}` | {row.get('per_unit', 2)} | {row['reset']} | {row['delay']} "
            f"| {value:.1f} % [{low:.1f}, {high:.1f}] "
            f"| {100 * row['network']:.1f} % | {row['return']:.1f} | {row['speed']:,.0f} |\n"
        )
    TABLE.write_text(text, "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    usable = [name for name, state in backends.available().items() if state.usable]
    for name in [] if arguments.table else arguments.names or usable:
        try:
            rows = stored() | {name: played(name)}
        except SpikerlError as error:
            print(f"{name}: {error}")
            continue
        STORE.write_text("".join(json.dumps(row) + "\n" for row in rows.values()), "utf-8")
        print(rows[name], flush=True)
    write_table()
