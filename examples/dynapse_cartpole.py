"""CartPole with eight analogue neurons of a Dynap-SE2, simulated by Rockpool, on ten chips.

They learn to act as the DQN agent of the zoo does, once on an ideal chip and once on chips that
differ. Needs: pip install 'spikerl[dynapse,sb3]'.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np
from stable_baselines3 import DQN

from spikerl.dynapse import (
    Chip,
    DynapseNet,
    DynapsePolicy,
    imitate,
    quantize,
    returns_by_chip,
    visited,
)
from spikerl.encoding import EquidistantSpikes

ZOO = Path(__file__).resolve().parent.parent / "zoo" / "agents" / "dqn" / "CartPole-v1_1"


def make_env() -> gym.Env:
    return gym.make("CartPole-v1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--episodes", type=int, default=5)
    options = parser.parse_args()
    teacher = DQN.load(ZOO / "CartPole-v1.zip", device="cpu")
    met = visited(teacher, make_env, 2_000, seed=0)
    scale = np.percentile(np.abs(met), 99, axis=0)  # 200 Hz for what is rarely exceeded
    net = DynapseNet.random(2 * len(scale), 8, n_classes=2, seed=0)
    chips = [Chip.drawn(net.n_in, net.n, 1000 + seed) for seed in range(10)]
    ideal = Chip.ideal(net.n_in, net.n)
    print(
        f"returns, {options.episodes} episodes per chip".ljust(36)
        + "   ideal chip   10 chips: mean   worst"
    )
    for name, varied in (("trained on an ideal chip", 0), ("trained on chips that differ", 4)):
        policy = imitate(
            DynapsePolicy(net, EquidistantSpikes(scale=scale), sim_ms=100),
            teacher,
            make_env,
            updates=options.updates,
            chips=varied,
        )
        for rule in ("", ", 4 bits"):
            if rule:
                policy = policy.with_net(quantize(policy.net).net)
            found = returns_by_chip(policy, make_env, [ideal, *chips], episodes=options.episodes)
            by_chip = found.mean(1)
            print(
                f"{name + rule:36}{by_chip[0]:13.1f}{by_chip[1:].mean():17.1f}"
                f"{by_chip[1:].min():8.1f}"
            )


if __name__ == "__main__":
    main()
