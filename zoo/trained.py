"""Train agents by rl-zoo3's own command, spiking and ordinary; writes zoo/trained.jsonl.

    python zoo/trained.py ppo Acrobot-v1 --steps 300000 --seeds 0 1 2

Each run adds one line to zoo/trained.jsonl: algo, env, seed, network, n (time steps), changes (of
zoo/ALGO.yml), seconds, versions, and the returns of 30 deterministic episodes of its last model, on
seeds it was not trained on. A run that has its line is not repeated. Writes zoo/results.md anew.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import results
import rl_zoo3
import rl_zoo3.import_envs  # registers those without velocities
import torch
import yaml
from huggingface_sb3 import EnvironmentName  # as rl-zoo names folders and files
from rl_zoo3 import ALGOS
from rl_zoo3.utils import create_test_env, get_saved_hyperparams
from stable_baselines3.common.evaluation import evaluate_policy

from spikerl.policies import ProxyTD3

HERE = Path(__file__).parent
ROWS = HERE / "trained.jsonl"
KEY = ("algo", "env", "n", "network", "changes")
LEARNING = ("rl_zoo3", "stable_baselines3", "sb3_contrib")
PACKAGES = ("spikerl", *LEARNING, "gymnasium", "torch", "numpy")
WORLDS = ("mujoco", "box2d", "minatar")  # where they are installed


def train(run: dict, logs: Path) -> dict:
    """One run of rl_zoo3's training command, and what its last model earns."""
    algo, env, spiking = run["algo"], run["env"], run["network"] == "spiking"
    folder = logs / "-".join(str(part) for part in (run["network"], run["n"], run["seed"]))
    script = [str(HERE / "train.py")] if algo == "proxy_td3" else ["-m", "rl_zoo3.train"]
    command = [sys.executable, *script, "--algo", algo, "--env", env, "-f", str(folder)]
    command += ["--seed", str(run["seed"]), "-n", str(run["n"]), "--eval-freq", "-1"]
    command += ["--num-threads", "1", "--verbose", "0"]
    if spiking or not in_rl_zoo(algo, env):
        command += ["--conf-file", str(HERE / f"{algo}.yml"), "--gym-packages", *registered(env)]
    if run["changes"]:
        command += ["--hyperparams", *run["changes"]]
    begun = time.time()
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(HERE.parent)})
    seconds = time.time() - begun
    runs = (folder / algo).glob(f"{EnvironmentName(env)}_*")
    trained = max(runs, key=lambda path: path.stat().st_mtime)
    found = returns(algo, env, trained)
    versions = {name: version(name) for name in PACKAGES}
    for name in WORLDS:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {**run, "seconds": seconds, "returns": found, "versions": versions}


def registered(env: str) -> list[str]:
    """The modules whose import registers an environment, imported here too."""
    modules = ["spikerl", *(["spikerl.envs.minatar"] if env.startswith("MinAtar/") else [])]
    for module in modules:
        import_module(module)
    return modules


def in_rl_zoo(algo: str, env: str) -> bool:
    """Whether rl_zoo3 has settings of its own; where not, zoo/ALGO.yml's are to be changed."""
    path = Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algo}.yml"
    return path.exists() and env in yaml.safe_load(path.read_text("utf-8"))


def returns(algo: str, env: str, trained: Path, episodes: int = 30) -> list[float]:
    """Returns of the last model of a run, in the environment that rl-zoo's enjoy would make."""
    saved, stats = get_saved_hyperparams(str(trained / EnvironmentName(env)), norm_reward=False)
    how = {"n_envs": 1, "seed": 1000, "should_render": False}
    test = create_test_env(env, stats_path=stats, hyperparams=saved, **how)
    model = ALGOS[algo].load(trained / f"{EnvironmentName(env)}.zip", device="cpu")
    found, _ = evaluate_policy(model, test, episodes, return_episode_rewards=True)
    return [float(value) for value in found]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="train by rl-zoo3, spiking and ordinary")
    parser.add_argument("algo", nargs="?", help="ppo, sac, td3, proxy_td3, ...")
    parser.add_argument("env", nargs="?", help="an environment of zoo/ALGO.yml")
    parser.add_argument("--steps", type=int, help="time steps of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", nargs="+", default=["spiking", "ordinary"])
    parser.add_argument("--changes", nargs="+", default=[], help="KEY:VALUE, see rl_zoo3.train")
    parser.add_argument("--logs", type=Path, default=Path("logs"), help="folder of the runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.algo:
        if not (options.env and options.steps):
            parser.error("wanted: ALGO ENV --steps N")
        ALGOS["proxy_td3"] = ProxyTD3
        for seed in options.seeds:
            for network in options.networks:
                values = (options.algo, options.env, options.steps, network, options.changes)
                run = {**dict(zip(KEY, values, strict=True)), "seed": seed}
                if any(
                    all(row[name] == run[name] for name in run) for row in results.stored(ROWS.name)
                ):
                    continue
                row = train(run, options.logs)
                with ROWS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(*run.values(), f"{np.mean(row['returns']):.1f}", flush=True)
    results.write()
