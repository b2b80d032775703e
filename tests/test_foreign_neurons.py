"""SpikingJelly's neurons in spikerl's policies: theirs to train, the same spikes deployed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from torch import nn

import spikerl
from spikerl import Dense, SpikingNetwork
from spikerl.errors import SpikerlError
from spikerl.nn import SpikingMLP, SpikingStack
from spikerl.nn.foreign import NODES, ForeignNeuron
from spikerl.policies import SpikingActorCriticPolicy, SpikingDQNPolicy, SpikingSACPolicy
from spikerl.reference import simulate

T = 6
OPTIONS: dict[str, dict[str, Any]] = {
    "IFNode": {"v_reset": None},
    "LIFNode": {"tau": 1.5, "v_threshold": 0.5},
    "SimpleLIFNode": {"tau": 1.5, "decay_input": False},
    "ParametricLIFNode": {"init_tau": 1.8, "v_threshold": 0.5, "decay_input": False},
}


def test_a_name_that_is_none_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SpikerlError, match="there are spikingjelly:IFNode, spikingjelly:LIFNode"):
        ForeignNeuron("spikingjelly:EIFNode")
    with pytest.raises(SpikerlError, match="neuron is 'brian:LIF'"):
        sb3.PPO(SpikingActorCriticPolicy, "CartPole-v1", policy_kwargs={"neuron": "brian:LIF"})


pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed")


def stack_of(node: str) -> SpikingStack:
    torch.manual_seed(0)
    neuron = ForeignNeuron(f"spikingjelly:{node}", OPTIONS.get(node, {}))
    return SpikingMLP(5, [24, 16], sim_steps=T, neuron=neuron)


@pytest.mark.parametrize("node", NODES)
def test_spikes_flow_before_training_as_each_node_comes(node: str) -> None:
    torch.manual_seed(0)
    needed = {"tau": 2.0, "decay_input": True} if node == "SimpleLIFNode" else {}
    neuron = ForeignNeuron(f"spikingjelly:{node}", needed)
    rates = SpikingMLP(4, [64, 64], sim_steps=8, neuron=neuron).rates(torch.randn(200, 4))
    assert all(0.05 < rate.mean() < 0.6 for rate in rates)


@pytest.mark.parametrize("node", NODES)
def test_training_is_spikingjelly_s_own_and_decisions_are_the_reference_s(node: str) -> None:
    stack = stack_of(node)
    rows = 2 * torch.randn(200, 5)
    parts = [(copy.deepcopy(x.synapses), copy.deepcopy(x.node)) for x in stack.layers]
    x = rows[None].expand(T, -1, -1)
    for synapses, neurons in parts:
        neurons.reset()
        x = neurons(synapses(x))
    theirs = x.mean(0)
    ours = stack.train()(rows)
    torch.testing.assert_close(ours, theirs)
    assert 0.02 < ours.mean() < 0.98
    loss, wanted = (ours**2).sum(), (theirs**2).sum()
    found = torch.autograd.grad(loss, list(stack.parameters()))
    own = [p for synapses, neurons in parts for m in (synapses, neurons) for p in m.parameters()]
    for a, b in zip(found, torch.autograd.grad(wanted, own), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        decided = stack.eval()(rows)
    network = SpikingNetwork((*stack.to_layers(), Dense(np.eye(16), spiking=False)))
    drive = np.broadcast_to(rows.double().numpy(), (T, *rows.shape))
    potential = simulate(network, drive).potential
    assert potential is not None
    np.testing.assert_array_equal(decided.numpy(), (potential / T).astype(np.float32))
    assert (decided == ours).float().mean() > 0.99  # but for float32 at the threshold


def model(kind: str, node: str) -> Any:
    torch.set_num_threads(1)
    kwargs: dict[str, Any] = {
        "sim_steps": 4,
        "net_arch": [24, 16],
        "neuron": f"spikingjelly:{node}",
        "neuron_kwargs": OPTIONS[node],
    }
    common: dict[str, Any] = {"seed": 0, "device": "cpu", "policy_kwargs": kwargs}
    if kind == "ppo":
        made: Any = sb3.PPO(SpikingActorCriticPolicy, "CartPole-v1", n_steps=64, **common)
    elif kind == "dqn":
        made = sb3.DQN(SpikingDQNPolicy, "CartPole-v1", learning_starts=20, **common)
    else:
        made = sb3.SAC(SpikingSACPolicy, "Pendulum-v1", learning_starts=20, **common)
    return made.learn(128)


@pytest.mark.parametrize("node", ["IFNode", "LIFNode", "ParametricLIFNode"])
@pytest.mark.parametrize("kind", ["ppo", "dqn", "sac"])
def test_a_trained_policy_is_deployed_with_the_same_actions(
    kind: str, node: str, tmp_path: Path
) -> None:
    trained = model(kind, node)
    n = trained.observation_space.shape[0]
    rows = np.random.default_rng(0).normal(size=(200, n)).astype(np.float32)
    theirs = trained.predict(rows, deterministic=True)[0]
    agent = spikerl.convert(trained, observations=rows)
    with spikerl.HardwarePolicy(agent) as policy:
        found = policy.predict(rows)[0]
    np.testing.assert_allclose(found, theirs, atol=1e-5)
    trained.save(tmp_path / "model.zip")
    again = type(trained).load(tmp_path / "model.zip", device="cpu")
    np.testing.assert_array_equal(again.predict(rows, deterministic=True)[0], theirs)


def test_images_go_through_their_neurons_as_well() -> None:
    from spikerl.nn.foreign import ForeignLayer

    neuron = ForeignNeuron("spikingjelly:LIFNode", OPTIONS["LIFNode"])
    torch.manual_seed(0)
    first = ForeignLayer(nn.Conv2d(2, 4, 3), neuron, (2, 6, 6))
    second = ForeignLayer(nn.Linear(first.n_out, 10), neuron, (first.n_out,))
    stack = SpikingStack([first, second], T).eval()
    rows = 12 * torch.rand(20, 72)
    with torch.no_grad():
        found = stack(rows)
    network = SpikingNetwork((*stack.to_layers(), Dense(np.eye(10), spiking=False)))
    drive = np.broadcast_to(rows.double().numpy(), (T, *rows.shape))
    potential = simulate(network, drive).potential
    assert potential is not None
    np.testing.assert_allclose(found.numpy(), potential / T, atol=1e-6)
    assert found.mean() > 0.02


@pytest.mark.parametrize(
    ("node", "options", "reason"),
    [
        ("LIFNode", {"tau": 0.5}, "it wants isinstance(tau, float) and tau > 1.0"),
        ("ParametricLIFNode", {"init_tau": 1}, "it wants isinstance(init_tau, float) and init_tau"),
        ("LIFNode", {"tau": "2"}, "it wants isinstance(tau, float)"),
        ("IFNode", {"tau": 2.0}, "it has no tau, but v_threshold, v_reset, surrogate_function"),
        ("LIFNode", {"backend": "torch"}, "it has no backend, but tau, decay_input"),
        ("LIFNode", {"step_mode": "s"}, "it has no step_mode, but tau"),
        ("IFNode", {"surrogate_function": "Arctan"}, "surrogate_function is 'Arctan'; there are"),
        ("IFNode", {"surrogate_function": "PoissonPass"}, "surrogate_function is 'PoissonPass'; "),
        ("IFNode", {"surrogate_function": 3}, "surrogate_function is 3; there are PiecewiseQuad"),
    ],
)
def test_what_a_node_cannot_be_made_of_is_told(
    node: str, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SpikerlError) as caught:
        ForeignNeuron(f"spikingjelly:{node}", options).node()
    said = f"spikingjelly:{node} cannot be made of {options}: {reason}"
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("node", NODES)
def test_a_surrogate_may_be_named(node: str) -> None:
    from spikingjelly.activation_based import surrogate

    def gradient(chosen: Any) -> torch.Tensor:
        options = {**OPTIONS.get(node, {}), "surrogate_function": chosen}
        made = ForeignNeuron(f"spikingjelly:{node}", options).node()
        x = torch.linspace(0, 3, 12).reshape(T, 1, 2).requires_grad_()
        return torch.autograd.grad(made(x).sum(), x)[0]

    for name in ("ATan", "atan", "ATAN"):
        assert torch.equal(gradient(name), gradient(surrogate.ATan()))
    assert not torch.equal(gradient("Sigmoid"), gradient("ATan"))


def test_options_of_plain_numbers_and_texts_train_a_policy(tmp_path: Path) -> None:
    kwargs = {"tau": 2, "v_threshold": 1, "v_reset": 0, "surrogate_function": "atan"}
    policy = {"neuron": "spikingjelly:LIFNode", "neuron_kwargs": kwargs, "net_arch": [8]}
    trained = sb3.PPO(
        SpikingActorCriticPolicy, "CartPole-v1", n_steps=16, batch_size=16, policy_kwargs=policy
    ).learn(16)
    trained.save(tmp_path / "model.zip")
    again = sb3.PPO.load(tmp_path / "model.zip")
    (node, *_) = [m for m in again.policy.modules() if type(m).__name__ == "LIFNode"]
    assert (node.tau, type(node.surrogate_function).__name__) == (2.0, "ATan")


@pytest.mark.parametrize(
    ("node", "given", "message"),
    [
        ("IFNode", {"v_reset": None}, r"\{'v_reset': None\} and is \{'v_reset': 0.0\}"),
        ("LIFNode", {"decay_input": False}, r"'decay_input': False\} and is .*: True\}"),
        ("LIFNode", {"tau": 1.5}, r"\{'tau': 1.5\} and is \{'tau': 2.0\}"),
    ],
)
def test_weights_of_other_rules_are_refused_whether_they_were_set_or_left_out(
    node: str, given: dict[str, Any], message: str
) -> None:
    def one(**rules: Any) -> SpikingStack:
        return SpikingMLP(4, [9], sim_steps=T, neuron=ForeignNeuron(f"spikingjelly:{node}", rules))

    with pytest.raises(SpikerlError, match=f"layer 1 was .*{message}"):
        one().load_state_dict(one(**given).state_dict())
    with pytest.raises(SpikerlError, match="trained under other rules"):
        one(**given).load_state_dict(one().state_dict())


def test_what_is_set_to_what_it_would_be_is_the_same() -> None:
    def one(**rules: Any) -> SpikingStack:
        neuron = ForeignNeuron("spikingjelly:LIFNode", rules)
        return SpikingMLP(4, [9], sim_steps=T, neuron=neuron)

    one().load_state_dict(one(tau=2, v_reset=0, decay_input=True).state_dict())


def test_weights_changed_behind_torch_s_back_are_seen() -> None:
    torch.manual_seed(0)
    stack = SpikingMLP(4, [9], sim_steps=T, neuron=ForeignNeuron("spikingjelly:IFNode")).eval()
    rows = torch.randn(3, 4)
    with torch.no_grad():
        first, layer = stack(rows), stack.to_layers()[0]
        for part in stack.parameters():
            part.data.mul_(2.0)
        assert not torch.equal(stack(rows), first)
    assert np.array_equal(stack.to_layers()[0].weight, 2.0 * layer.weight)
