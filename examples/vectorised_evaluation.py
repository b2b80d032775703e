"""Prints the return of a ReLU PPO policy and of its spiking version, by SB3's evaluate_policy.

The policy is trained for a moment under VecNormalize; the spiking agent carries the statistics, so
it takes raw observations.
"""

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

import spikerl

torch.set_num_threads(1)
normalized = VecNormalize(make_vec_env("CartPole-v1", n_envs=4, seed=0))
model = PPO(
    "MlpPolicy",
    normalized,
    n_steps=128,
    seed=0,
    policy_kwargs={"activation_fn": torch.nn.ReLU},
).learn(8_000)

agent = spikerl.convert(model, sim_steps=32)
print(agent.report)

normalized.training = False
before, _ = evaluate_policy(model, normalized, n_eval_episodes=10)
raw = make_vec_env("CartPole-v1", n_envs=4, seed=1)
with spikerl.HardwarePolicy(agent, n_envs=4) as policy:
    after, _ = evaluate_policy(policy, raw, n_eval_episodes=10)
print(f"return: original {before:.0f}, spiking {after:.0f}")
