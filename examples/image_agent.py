"""Train a CnnPolicy on a small task of images, convert it, and see how faithful it is.

    python examples/image_agent.py [--timesteps 60000]

The task is Catch (Mnih et al. 2014): a ball falls, a paddle moves left, stays or moves right; the
last frame is worth +1 or -1. Frames are 36 x 36 pixels, four of them stacked, as for Atari. The task
has few states, so held-out observations are other episodes but hardly other images.
"""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack

import spikerl
from spikerl.conversion.frames import StackFrames
from spikerl.evaluation import evaluate

CELLS, PIXELS = 9, 4


class Catch(gym.Env[np.ndarray, np.int64]):
    """A board of 9 x 9 cells, drawn with 4 x 4 pixels each."""

    observation_space = spaces.Box(0, 255, (CELLS * PIXELS, CELLS * PIXELS, 1), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.row, self.column = 0, int(self.np_random.integers(CELLS))
        self.paddle = CELLS // 2
        return self.frame(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.paddle = int(np.clip(self.paddle + int(action) - 1, 0, CELLS - 1))
        self.row += 1
        over = self.row == CELLS - 1
        reward = (1.0 if self.paddle == self.column else -1.0) if over else 0.0
        return self.frame(), reward, over, False, {}

    def frame(self) -> np.ndarray:
        board = np.zeros((CELLS, CELLS, 1), np.uint8)
        board[CELLS - 1, self.paddle] = 128
        board[self.row, self.column] = 255
        return board.repeat(PIXELS, 0).repeat(PIXELS, 1)


def make_env() -> gym.Env:
    return StackFrames(Catch(), 4)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--timesteps", type=int, default=8_000)
parser.add_argument("--sim-steps", type=int, nargs="+", default=[16, 32])
arguments = parser.parse_args()

torch.set_num_threads(1)
env = VecFrameStack(make_vec_env(Catch, 8, seed=0), 4)
model = PPO("CnnPolicy", env, n_steps=128, batch_size=256, ent_coef=0.01, seed=0, device="cpu")
model.learn(arguments.timesteps)

print("  T   agreement, held out        agreement, as it acts      return: original   spiking")
for steps in arguments.sim_steps:
    agent = spikerl.convert(model, env=make_env, sim_steps=steps, n_calibration=500)
    with spikerl.HardwarePolicy(agent, seed=0) as policy:
        result = evaluate(policy, make_env, original=model, episodes=25)
    assert agent.report is not None
    assert result.original is not None
    print(
        f"{steps:4d}   {agent.report.faithfulness}   {result.agreement}   "
        f"{result.original.mean_return.value:.2f}   {result.spiking.mean_return.value:.2f}"
    )
