"""Train with SB3 and see after every evaluation what the policy is worth as a spiking agent."""

import gymnasium as gym
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor

import spikerl

torch.set_num_threads(1)

callback = spikerl.ConversionCallback(path="agents", sim_steps=16, n_calibration=2000, verbose=1)
evaluation = EvalCallback(
    Monitor(gym.make("CartPole-v1")), callback_after_eval=callback, eval_freq=1024, verbose=0
)
model = PPO(
    "MlpPolicy",
    "CartPole-v1",
    policy_kwargs={"activation_fn": torch.nn.ReLU},
    n_steps=512,
    seed=0,
    device="cpu",
)
model.learn(4096, callback=evaluation)

assert callback.best is not None, callback.failures
print(f"the best one, after {callback.best.timesteps} time steps, is in agents/best.spk:")
print(callback.best.agent.report)
