"""Write zoo/trained.md from zoo/trained.jsonl: agents trained by rl-zoo3, spiking and not.

    python zoo/trained.py

A line of the file is one training run: algo, env, seed, spiking, n (time steps), seconds, and the
returns of 30 deterministic episodes of its last model, on seeds it was not trained on.
"""

import json
from pathlib import Path

import numpy as np

from spikerl.statistics import over_runs

HERE = Path(__file__).parent
HEAD = """# Agents trained by rl-zoo3

    python -m rl_zoo3.train --algo ALGO --env ENV --conf-file zoo/ALGO.yml --gym-packages spikerl

and without the last two options for the ordinary network, with rl-zoo3's own settings and the same
number of time steps. Returns are of 30 deterministic episodes of the last model of each run, on
seeds not trained on: the mean of each run, and the interquartile mean over all episodes with a 95 %
interval (bootstrap over runs and episodes). Seeds of the runs are 0, 1 and 2; rl_zoo3, SB3 and
sb3-contrib 2.9.2, Gymnasium 1.4.0, torch 2.13.0 on the CPU. Time is of the run on a shared machine
with two cores, which other work slowed by up to ten times.

| algorithm | environment | steps | network | mean of each run | IQM [95 %] | minutes |
| --- | --- | --- | --- | --- | --- | --- |
"""


if __name__ == "__main__":
    lines = (HERE / "trained.jsonl").read_text("utf-8").splitlines()
    groups: dict[tuple[str, str, int, bool], list[dict]] = {}
    for row in map(json.loads, lines):
        groups.setdefault((row["algo"], row["env"], row["n"], row["spiking"]), []).append(row)
    text = HEAD
    for (algo, env, n, spiking), rows in sorted(groups.items(), key=lambda item: item[0][:3]):
        runs = [row["returns"] for row in sorted(rows, key=lambda row: row["seed"])]
        found = over_runs(runs)
        means = ", ".join(f"{np.mean(run):.1f}" for run in runs)
        minutes = np.mean([row["seconds"] for row in rows]) / 60
        text += (
            f"| {algo} | {env} | {n:,} | {'spiking' if spiking else 'ordinary'} | {means} | "
            f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}] | {minutes:.1f} |\n"
        )
    (HERE / "trained.md").write_text(text, "utf-8")
