"""The comparisons of the Deep Spiking Q-Networks thesis in one table.

    python thesis_table.py               nets trained here, in about a minute
    python thesis_table.py DIRECTORY     the thesis's own: a folder with CartPole-A, MountainCar-A,
                                         MountainCar-A-Classifier and CartPole-PolicyGradient

Each column is a net: a DQN converted directly, a classifier that learned the DQN's actions from its
replay data and is converted in its place, a spiking classifier trained with surrogate gradients
instead of converted, and a policy-gradient net. Each row changes one choice of the first one.
Figures are agreements in % with the net converted (of the spiking classifier: with the DQN) at
T steps on held-out observations; the last row shows what the thesis printed for its nets.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from rich.console import Console
from rich.table import Table
from torch import nn

import spikerl
from spikerl.nn import SpikingMLP

ROWS = {
    "constant input, potential, subtract, robust 99.9 %": {},
    "Poisson input": {"encoder": "poisson"},
    "equidistant input": {"encoder": "equidistant"},
    "spike count": {"decoder": "spike_count"},
    "signed spike count": {"decoder": "signed_spike_count"},
    "first spike": {"decoder": "first_spike"},
    "residual potential": {"decoder": "residual_potential"},
    "reset to zero": {"reset": "zero"},
    "model-based normalisation": {"threshold": "model", "readout": "copied"},
    "data-based normalisation": {"threshold": "layer", "percentile": 100, "readout": "copied"},
    "robust normalisation 99 %": {"threshold": "layer", "percentile": 99, "readout": "copied"},
    "8 neurons per unit": {"neurons_per_unit": 8},
}
PRINTED = {"DQN": 60.7, "classifier": 95.6, "policy gradient": 89.4, "MountainCar DQN": 51.7}


def thesis_net(folder: Path) -> nn.Sequential:
    """A saved state_dict of Linear layers with ReLU between them."""
    state = torch.load(folder / "model.pt", weights_only=False)
    state = state[0] if isinstance(state, tuple) else state
    layers: list[nn.Module] = []
    for name in [key for key in state if key.endswith("weight")]:
        weight, bias = state[name].float(), state.get(name[:-6] + "bias")
        linear = nn.Linear(*reversed(weight.shape), bias=bias is not None)
        linear.load_state_dict(
            {"weight": weight} | ({} if bias is None else {"bias": bias.float()})
        )
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def thesis_nets(folder: Path) -> dict[str, tuple[nn.Sequential, np.ndarray]]:
    def rows(name: str) -> np.ndarray:
        (array,) = np.load(folder / name / "memory_inputs.npz").values()
        return array.astype(np.float32)

    cart, car = rows("CartPole-A/DQN"), rows("MountainCar-A")
    return {
        "DQN": (thesis_net(folder / "CartPole-A/DQN"), cart),
        "classifier": (thesis_net(folder / "CartPole-A/Classifier"), cart),
        "policy gradient": (
            thesis_net(folder / "CartPole-PolicyGradient"),
            rows("CartPole-PolicyGradient"),
        ),
        "MountainCar DQN": (thesis_net(folder / "MountainCar-A"), car),
        "MountainCar classifier": (thesis_net(folder / "MountainCar-A-Classifier"), car),
    }


def trained(module: nn.Module, rows: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """A classifier of the teacher's actions."""
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
    for _ in range(2000):
        chosen = torch.randint(len(rows), (128,))
        loss = nn.functional.cross_entropy(module(rows[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module


def nets_trained_here(timesteps: int) -> dict[str, tuple[nn.Sequential, np.ndarray]]:
    narrow = {"net_arch": [16, 16]}
    dqn = sb3.DQN(
        "MlpPolicy",
        "CartPole-v1",
        seed=0,
        device="cpu",
        learning_rate=2.3e-3,
        learning_starts=1000,
        train_freq=256,
        gradient_steps=128,
        target_update_interval=10,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs=narrow,
    ).learn(timesteps)
    seen = dqn.replay_buffer.observations[:timesteps, 0]
    teacher = nn.Sequential(*dqn.q_net.q_net)
    classifier = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    classifier.append(nn.Linear(16, 2))
    trained(classifier, torch.as_tensor(seen), labels(teacher, seen))
    relu = {"activation_fn": nn.ReLU, "net_arch": [16, 16]}
    ppo = sb3.PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu", policy_kwargs=relu)
    policy = ppo.learn(timesteps // 2).policy
    actor = nn.Sequential(*policy.mlp_extractor.policy_net, policy.action_net)
    return {
        "DQN": (teacher, seen),
        "classifier": (classifier, seen),
        "policy gradient": (actor, seen),
    }


def labels(teacher: nn.Module, rows: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return teacher(torch.as_tensor(rows)).argmax(dim=1)


def agreement(net: nn.Sequential, rows: np.ndarray, **setting: object) -> str:
    agent = spikerl.convert(
        net,
        observations=rows,
        observation_space=spaces.Box(-np.inf, np.inf, rows.shape[1:]),
        action_space=spaces.Discrete(net[-1].out_features),
        sim_steps=T,
        **setting,
    )
    return f"{100 * agent.report.agreement.value:.1f}"


def spiking_classifier(teacher: nn.Sequential, rows: np.ndarray) -> str:
    """Trained on four fifths of the observations, judged on the rest."""
    n = len(rows) * 4 // 5
    widths = [layer.out_features for layer in teacher[:-1] if isinstance(layer, nn.Linear)]
    module = nn.Sequential(
        SpikingMLP(rows.shape[1], widths, sim_steps=T),
        nn.Linear(widths[-1], teacher[-1].out_features),
    )
    trained(module, torch.as_tensor(rows[:n]), labels(teacher, rows[:n]))
    agent = spikerl.convert(  # exact: it spikes already
        module,
        observations=rows[n:],
        observation_space=spaces.Box(-np.inf, np.inf, rows.shape[1:]),
        action_space=spaces.Discrete(teacher[-1].out_features),
    )
    with spikerl.HardwarePolicy(agent) as policy:
        ours = policy.predict(rows[n:])[0]
    return f"{100 * (ours == labels(teacher, rows[n:]).numpy()).mean():.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("--sim-steps", type=int, default=100)
    parser.add_argument("--timesteps", type=int, default=20_000, help="of the DQN trained here")
    arguments = parser.parse_args()
    given, T = arguments.directory, arguments.sim_steps
    torch.manual_seed(0)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", spikerl.errors.ConversionWarning)
    nets = nets_trained_here(arguments.timesteps) if given is None else thesis_nets(given)
    table = Table("choice", *nets, title=f"agreement in % at T = {T}")
    for choice, setting in ROWS.items():
        table.add_row(choice, *(agreement(*net, **setting) for net in nets.values()))
    spiking = {name: spiking_classifier(*net) for name, net in nets.items() if "DQN" in name}
    table.add_row("spiking classifier, trained", *(spiking.get(name, "") for name in nets))
    if given is not None:
        table.add_row("printed in the thesis", *(str(PRINTED.get(name, "")) for name in nets))
    Console(width=150).print(table)
