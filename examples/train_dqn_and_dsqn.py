"""Train a DQN and a spiking DQN with the same settings, and see what each is worth afterwards.

    python train_dqn_and_dsqn.py [--timesteps 50000] [--runs 5] [--episodes 100]

As in the Deep Spiking Q-Networks thesis: the best average of 100 training episodes, then the mean
and the standard deviation of the return after loading, and the share of equal decisions
("conversion accuracy") of the spiking network on the back end `cpu` and in torch. With several runs
also the interquartile mean over all of them, and how likely a spiking run does better. 50,000 steps
of both take about two minutes on one core.
"""

import argparse

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.monitor import Monitor

import spikerl
from spikerl.evaluation import evaluate
from spikerl.policies import SpikingDQNPolicy
from spikerl.statistics import improvement, over_runs

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--timesteps", type=int, default=20_000)
parser.add_argument("--runs", type=int, default=1)
parser.add_argument("--episodes", type=int, default=20)
arguments = parser.parse_args()

torch.set_num_threads(1)
SETTINGS = {  # rl-zoo's for CartPole
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "learning_starts": 1000,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
    "device": "cpu",
}
POLICIES = {
    "DQN": ("MlpPolicy", {"net_arch": [64, 64]}),
    "DSQN": (SpikingDQNPolicy, {"net_arch": [64, 64], "sim_steps": 8}),
}


def make_env() -> gym.Env:
    return gym.make("CartPole-v1")


returns: dict[str, list[tuple[float, ...]]] = {name: [] for name in POLICIES}
for run in range(arguments.runs):
    for name, (policy, keywords) in POLICIES.items():
        env = Monitor(make_env())
        model = DQN(policy, env, policy_kwargs=keywords, seed=run, **SETTINGS)
        model.learn(arguments.timesteps)
        played = np.array(env.get_episode_rewards())
        width = min(100, len(played))
        averages = np.convolve(played, np.ones(width) / width, "valid")
        print(f"{name}, run {run}: {len(played)} training episodes")
        print(f"  best average of {width} episodes: {averages.max():.1f}, ", end="")
        print(f"after {averages.argmax() + width}")

        model.save(f"{name}-{run}.zip")
        model = DQN.load(f"{name}-{run}.zip", device="cpu")
        agent = spikerl.convert(model, env=make_env)  # exact for the one that spikes already
        with spikerl.HardwarePolicy(agent, seed=run) as deployed:
            result = evaluate(deployed, make_env, original=model, episodes=arguments.episodes)
        for side in (result.original, result.spiking):
            where = "loaded" if side.name == "original" else f"spiking, T = {result.sim_steps}"
            print(f"  {where}: mean {side.mean_return.value:.2f}, std {side.std:.2f}")
        decisions = round(result.spiking.mean_length * arguments.episodes)
        accuracy = 100 * result.agreement.value
        print(f"  conversion accuracy after {decisions} decisions: {accuracy:.2f} %")
        returns[name].append(result.original.returns)

if arguments.runs > 1:
    for name, found in returns.items():
        print(f"{name}: interquartile mean of {arguments.runs} runs {over_runs(found)}")
    means = [[np.mean(run) for run in returns[name]] for name in ("DSQN", "DQN")]
    print(f"a DSQN run does better than a DQN run with probability {improvement(*means)}")
