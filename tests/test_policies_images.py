"""Images in spiking policies: bytes and floats, extractors that are shared and that are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from policies import Spaces, box

import spikerl
from spikerl import HardwarePolicy, policies
from spikerl.policies.images import SpikingNatureCNN
from spikerl.policies.keywords import stacks

CONTINUOUS: dict[str, tuple[Any, Any]] = {
    "sac": (sb3.SAC, policies.SpikingSACPolicy),
    "tqc": (sb3_contrib.TQC, policies.SpikingTQCPolicy),
    "td3": (sb3.TD3, policies.SpikingTD3Policy),
}
SMALL = {"kernels": [[4, 6, 4], [4, 3, 2]], "features_dim": 16}
REPLAY = {"buffer_size": 60, "learning_starts": 10, "batch_size": 8}
BYTES = spaces.Box(0, 255, (1, 36, 36), np.uint8)
FLOATS = spaces.Box(0, 1, (1, 36, 36), np.float32)


def made(kind: str, space: spaces.Space[Any], steps: int = 16, **policy_kwargs: Any) -> Any:
    torch.set_num_threads(1)
    algorithm, policy = CONTINUOUS[kind]
    kwargs = {"sim_steps": 3, "features_extractor_kwargs": dict(SMALL), **policy_kwargs}
    env = Spaces(space, box(2))
    return algorithm(policy, env, seed=0, device="cpu", policy_kwargs=kwargs, **REPLAY).learn(steps)


def seen(space: spaces.Box, n: int = 30) -> np.ndarray:
    rng = np.random.default_rng(0)
    if space.dtype == np.uint8:
        return rng.integers(0, 256, (n, *space.shape), dtype=np.uint8)
    return rng.uniform(0, 1, (n, *space.shape)).astype(np.float32)


def check_deployed(model: Any, rows: np.ndarray) -> None:
    """The agent's actions are the model's, and they are not all the same."""
    agent = spikerl.convert(model, observations=rows)
    theirs = model.predict(rows, deterministic=True)[0]
    assert len(np.unique(theirs.reshape(len(rows), -1), axis=0)) > 1
    with HardwarePolicy(agent) as deployed:
        np.testing.assert_allclose(deployed.predict(rows)[0], theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("share", [False, True], ids=["two extractors", "one extractor"])
@pytest.mark.parametrize("kind", CONTINUOUS)
def test_a_critic_may_share_the_extractor_of_images(kind: str, share: bool, tmp_path: Path) -> None:
    model = made(kind, BYTES, share_features_extractor=share)
    actor, critic, target = (
        net.features_extractor for net in (model.actor, model.critic, model.critic_target)
    )
    assert isinstance(actor, SpikingNatureCNN)
    assert (critic is actor) == share
    assert type(target) is type(critic)
    assert isinstance(critic, SpikingNatureCNN) == share
    assert target is not critic
    rows = seen(BYTES)
    check_deployed(model, rows)
    model.save(tmp_path / "model.zip")
    model.policy.save(tmp_path / "policy.pth")
    theirs = model.predict(rows, deterministic=True)[0]
    again = type(model).load(tmp_path / "model.zip", env=model.get_env(), device="cpu")
    np.testing.assert_array_equal(again.predict(rows, deterministic=True)[0], theirs)
    again.learn(16)
    alone = type(model.policy).load(tmp_path / "policy.pth", device="cpu")
    assert alone.share_features_extractor == share
    np.testing.assert_array_equal(alone.predict(rows, deterministic=True)[0], theirs)


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_the_target_of_a_shared_extractor_follows_it(kind: str) -> None:
    model = made(kind, BYTES, 0, share_features_extractor=True)
    target = [p.clone() for p in model.critic_target.features_extractor.parameters()]
    now = model.critic.features_extractor.parameters()
    for kept, own in zip(target, now, strict=True):
        assert torch.equal(kept, own)
    model.learn(16)
    moved = list(model.critic_target.features_extractor.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(target, moved, strict=True))


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_a_target_network_is_on_no_chip(kind: str) -> None:
    keywords = {"spiking_critic": True, "neuron_kwargs": {"mismatch": 0.3}}
    model = made(kind, BYTES, **keywords)
    (target,), (actor,) = (list(stacks(net)) for net in (model.critic_target, model.actor))
    assert all(layer.chip is None for layer in target.layers)
    assert all(layer.chip is not None for layer in actor.layers)
