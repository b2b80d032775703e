"""Train a policy gradient on CartPole, convert it, and see what it is worth by the steps it gets.

    python policy_gradient.py [--algo A2C] [--timesteps 100000] [--sim-steps 10 50 100 500 1000]

Prints what the Deep Spiking Q-Networks thesis printed of its policy gradient: the return (standard
deviation) of the network, and of the converted one with its conversion accuracy at T steps; beside
them the return where actions are sampled from the probabilities, as in training.
"""

import argparse
import warnings

import gymnasium as gym
import sb3_contrib
import stable_baselines3
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import spikerl
from spikerl.evaluation import evaluate

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--algo", choices=["A2C", "PPO", "TRPO"], default="A2C")
parser.add_argument("--timesteps", type=int, default=50_000)
parser.add_argument("--sim-steps", type=int, nargs="+", default=[10, 50, 100, 500, 1000])
parser.add_argument("--episodes", type=int, default=5)
arguments = parser.parse_args()


def make_env() -> gym.Env:
    return gym.make("CartPole-v1")


torch.set_num_threads(1)
warnings.simplefilter("ignore", spikerl.errors.ConversionWarning)
algorithm = getattr(stable_baselines3, arguments.algo, None) or sb3_contrib.TRPO
relu = {"activation_fn": torch.nn.ReLU, "net_arch": [16, 16]}
env = make_vec_env(make_env, 8, seed=0)
model = algorithm("MlpPolicy", env, policy_kwargs=relu, seed=0, device="cpu")
model.learn(arguments.timesteps)

print(f"{'T':>8}{'return (sd)':>20}{'conversion accuracy':>30}{'sampled actions':>18}")
for steps in arguments.sim_steps:
    agent = spikerl.convert(model, env=make_env, sim_steps=steps, n_calibration=4_000)
    with spikerl.HardwarePolicy(agent, seed=0) as policy:
        result = evaluate(policy, make_env, original=model, episodes=arguments.episodes)
    raw = make_vec_env(make_env, 8, seed=1)
    sampled = {"n_eval_episodes": arguments.episodes, "deterministic": False}
    if steps == arguments.sim_steps[0]:
        side, chance = result.original, evaluate_policy(model, raw, **sampled)[0]
        shown = f"{side.mean_return.value:.2f} ({side.std:.2f})"
        print(f"{arguments.algo:>8}{shown:>20}{'':>30}{chance:>18.2f}")
    with spikerl.HardwarePolicy(agent, n_envs=8, seed=0) as policy:
        chance, _ = evaluate_policy(policy, raw, **sampled)
    side, e = result.spiking, result.agreement
    shown = f"{side.mean_return.value:.2f} ({side.std:.2f})"
    accuracy = f"{e.value:.2%} [{e.low:.2%}, {e.high:.2%}]"
    print(f"{steps:>8}{shown:>20}{accuracy:>30}{chance:>18.2f}")
