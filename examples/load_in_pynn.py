"""Runs one network on NEST and through PyNN, beside the plain network it came from.

    python load_in_pynn.py                          the agent of this repository's zoo
    python load_in_pynn.py model.pt memory.npz      a saved state_dict of a ReLU network for
                                                    CartPole-v1, and observations it has seen

Prints agreement on the states visited, return and speed, and what a SpiNNaker board would hold.
"""

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

import spikerl
from spikerl.evaluation import evaluate

T = 100
ZOO = Path(__file__).resolve().parent.parent / "zoo" / "agents" / "dqn" / "CartPole-v1_1"


class Network:
    """A plain network with SB3's predict()."""

    def __init__(self, module):
        self.module = module

    def predict(self, observation, deterministic=True):
        with torch.no_grad():
            values = self.module(torch.as_tensor(np.atleast_2d(observation)).float())
        return values.argmax(dim=1).numpy(), None


def loaded(path):
    """Linear layers with ReLUs between them, from the weights in a file."""
    state = torch.load(path, weights_only=True)
    layers = []
    for name in [key for key in state if key.endswith("weight")]:
        linear = nn.Linear(state[name].shape[1], state[name].shape[0])
        linear.weight.data = state[name].float()
        linear.bias.data = state[name.removesuffix("weight") + "bias"].float()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("files", nargs="*", type=Path, help="model.pt memory.npz")
parser.add_argument("--episodes", type=int, default=3)
arguments = parser.parse_args()
if len(arguments.files) not in (0, 2):
    parser.error("wanted model.pt and memory.npz, or no files at all")

torch.set_num_threads(1)
# A spike reaches the next layer one step later on these simulators: the network has that delay.
rules = {"sim_steps": T, "delay_steps": 1}
if arguments.files:
    weights, seen = arguments.files
    module, memory = loaded(weights), np.load(seen)
    original = Network(module)
    rules |= {
        "observations": memory[memory.files[0]].astype(np.float32),
        "observation_space": spaces.Box(-np.inf, np.inf, (4,)),
        "action_space": spaces.Discrete(2),
    }
    source = module
else:
    from spikerl.conversion.checkpoints import load_checkpoint

    source, original = ZOO, load_checkpoint(ZOO).model
agent = spikerl.convert(source, **rules)
print(agent.report)

PLACES = [("cpu", {}), ("nest", {}), ("pynn:nest", {"calls": "kernel"}), ("pynn:nest", {})]
usable = {name for name, state in spikerl.backends.available().items() if state.usable}
returns = {}
print(f"\n{'back end':<24}{'agreement':>26}{'return':>10}{'decisions/s':>14}")
for name, options in PLACES:
    if name not in usable:
        print(f"{name:<24}{spikerl.backends.available()[name]}")
        continue
    with spikerl.HardwarePolicy(agent, name, seed=0, **options) as policy:
        cart, episodes = lambda: gym.make("CartPole-v1"), arguments.episodes
        result = evaluate(policy, cart, original=original, episodes=episodes)
    e, side = result.agreement, result.spiking
    shown = f"{e.value:.2%} [{e.low:.2%}, {e.high:.2%}]"
    label = name + "".join(f", {value} calls" for value in options.values())
    speed = f"{side.decisions_per_second:>14,.0f}"
    print(f"{label:<24}{shown:>26}{side.mean_return.value:>10.1f}{speed}")
    returns[label] = side.returns
# One network, the same spikes: the same decisions, and so the same episodes.
assert len(set(returns.values())) == 1, returns

board = spikerl.backends.available()["spinnaker"]
if board.install is not None:
    print(f"\nSpiNNaker: {board}")
else:
    from spikerl.backends.spinnaker import dry_run

    observations = np.random.default_rng(0).uniform(-0.2, 0.2, (500, 4)).astype(np.float32)
    onto_board = spikerl.convert(source, **{**rules, "reset": "zero"})
    print("\nSpiNNaker, mapped without a board (reset to zero, the only one it has):")
    print(dry_run(onto_board, observations))
