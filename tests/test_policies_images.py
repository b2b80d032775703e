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
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN

import spikerl
import spikerl.envs
from spikerl import HardwarePolicy, policies
from spikerl.errors import SpikerlError
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
    """Noise from dark to bright: n images."""
    rng = np.random.default_rng(0)
    bright = np.geomspace(0.01, 1.0, n)[:, None, None, None]
    rows = rng.uniform(0, 1, (n, *space.shape)) * bright * space.high
    return rows.astype(space.dtype)


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


DISCRETE: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "ppo": (sb3.PPO, policies.SpikingActorCriticPolicy, {"n_steps": 16, "batch_size": 16}),
    "dqn": (sb3.DQN, policies.SpikingDQNPolicy, REPLAY),
    "common mode": (sb3.DQN, policies.CommonModeDQNPolicy, REPLAY),
}


def chooser(kind: str, env: Any, **policy_kwargs: Any) -> Any:
    torch.set_num_threads(1)
    algorithm, policy, arguments = DISCRETE[kind]
    kwargs = {"sim_steps": 3, **policy_kwargs}
    return algorithm(policy, env, seed=0, device="cpu", policy_kwargs=kwargs, **arguments)


@torch.no_grad()
def spread(model: Any, rows: np.ndarray) -> None:
    """Every action is the best one of some rows, where those of few updates hardly differ."""
    policy = model.policy
    net = policy.action_net if hasattr(policy, "action_net") else policy.q_net.q_net
    last = [part for part in net.modules() if isinstance(part, torch.nn.Linear)][-1]
    found: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda module, x, y: found.append(y))
    model.predict(rows, deterministic=True)
    hook.remove()
    last.bias.sub_(found[0].mean(dim=0))


def extractor(model: Any) -> Any:
    return getattr(model.policy, "q_net", model.policy).features_extractor


@pytest.mark.parametrize("kind", DISCRETE)
@pytest.mark.parametrize("space", [BYTES, FLOATS], ids=["bytes", "floats"])
def test_images_that_are_not_scaled_are_images(kind: str, space: spaces.Box) -> None:
    keywords = {"normalize_images": False, "features_extractor_kwargs": dict(SMALL)}
    model = chooser(kind, Spaces(space, spaces.Discrete(3)), **keywords).learn(16)
    assert isinstance(extractor(model), SpikingNatureCNN)
    spread(model, seen(space))
    check_deployed(model, seen(space))


def test_events_are_images_where_images_are_not_scaled() -> None:
    env = "spikerl/CatchEvents-v0"
    assert env in spikerl.envs.IDS
    model = chooser("ppo", env, normalize_images=False)
    assert isinstance(extractor(model), SpikingNatureCNN)
    assert isinstance(extractor(chooser("ppo", env, net_arch=[8])), FlattenExtractor)


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_an_ordinary_critic_sees_floats_as_the_spiking_actor_does(kind: str) -> None:
    model = made(kind, FLOATS, normalize_images=False)
    assert isinstance(model.critic.features_extractor, NatureCNN)
    check_deployed(model, seen(FLOATS))
    given = made(kind, FLOATS, features_extractor_class=SpikingNatureCNN)
    assert isinstance(given.critic.features_extractor, NatureCNN)


@pytest.mark.parametrize("spikes", [False, True])
def test_the_critic_of_ppo_has_an_ordinary_extractor_of_its_own(spikes: bool) -> None:
    env = Spaces(BYTES, spaces.Discrete(3))
    keywords = {"features_extractor_kwargs": dict(SMALL), "spiking_critic": spikes}
    model = chooser("ppo", env, share_features_extractor=False, **keywords)
    critic = model.policy.vf_features_extractor
    assert type(critic) is (SpikingNatureCNN if spikes else NatureCNN)
    assert isinstance(model.policy.pi_features_extractor, SpikingNatureCNN)
    before = [part.clone() for part in critic.parameters()]
    model.learn(16)
    assert any(not torch.equal(*pair) for pair in zip(before, critic.parameters(), strict=True))
    spread(model, seen(BYTES))
    check_deployed(model, seen(BYTES))
    small = Spaces(spaces.Box(0, 255, (1, 30, 30), np.uint8), spaces.Discrete(3))
    if not spikes:
        with pytest.raises(SpikerlError, match="the critic sees images through SB3's NatureCNN"):
            chooser("ppo", small, share_features_extractor=False, **keywords)


def test_three_axes_are_no_image_unless_sb3_takes_them_for_one() -> None:
    env = Spaces(spaces.Box(-1, 1, (1, 2, 3), np.float32), spaces.Discrete(3))
    model = chooser("ppo", env, net_arch=[16]).learn(16)
    assert isinstance(extractor(model), FlattenExtractor)
    rows = np.random.default_rng(0).normal(size=(50, 1, 2, 3)).astype(np.float32)
    spread(model, rows)
    check_deployed(model, rows)
    message = r"\(1, 2, 3\) is read as .*a map of 2 x 3 is too small .*FlattenExtractor as"
    with pytest.raises(SpikerlError, match=message):
        chooser("ppo", env, normalize_images=False)
    flat = {"features_extractor_class": FlattenExtractor, "net_arch": [16]}
    plain = chooser("ppo", env, normalize_images=False, **flat)
    assert isinstance(extractor(plain), FlattenExtractor)


@pytest.mark.parametrize("kind", [*CONTINUOUS, "common mode"])
def test_images_too_small_for_an_ordinary_network_are_refused(kind: str) -> None:
    env = Spaces(spaces.Box(0, 255, (1, 35, 40), np.uint8), spaces.Discrete(3))
    message = "SB3's NatureCNN, which wants 36 x 36 at least, found 35 x 40; (pass share|use Spik)"
    make = made if kind in CONTINUOUS else chooser
    seen_by = env.observation_space if kind in CONTINUOUS else env
    with pytest.raises(SpikerlError, match=message):
        make(kind, seen_by, features_extractor_kwargs=dict(SMALL))


def test_images_in_a_dict_are_refused_whether_scaled_or_not() -> None:
    def env(space: spaces.Box) -> Spaces:
        return Spaces(spaces.Dict({"eye": space, "joint": box(2)}), spaces.Discrete(3))

    with pytest.raises(SpikerlError, match="the entries eye of the observation are images"):
        chooser("ppo", env(BYTES))
    with pytest.raises(SpikerlError, match="the entries eye of the observation are images"):
        chooser("ppo", env(FLOATS), normalize_images=False)
    chooser("ppo", env(FLOATS), net_arch=[8])
