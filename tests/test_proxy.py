"""TD3 with a proxy target: it follows the spiking actor, and stays behind when that is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from policies import Spaces
from stable_baselines3 import TD3
from test_policies import REPLAY, assert_same_actions, rows_of

import spikerl
from spikerl import HardwarePolicy
from spikerl.errors import SpikerlError
from spikerl.nn.stack import SpikingStack
from spikerl.policies import ProxyTD3, ProxyTD3Policy, SpikingTD3Policy


def proxy(steps: int = 150, *, env: Any = "Pendulum-v1", **changes: Any) -> ProxyTD3:
    torch.set_num_threads(1)
    keywords = changes.pop("policy_kwargs", {})
    made = ProxyTD3(
        ProxyTD3Policy,
        env,
        seed=0,
        device="cpu",
        policy_kwargs={"sim_steps": 4, "net_arch": [24, 16], "proxy_arch": [32, 32], **keywords},
        **{**REPLAY, **changes},
    )
    if steps:
        made.learn(steps)
    return made


def distance(made: ProxyTD3) -> float:
    """Mean square of what the proxy's actions differ by from the actor's."""
    with torch.no_grad():
        rows = torch.as_tensor(rows_of(made))
        return float(((made.actor(rows) - made.actor_target(rows)) ** 2).mean())


def test_the_proxy_does_not_spike_and_follows_the_actor() -> None:
    made = proxy(0)
    assert not any(isinstance(part, SpikingStack) for part in made.actor_target.modules())
    assert any(isinstance(part, SpikingStack) for part in made.actor.modules())
    before = distance(made)
    made.learn(300)
    assert distance(made) < before / 3


def test_only_the_regression_moves_the_proxy() -> None:
    made = proxy(60)
    kept = [p.clone() for p in made.actor_target.parameters()]
    batch = made._sampled(32)
    made.policy.set_training_mode(True)
    targets = [p.clone() for p in made.critic_target.parameters()]
    actor = [p.clone() for p in made.actor.parameters()]
    made._judge(batch)
    made._improve(batch)
    for now, was in zip(made.actor_target.parameters(), kept, strict=True):
        assert torch.equal(now, was)
    assert any(
        not torch.equal(now, was)
        for now, was in zip(made.critic_target.parameters(), targets, strict=True)
    )
    improved = [p.clone() for p in made.actor.parameters()]
    assert any(not torch.equal(now, was) for now, was in zip(improved, actor, strict=True))
    made._follow(batch)
    assert all(
        not torch.equal(now, was)
        for now, was in zip(made.actor_target.parameters(), kept, strict=True)
    )
    for now, was in zip(made.actor.parameters(), improved, strict=True):
        assert torch.equal(now, was)


def test_the_critics_are_told_what_the_proxy_would_do_next() -> None:
    made = proxy(60, target_policy_noise=0.0, gamma=0.5)
    batch = made._sampled(16)
    with torch.no_grad():
        action = made.actor_target(batch.next_observations)
        pair = made.critic_target(batch.next_observations, action)
        target = batch.rewards + (1 - batch.dones) * 0.5 * torch.minimum(*pair)
        found = made.critic(batch.observations, batch.actions)
        expected = sum(float(((q - target) ** 2).mean()) for q in found)
    assert made._judge(batch) == pytest.approx(expected, rel=1e-5)


def test_nothing_is_expected_after_the_end_of_an_episode() -> None:
    made = proxy(60, target_policy_noise=0.0, gamma=0.5)
    batch = made._sampled(16)
    ends = torch.arange(16).remainder(2).float()[:, None]
    batch = batch._replace(dones=ends)
    with torch.no_grad():
        action = made.actor_target(batch.next_observations)
        worth = torch.minimum(*made.critic_target(batch.next_observations, action))
        target = torch.where(ends == 1, batch.rewards, batch.rewards + 0.5 * worth)
        found = made.critic(batch.observations, batch.actions)
        expected = sum(float(((q - target) ** 2).mean()) for q in found)
    assert float(worth[1::2].abs().min()) > 0
    assert made._judge(batch) == pytest.approx(expected, rel=1e-5)


def test_every_gradient_step_has_its_updates_of_the_proxy() -> None:
    made = proxy(0, proxy_updates=2)
    calls: list[str] = []
    for name in ("_follow", "_judge", "_improve"):
        inner = getattr(made, name)

        def counted(batch: Any, name: str = name, inner: Any = inner) -> float:
            calls.append(name)
            return float(inner(batch))

        setattr(made, name, counted)
    made.learn(56)
    updates = made._n_updates
    assert updates >= 4
    expected = []
    for n in range(1, updates + 1):
        expected += ["_follow", "_follow", "_judge", *["_improve"] * (n % made.policy_delay == 0)]
    assert calls == expected


def test_losses_are_logged() -> None:
    made = proxy(60)
    made.train(2, 16)
    logged = made.logger.name_to_value
    assert {"train/proxy_loss", "train/critic_loss", "train/actor_loss"} <= set(logged)
    assert logged["train/proxy_loss"] > 0


def test_trained_with_delays_it_acts_the_same_on_nest() -> None:
    pytest.importorskip("nest", reason="NEST is not installed")
    made = proxy(policy_kwargs={"neuron_kwargs": {"delay_steps": 1}})
    rows = rows_of(made, 40)
    with HardwarePolicy(spikerl.convert(made, observations=rows), "nest") as deployed:
        assert_same_actions(deployed.predict(rows)[0], made.predict(rows, deterministic=True)[0])


@pytest.mark.parametrize("norm", [None, "care_bn"])
def test_the_spiking_actor_alone_is_deployed(norm: str | None, tmp_path: Path) -> None:
    made = proxy(policy_kwargs={"norm": norm, "encoder": "population", "readout": "population"})
    made.save(tmp_path / "model.zip")
    rows = rows_of(made)
    theirs = made.predict(rows, deterministic=True)[0]
    agent = spikerl.convert(made, observations=rows)
    for backend in ("cpu", "reference"):
        with HardwarePolicy(agent, backend) as deployed:
            assert_same_actions(deployed.predict(rows)[0], theirs)
    assert [layer.n_out for layer in agent.network.layers] == [24, 16, 10, 1]
    read = spikerl.convert(tmp_path / "model.zip", observations=rows)
    assert read.network.fingerprint() == agent.network.fingerprint()
    assert read.provenance["source"]["algorithm"] == "proxy_td3"


def test_a_model_with_a_proxy_comes_back_with_both_optimisers(tmp_path: Path) -> None:
    made = proxy()
    made.save(tmp_path / "model.zip")
    again = ProxyTD3.load(tmp_path / "model.zip", device="cpu")
    assert again.proxy_updates == 3
    assert distance(again) == distance(made)
    states = [m.actor_target.optimizer.state_dict()["state"] for m in (made, again)]
    assert len(states[0]) == 6
    for key, state in states[0].items():
        torch.testing.assert_close(state, states[1][key])
    again.set_env(made.get_env())
    again.learn(60)
    assert distance(again) != distance(made)
    again.set_parameters(made.get_parameters())
    assert distance(again) == distance(made)
    rows = rows_of(made)
    np.testing.assert_array_equal(
        again.predict(rows, deterministic=True)[0], made.predict(rows, deterministic=True)[0]
    )


def test_entries_of_a_dict_have_a_proxy_too() -> None:
    entries = {"a": spaces.Box(-1, 1, (3,), np.float32), "b": spaces.Discrete(4)}
    made = proxy(80, env=Spaces(spaces.Dict(entries), spaces.Box(-2, 2, (2,), np.float32)))
    rows = {
        "a": np.random.default_rng(0).uniform(-1, 1, (40, 3)).astype(np.float32),
        "b": np.arange(40) % 4,
    }
    agent = spikerl.convert(made, observations=rows)
    with HardwarePolicy(agent) as deployed:
        assert_same_actions(deployed.predict(rows)[0], made.predict(rows, deterministic=True)[0])


def test_ordinary_policies_and_images_are_refused() -> None:
    for policy in (SpikingTD3Policy, "TD3Policy"):
        with pytest.raises((SpikerlError, ValueError), match=r"ProxyTD3Policy|unknown"):
            ProxyTD3(policy, "Pendulum-v1")
    image = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    with pytest.raises(SpikerlError, match="a proxy target is for vectors"):
        ProxyTD3(ProxyTD3Policy, Spaces(image, spaces.Box(-1, 1, (1,), np.float32)), buffer_size=9)
    with pytest.raises(SpikerlError, match="proxy_updates must be a whole number >= 1, found 0"):
        ProxyTD3("MlpPolicy", "Pendulum-v1", proxy_updates=0)


def test_the_algorithms_name_is_enough() -> None:
    env = gym.make("Pendulum-v1")
    made = ProxyTD3("MlpPolicy", env, buffer_size=50, policy_kwargs={"net_arch": [8]})
    assert isinstance(made.policy, ProxyTD3Policy)
    assert isinstance(made, TD3)
