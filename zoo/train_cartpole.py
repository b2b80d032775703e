"""How zoo/agents/dqn/CartPole-v1_1 was trained: SB3's DQN, ReLU 4-64-64-2, rl-zoo's settings.

Usage: python zoo/train_cartpole.py OUTPUT_DIRECTORY   (about a minute on one core)
"""

import sys

import gymnasium
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor

torch.set_num_threads(1)
evaluation = EvalCallback(
    Monitor(gymnasium.make("CartPole-v1")),
    n_eval_episodes=20,
    eval_freq=2500,
    best_model_save_path=sys.argv[1],
)
model = DQN(
    "MlpPolicy",
    Monitor(gymnasium.make("CartPole-v1")),
    learning_rate=2.3e-3,
    batch_size=64,
    buffer_size=100_000,
    learning_starts=1000,
    gamma=0.99,
    target_update_interval=10,
    train_freq=256,
    gradient_steps=128,
    exploration_fraction=0.16,
    exploration_final_eps=0.04,
    policy_kwargs={"net_arch": [64, 64]},
    seed=3,
)
model.learn(60_000, callback=evaluation)
