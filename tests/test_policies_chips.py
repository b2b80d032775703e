"""Which decisions of training are made on a chip that was drawn, and which as designed."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.callbacks import BaseCallback

from spikerl import policies
from spikerl.policies.keywords import stacks

SHORT = {"n_steps": 16, "batch_size": 16}
REPLAY = {"buffer_size": 100, "learning_starts": 8, "batch_size": 8, "train_freq": 4}
ON_POLICY: dict[str, tuple[Any, Any, str, dict[str, Any]]] = {
    "ppo": (sb3.PPO, policies.SpikingActorCriticPolicy, "CartPole-v1", SHORT),
    "a2c": (sb3.A2C, policies.SpikingActorCriticPolicy, "CartPole-v1", {"n_steps": 16}),
    "trpo": (sb3_contrib.TRPO, policies.SpikingActorCriticPolicy, "CartPole-v1", SHORT),
}
OFF_POLICY: dict[str, tuple[Any, Any, str, dict[str, Any]]] = {
    "dqn": (sb3.DQN, policies.SpikingDQNPolicy, "CartPole-v1", REPLAY),
    "common mode": (sb3.DQN, policies.CommonModeDQNPolicy, "CartPole-v1", REPLAY),
    "qrdqn": (sb3_contrib.QRDQN, policies.SpikingQRDQNPolicy, "CartPole-v1", REPLAY),
    "sac": (sb3.SAC, policies.SpikingSACPolicy, "Pendulum-v1", REPLAY),
    "tqc": (sb3_contrib.TQC, policies.SpikingTQCPolicy, "Pendulum-v1", REPLAY),
    "td3": (sb3.TD3, policies.SpikingTD3Policy, "Pendulum-v1", REPLAY),
    "proxy": (policies.ProxyTD3, policies.ProxyTD3Policy, "Pendulum-v1", REPLAY),
}
DQN_ACTS = {"exploration_fraction": 0.01, "exploration_final_eps": 0.0}


class Asking(BaseCallback):
    """A user who asks for actions while a rollout goes on."""

    def __init__(self, seen: list[Any]) -> None:
        super().__init__()
        self.seen = seen

    def _on_step(self) -> bool:
        self.seen.clear()
        before = self.model.policy.training
        row = np.zeros((1, *self.model.observation_space.shape), np.float32)
        self.model.predict(row, deterministic=False)
        assert self.seen == [(False, None)]
        assert not before
        self.seen.clear()
        return True


def model(kind: str) -> Any:
    torch.set_num_threads(1)
    algorithm, policy, env, arguments = {**ON_POLICY, **OFF_POLICY}[kind]
    kwargs = {"sim_steps": 3, "net_arch": [8], "neuron_kwargs": {"mismatch": 0.3}}
    if algorithm in (sb3.DQN, sb3_contrib.QRDQN):
        arguments = {**arguments, **DQN_ACTS}
    return algorithm(policy, env, seed=0, device="cpu", policy_kwargs=kwargs, **arguments)


def watched(made: Any) -> list[tuple[bool, Any]]:
    """What the acting network is asked from now on: whether it trains, and on which chip."""
    acting = next(
        getattr(made.policy, name)
        for name in ("actor", "q_net", "quantile_net", "mlp_extractor")
        if isinstance(getattr(made.policy, name, None), torch.nn.Module)
    )
    (stack,) = stacks(acting)
    seen: list[tuple[bool, Any]] = []
    stack.register_forward_pre_hook(
        lambda module, _: seen.append((module.training, module.layers[0].chip))
    )
    return seen


def changes(chips: list[Any]) -> int:
    """How often the chip is another one than before."""
    return sum(a is not b for a, b in itertools.pairwise(chips))


@pytest.mark.parametrize("kind", ON_POLICY)
def test_a_rollout_and_its_losses_are_on_one_chip_where_sb3_does_not_predict(kind: str) -> None:
    made = model(kind)
    seen = watched(made)
    made.learn(48)  # three rollouts
    assert {training for training, _ in seen} == {False, True}
    assert all(chip is not None for _, chip in seen)
    assert changes([chip for _, chip in seen]) == 2
    assert changes([chip for training, chip in seen if training]) == 2


@pytest.mark.parametrize("kind", OFF_POLICY)
def test_rollouts_with_a_replay_buffer_act_as_designed_and_losses_are_on_chips(kind: str) -> None:
    made = model(kind)
    seen = watched(made)
    made.learn(24)  # updates behind the steps 12, 16, 20 and 24
    acted = [chip for training, chip in seen if not training]
    learned = [chip for training, chip in seen if training]
    assert acted
    assert all(chip is None for chip in acted)
    assert learned
    assert all(chip is not None for chip in learned)
    updates = 2 if kind == "td3" else 4  # its actor learns every policy_delay
    assert changes(learned) == updates - 1


@pytest.mark.parametrize("kind", ["ppo", "dqn"])
def test_a_user_who_predicts_during_training_gets_the_network_as_designed(kind: str) -> None:
    made = model(kind)
    seen = watched(made)
    made.learn(16, callback=Asking(seen))
    assert [training for training, _ in seen if training]  # what was learned afterwards
    assert all(chip is not None for training, chip in seen if training)
