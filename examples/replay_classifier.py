"""Save what a DQN sees and does, load it, train a classifier on it, and convert the classifier.

    python replay_classifier.py [--agent AGENT_DIRECTORY] [--size 20000] [--updates 20000]

The Deep Spiking Q-Networks thesis's way around small gaps between Q values: a classifier of the
DQN's actions converts better than the DQN. Prints the classifier's loss and accuracy, then return
and conversion accuracy of both after conversion.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

import spikerl
from spikerl.conversion.checkpoints import load_checkpoint
from spikerl.conversion.environments import maker, todays_id
from spikerl.evaluation import evaluate

ZOO = Path(__file__).resolve().parent.parent / "zoo" / "agents" / "dqn" / "CartPole-v1_1"
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--agent", type=Path, default=ZOO)
parser.add_argument("--size", type=int, default=5_000)
parser.add_argument("--updates", type=int, default=5_000)
parser.add_argument("--sim-steps", type=int, default=100)
parser.add_argument("--episodes", type=int, default=5)
arguments = parser.parse_args()


def save_replay(model, make_env, size, path):
    """Play and write what was seen and done; a tenth of the actions are random, to see more."""
    env, rng = make_env(), np.random.default_rng(0)
    seen, done = [], []
    observation, _ = env.reset(seed=0)
    while len(seen) < size:
        action = int(model.predict(observation, deterministic=True)[0])
        seen.append(observation)
        done.append(action)
        if rng.random() < 0.1:
            action = int(rng.integers(env.action_space.n))
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            observation, _ = env.reset()
    np.savez(path, observations=np.array(seen), actions=np.array(done))


def train_classifier(observations, actions, widths, updates):
    """A ReLU network that is told the action by cross entropy."""
    torch.manual_seed(0)
    sizes = [observations.shape[1], *widths, int(actions.max()) + 1]
    layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
    net = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    rows, labels = torch.as_tensor(observations), torch.as_tensor(actions)
    for update in range(1, updates + 1):
        batch = torch.randint(len(rows), (50,))
        loss = nn.functional.cross_entropy(net(rows[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % max(1, updates // 4) == 0:
            with torch.no_grad():
                values = net(rows)
            loss = nn.functional.cross_entropy(values, labels)
            accuracy = (values.argmax(dim=1) == labels).float().mean()
            print(f"update {update}: loss {loss:.4f}, accuracy {100 * accuracy:.2f} %")
    return net


class Plain:
    """A torch network with SB3's predict()."""

    def __init__(self, net):
        self.net = net

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        with torch.no_grad():
            return self.net(torch.as_tensor(observation)).argmax(dim=-1).numpy(), None


torch.set_num_threads(1)
checkpoint = load_checkpoint(arguments.agent)
make_env = maker(todays_id(checkpoint.env_id), checkpoint.env_kwargs, checkpoint.wrappers)
dqn = checkpoint.model

save_replay(dqn, make_env, arguments.size, "replay.npz")
with np.load("replay.npz") as replay:
    observations, actions = replay["observations"], replay["actions"]
print(f"replay.npz: {len(observations)} observations, actions {np.bincount(actions)}")
widths = [layer.out_features for layer in dqn.q_net.q_net[:-1] if isinstance(layer, nn.Linear)]
classifier = train_classifier(observations, actions, widths, arguments.updates)
torch.save(classifier.state_dict(), "classifier.pt")

about = {"observation_space": dqn.observation_space, "action_space": dqn.action_space}
for name, source, original in (
    ("DQN", dqn, dqn),
    ("classifier", classifier, Plain(classifier)),
):
    agent = spikerl.convert(
        source,
        observations=observations,
        sim_steps=arguments.sim_steps,
        **(about if source is classifier else {}),
    )
    with spikerl.HardwarePolicy(agent, seed=0) as policy:
        result = evaluate(policy, make_env, original=original, episodes=arguments.episodes)
    before, after = result.original, result.spiking
    print(f"{name}: mean {before.mean_return.value:.2f}, std {before.std:.2f}")
    print(f"  spiking, T = {agent.sim_steps}: mean {after.mean_return.value:.2f}, ", end="")
    print(f"std {after.std:.2f}, conversion accuracy {100 * result.agreement.value:.2f} %")
