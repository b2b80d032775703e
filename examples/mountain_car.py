"""MountainCar: a DQN and a classifier of its actions, converted, by the steps of a decision.

    python mountain_car.py                      trains a DQN for 120,000 steps first: minutes
    python mountain_car.py AGENT_DIRECTORY      an rl-zoo directory or SB3 zip of MountainCar-v0

The table of the Deep Spiking Q-Networks thesis: return (standard deviation) and conversion accuracy
at T steps. The car must swing up: one wrong push at the wrong moment costs a whole swing, so that
the return tells more than the accuracy.
"""

import argparse
import warnings

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import DQN
from torch import nn

import spikerl
from spikerl.conversion.checkpoints import load_checkpoint
from spikerl.evaluation import evaluate

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("agent", nargs="?")
parser.add_argument("--timesteps", type=int, default=120_000)
parser.add_argument("--sim-steps", type=int, nargs="+", default=[10, 50, 100, 500, 1000])
parser.add_argument("--episodes", type=int, default=20)
arguments = parser.parse_args()


class Classifier:
    """A ReLU network that was told the teacher's actions; predict() is SB3's."""

    def __init__(self, teacher, rows, widths=(64, 64), updates=4_000):
        torch.manual_seed(0)
        first, second = widths
        self.net = nn.Sequential(
            *(nn.Linear(2, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()),
            nn.Linear(second, 3),
        )
        optimizer = torch.optim.Adam(self.net.parameters(), lr=2e-3)
        spread = torch.as_tensor(rows.std(axis=0))
        inputs = torch.as_tensor(rows)
        labels = torch.as_tensor(teacher.predict(rows, deterministic=True)[0])
        with torch.no_grad():
            self.net[0].weight /= spread  # speeds are a hundredth of positions
        for _ in range(updates):
            chosen = torch.randint(len(rows), (128,))
            loss = nn.functional.cross_entropy(self.net(inputs[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        with torch.no_grad():
            return self.net(torch.as_tensor(observation)).argmax(dim=-1).numpy(), None


def make_env():
    return gym.make("MountainCar-v0")


torch.set_num_threads(1)
warnings.simplefilter("ignore", spikerl.errors.ConversionWarning)
if arguments.agent is not None:
    dqn = load_checkpoint(arguments.agent).model
else:
    dqn = DQN(  # rl-zoo's settings
        "MlpPolicy",
        make_env(),
        learning_rate=4e-3,
        batch_size=128,
        buffer_size=10_000,
        learning_starts=1000,
        gamma=0.98,
        target_update_interval=600,
        train_freq=16,
        gradient_steps=8,
        exploration_fraction=0.2,
        exploration_final_eps=0.07,
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
        device="cpu",
    ).learn(arguments.timesteps)

env, rows = make_env(), []
for seed in range(50):
    observation, _ = env.reset(seed=10_000 + seed)
    over = False
    while not over:
        rows.append(observation)
        action, _ = dqn.predict(observation, deterministic=True)
        observation, _, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
rows = np.array(rows)
classifier = Classifier(dqn, rows)
spaces = {"observation_space": dqn.observation_space, "action_space": dqn.action_space}

print(f"{'':<12}{'T':>6}{'return (sd)':>20}{'conversion accuracy':>30}")
for name, original, source, more in (
    ("DQN", dqn, dqn, {}),
    ("classifier", classifier, classifier.net, spaces),
):
    for steps in arguments.sim_steps:
        agent = spikerl.convert(source, observations=rows, sim_steps=steps, **more)
        with spikerl.HardwarePolicy(agent, seed=0) as policy:
            result = evaluate(policy, make_env, original=original, episodes=arguments.episodes)
        if steps == arguments.sim_steps[0]:
            side = result.original
            before = f"{side.mean_return.value:.2f} ({side.std:.2f})"
            print(f"{name:<12}{'':>6}{before:>20}")
        side, e = result.spiking, result.agreement
        shown = f"{e.value:.2%} [{e.low:.2%}, {e.high:.2%}]"
        after = f"{side.mean_return.value:.2f} ({side.std:.2f})"
        print(f"{'':<12}{steps:>6}{after:>20}{shown:>30}")
