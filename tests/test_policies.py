"""Spiking policies in SB3's algorithms: they train, and what they do deploys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from policies import Spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import spikerl
from spikerl import HardwarePolicy
from spikerl.errors import ConversionError, ConversionWarning, SpikerlError
from spikerl.evaluation import evaluate
from spikerl.nn.stack import SpikingStack
from spikerl.policies import (
    SpikingActorCriticPolicy,
    SpikingDQNPolicy,
    SpikingQRDQNPolicy,
    SpikingSACPolicy,
    SpikingTD3Policy,
    SpikingTQCPolicy,
)

SHORT = {"n_steps": 64, "batch_size": 64}
REPLAY = {"buffer_size": 500, "learning_starts": 50}
# name: algorithm, policy, environment, arguments
KINDS: dict[str, tuple[type[BaseAlgorithm], type[Any], str, dict[str, Any]]] = {
    "ppo": (sb3.PPO, SpikingActorCriticPolicy, "CartPole-v1", SHORT),
    "ppo box": (sb3.PPO, SpikingActorCriticPolicy, "Pendulum-v1", SHORT),
    "a2c": (sb3.A2C, SpikingActorCriticPolicy, "Acrobot-v1", {}),
    "trpo": (sb3_contrib.TRPO, SpikingActorCriticPolicy, "CartPole-v1", SHORT),
    "dqn": (sb3.DQN, SpikingDQNPolicy, "CartPole-v1", REPLAY),
    "qrdqn": (sb3_contrib.QRDQN, SpikingQRDQNPolicy, "CartPole-v1", REPLAY),
    "sac": (sb3.SAC, SpikingSACPolicy, "Pendulum-v1", REPLAY),
    "tqc": (sb3_contrib.TQC, SpikingTQCPolicy, "Pendulum-v1", REPLAY),
    "td3": (sb3.TD3, SpikingTD3Policy, "Pendulum-v1", REPLAY),
    "ddpg": (sb3.DDPG, SpikingTD3Policy, "MountainCarContinuous-v0", REPLAY),
}
NEURONS = {
    "IF": {"neuron": "IF"},
    "LIF zero": {"neuron": "LIF", "neuron_kwargs": {"reset": "zero", "decay": 0.8}},
    "PLIF delayed": {"neuron": "PLIF", "neuron_kwargs": {"delay_steps": 1}},
    "CLIF zero": {"neuron": "CLIF", "neuron_kwargs": {"reset": "zero", "current_decay": 0.6}},
    "ALIF": {"neuron": "ALIF", "neuron_kwargs": {"adaptation": 0.3}},
    "IF 4 bits": {"neuron": "IF", "neuron_kwargs": {"weight_bits": 4, "surrogate": "triangle"}},
}


def model(kind: str, steps: int = 200, **policy_kwargs: Any) -> BaseAlgorithm:
    """A model of a kind above, trained for some steps."""
    algorithm, policy, env, arguments = KINDS[kind]
    torch.set_num_threads(1)
    kwargs = {"sim_steps": 4, "net_arch": [24, 16], **policy_kwargs}
    made = algorithm(policy, env, seed=0, device="cpu", policy_kwargs=kwargs, **arguments)  # type: ignore[call-arg]
    if steps:
        made.learn(steps)
        undecided(made, LAST.get(kind))
    return made


LAST = {
    **dict.fromkeys(("ppo", "a2c", "trpo"), "action_net"),
    "dqn": "q_net.q_net.1",
    "qrdqn": "quantile_net.quantile_net.1",
}


def undecided(trained: BaseAlgorithm, name: str | None, rows: np.ndarray | None = None) -> None:
    """Make no choice the best one everywhere, as it may be after some steps."""
    if name is None:
        return
    last = trained.policy.get_submodule(name)
    assert isinstance(last, torch.nn.Linear)
    seen: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda module, x, y: seen.append(y))
    trained.predict(rows_of(trained) if rows is None else rows, deterministic=True)
    hook.remove()
    with torch.no_grad():
        last.bias.sub_(seen[0].mean(dim=0))


def rows_of(trained: BaseAlgorithm, n: int = 300) -> np.ndarray:
    shape = trained.observation_space.shape
    return np.random.default_rng(0).normal(size=(n, *shape)).astype(np.float32)


def assert_same_actions(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert len(np.unique(theirs.round(4))) > 1
    if theirs.dtype.kind == "f":  # the read-out is added up in float32 by torch, in float64 here
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    else:
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_every_policy_trains_with_every_algorithm_it_names(kind: str) -> None:
    before, after = (dict(model(kind, steps).policy.named_parameters()) for steps in (0, 200))
    spiking = [name for name in before if "layers.0.synapses" in name and "target" not in name]
    assert spiking
    for name in spiking:
        assert not torch.equal(before[name], after[name]), name
        assert torch.isfinite(after[name]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_is_what_is_deployed(kind: str) -> None:
    trained = model(kind)
    rows = rows_of(trained)
    theirs = trained.predict(rows, deterministic=True)[0]
    agent = spikerl.convert(trained, observations=rows)
    assert agent.sim_steps == 4
    for backend in ("cpu", "reference"):
        with HardwarePolicy(agent, backend) as policy:
            assert_same_actions(policy.predict(rows)[0], theirs)


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("kind", ["ppo", "sac", "dqn"])
def test_every_neuron_is_deployed_exactly(kind: str, neuron: str) -> None:
    trained = model(kind, **NEURONS[neuron])
    rows = rows_of(trained)
    agent = spikerl.convert(trained, observations=rows)
    with HardwarePolicy(agent) as policy:
        assert_same_actions(policy.predict(rows)[0], trained.predict(rows, deterministic=True)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_trained_with_delays_acts_the_same_on_nest(kind: str) -> None:
    pytest.importorskip("nest", reason="NEST is not installed")
    trained = model(kind, neuron_kwargs={"delay_steps": 1})
    rows = rows_of(trained, 40)
    agent = spikerl.convert(trained, observations=rows)
    with HardwarePolicy(agent, "nest") as policy:
        assert_same_actions(policy.predict(rows)[0], trained.predict(rows, deterministic=True)[0])


def test_rollouts_and_updates_see_the_same_log_probabilities() -> None:
    trained = model("ppo")
    buffer = trained.rollout_buffer  # type: ignore[attr-defined]
    policy = trained.policy
    trained.collect_rollouts(trained.env, _callback(trained), buffer, 64)  # type: ignore[attr-defined]
    policy.set_training_mode(True)
    data = next(buffer.get(64))
    actions = data.actions.long().flatten()
    _, log_prob, _ = policy.evaluate_actions(data.observations, actions)  # type: ignore[operator]
    close = (log_prob - data.old_log_prob).abs() < 1e-4
    assert close.float().mean() > 0.95  # float32 against float64: a spike may fall to either side


def _callback(trained: BaseAlgorithm) -> Any:
    return trained._setup_learn(64, None)[1]


@pytest.mark.parametrize("kind", ["ppo", "sac", "td3"])
def test_a_critic_spikes_only_where_it_is_asked_to(kind: str) -> None:
    def count(trained: BaseAlgorithm) -> int:
        parts = [m for n, m in trained.policy.named_modules() if "critic" in n or "value_net" in n]
        return sum(isinstance(part, SpikingStack) for part in parts)

    assert count(model(kind, 0)) == 0
    assert count(model(kind, 100, spiking_critic=True)) > 0


@pytest.mark.parametrize("kind", ["sac", "tqc"])
@pytest.mark.parametrize(("bias", "limit"), [(1e3, 2.0), (-1e3, -20.0)])
def test_the_spread_of_actions_stays_within_what_sb3_allows(
    kind: str, bias: float, limit: float
) -> None:
    actor: Any = model(kind, 0).policy.actor
    rows = torch.as_tensor(rows_of(model(kind, 0), 5))
    usual = actor.get_action_dist_params(rows)[1]
    assert ((usual > -20) & (usual < 2)).all()  # of numbers in between nothing is cut
    torch.testing.assert_close(usual, actor.log_std(rows))
    with torch.no_grad():
        actor.log_std[-1].bias.fill_(bias)
    _, log_std, _ = actor.get_action_dist_params(rows)
    assert (log_std == limit).all()
    assert torch.isfinite(actor(rows)).all()


def test_images_go_through_spiking_convolutions() -> None:
    image = spaces.Box(0, 255, (3, 12, 12), np.uint8)
    kernels = {"kernels": [[8, 4, 2], [8, 3, 1]], "features_dim": 32}
    rows = np.random.default_rng(0).integers(0, 256, size=(30, 3, 12, 12), dtype=np.uint8)
    choices, box = spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)
    critics = {"spiking_critic": True}  # SB3's own wants images of at least 36 x 36
    for algorithm, policy, actions, arguments, more, last in (
        (sb3.PPO, SpikingActorCriticPolicy, choices, SHORT, {}, "action_net"),
        (sb3.DQN, SpikingDQNPolicy, choices, REPLAY, {}, "q_net.q_net.0"),
        (sb3.SAC, SpikingSACPolicy, box, REPLAY, critics, None),
    ):
        made: Any = algorithm(
            policy,
            Spaces(image, actions),
            seed=0,
            device="cpu",
            policy_kwargs={"sim_steps": 4, "features_extractor_kwargs": kernels, **more},
            **arguments,
        )
        made.learn(100)
        undecided(made, last, rows)
        agent = spikerl.convert(made, observations=rows)
        assert [type(x).__name__ for x in agent.network.layers] == [
            "Conv2d",
            "Conv2d",
            *["Dense"] * 2,
        ]
        with HardwarePolicy(agent) as deployed:
            theirs = made.predict(rows, deterministic=True)[0]
            assert_same_actions(deployed.predict(rows)[0], theirs)


def test_entries_of_a_dict_are_joined() -> None:
    entries = {"a": spaces.Box(-1, 1, (3,), np.float32), "b": spaces.Discrete(4)}
    env = Spaces(spaces.Dict(entries), spaces.Discrete(3))
    kwargs = {"sim_steps": 4, "net_arch": [16]}
    made = sb3.PPO(SpikingActorCriticPolicy, env, seed=0, policy_kwargs=kwargs, **SHORT)
    made.learn(64)
    rows = {
        "a": np.random.default_rng(0).uniform(-1, 1, (40, 3)).astype(np.float32),
        "b": np.arange(40) % 4,
    }
    agent = spikerl.convert(made, observations=rows)
    with HardwarePolicy(agent) as deployed:
        theirs = made.predict(rows, deterministic=True)[0]
        np.testing.assert_array_equal(deployed.predict(rows)[0], theirs)


def test_a_spiking_policy_learns_to_balance() -> None:
    torch.set_num_threads(1)
    env = Monitor(gym.make("CartPole-v1"))
    made = sb3.PPO(
        SpikingActorCriticPolicy,
        env,
        seed=1,
        device="cpu",
        n_steps=256,
        learning_rate=2e-3,
        gamma=0.98,
        gae_lambda=0.8,
        policy_kwargs={"sim_steps": 4, "net_arch": [32, 32]},
    )
    before, _ = evaluate_policy(made, env, 5)
    made.learn(6000)
    after, _ = evaluate_policy(made, env, 5)
    assert after > 100 > before


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"neuron": "HH"}, "there are IF, LIF, PLIF, CLIF, ALIF"),
        ({"sim_steps": 0}, "sim_steps must be a whole number >= 1, found 0"),
        ({"neuron_kwargs": {"surrogate": "spline"}}, "there is no surrogate 'spline'; there are"),
        ({"neuron_kwargs": {"leak": 1}}, "there are decay, v_threshold"),
        ({"net_arch": []}, "needs hidden layers"),
    ],
)
def test_what_cannot_be_a_policy_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(SpikerlError, match=message):
        model("dqn", 0, **kwargs)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"clip_mean": 0.0},
        {"clip_mean": 0.3, "use_expln": True, "log_std_init": -2.0},
        {"encoder": "population", "readout": "population"},
    ],
)
@pytest.mark.parametrize("kind", ["sac", "tqc"])
def test_gsde_explores_beside_the_spikes(kind: str, kwargs: dict[str, Any], tmp_path: Path) -> None:
    algorithm, policy, env, _ = KINDS[kind]
    kwargs = {"sim_steps": 4, "net_arch": [24, 16], **kwargs}
    made = algorithm(policy, env, seed=0, use_sde=True, policy_kwargs=kwargs, **REPLAY)  # type: ignore[call-arg]
    spread = made.policy.actor.latent_sde[0].weight.detach().clone()
    made.learn(200)
    assert not torch.equal(made.policy.actor.latent_sde[0].weight, spread)
    rows = 2 * rows_of(made)
    theirs = made.predict(rows, deterministic=True)[0]
    noisy = made.predict(rows, deterministic=False)[0]
    assert not np.allclose(noisy, theirs, atol=1e-3)
    made.save(tmp_path / "gsde.zip")
    again = algorithm.load(tmp_path / "gsde.zip")
    np.testing.assert_array_equal(again.predict(rows, deterministic=True)[0], theirs)
    agent = spikerl.convert(made, observations=rows)
    for backend in ("cpu", "reference"):
        with HardwarePolicy(agent, backend) as deployed:
            assert_same_actions(deployed.predict(rows)[0], theirs)


def test_layers_in_front_of_the_spikes_are_refused() -> None:
    image = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    extractor = sb3.common.torch_layers.NatureCNN
    with pytest.raises(SpikerlError, match="nothing of it would spike; use FlattenExtractor"):
        sb3.PPO(
            SpikingActorCriticPolicy,
            Spaces(image, spaces.Discrete(2)),
            policy_kwargs={"features_extractor_class": extractor, "net_arch": [8]},
        )
    with pytest.raises(SpikerlError, match=r"net_arch is \[8\]: the outputs are read"):
        sb3.PPO(
            SpikingActorCriticPolicy,
            Spaces(image, spaces.Discrete(2)),
            policy_kwargs={"net_arch": [8]},
        )


def test_settings_of_a_conversion_are_refused_for_what_spikes_already() -> None:
    trained = model("dqn", 0)
    with pytest.raises(ConversionError, match=r"(?s)leave these out.*reset='zero'.*sim_steps=16"):
        spikerl.convert(trained, observations=rows_of(trained), sim_steps=16, reset="zero")


def test_a_trained_agent_says_what_it_is_and_keeps_its_steps() -> None:
    trained = model("ppo", neuron_kwargs={"weight_bits": 4, "reset": "zero"})
    agent = spikerl.convert(trained, observations=rows_of(trained))
    assert agent.provenance["recipe"] == {
        "trained": True,
        "sim_steps": 4,
        "weight_bits": [4, 4, 32],
    }
    plain = spikerl.convert(model("ppo", 0), observations=rows_of(trained))
    with HardwarePolicy(agent) as policy, HardwarePolicy(plain) as other:
        sizes = [
            evaluate(p, lambda: gym.make("CartPole-v1"), episodes=1).cost.footprint
            for p in (policy, other)
        ]
    assert sizes[1] - sizes[0] == (4 * 24 + 24 * 16) * (32 - 4) // 8
    with (
        pytest.warns(ConversionWarning, match="was made for 4 steps: at 8 its report"),
        HardwarePolicy(agent, sim_steps=8),
    ):
        pass
