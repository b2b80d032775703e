"""Every policy refuses the algorithms it does not serve, and says which policy does."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from policies import box
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from spikerl import policies
from spikerl.errors import SpikerlError
from spikerl.policies.serves import SERVES

DISCRETE, CONTINUOUS = "CartPole-v1", "Pendulum-v1"
SHORT = {"n_steps": 8, "batch_size": 8}
REPLAY = {"buffer_size": 50, "learning_starts": 10}
ALGORITHMS: dict[str, tuple[type[BaseAlgorithm], str, dict[str, Any]]] = {
    "PPO": (sb3.PPO, DISCRETE, SHORT),
    "A2C": (sb3.A2C, DISCRETE, {}),
    "TRPO": (sb3_contrib.TRPO, DISCRETE, SHORT),
    "DQN": (sb3.DQN, DISCRETE, REPLAY),
    "QRDQN": (sb3_contrib.QRDQN, DISCRETE, REPLAY),
    "SAC": (sb3.SAC, CONTINUOUS, REPLAY),
    "TQC": (sb3_contrib.TQC, CONTINUOUS, REPLAY),
    "TD3": (sb3.TD3, CONTINUOUS, REPLAY),
    "DDPG": (sb3.DDPG, CONTINUOUS, REPLAY),
    "ProxyTD3": (policies.ProxyTD3, CONTINUOUS, REPLAY),
    "RecurrentPPO": (sb3_contrib.RecurrentPPO, DISCRETE, SHORT),
    "CrossQ": (sb3_contrib.CrossQ, CONTINUOUS, REPLAY),
    "ARS": (sb3_contrib.ARS, DISCRETE, {}),
}
PAIRS = list(itertools.product(SERVES, ALGORITHMS))
RIGHT = [(policy, name) for policy, name in PAIRS if name in SERVES[policy]]
WRONG = [pair for pair in PAIRS if pair not in RIGHT]


def made(policy: Any, algorithm: str, kind: Any = None, **policy_kwargs: Any) -> Any:
    torch.set_num_threads(1)
    usual, env, arguments = ALGORITHMS[algorithm]
    if not isinstance(policy, str) or "Recurrent" not in policy:
        policy_kwargs = {"net_arch": [4], **policy_kwargs}
    policy = getattr(policies, policy) if isinstance(policy, str) else policy
    kind = usual if kind is None else kind
    return kind(policy, env, seed=0, device="cpu", policy_kwargs=policy_kwargs, **arguments)


def test_the_table_has_every_policy_and_every_algorithm_of_it_is_tried() -> None:
    assert set(SERVES) == {name for name in policies.__all__ if name.endswith("Policy")}
    assert {name for served in SERVES.values() for name in served} < set(ALGORITHMS)
    assert {name for _, name in RIGHT} == set(ALGORITHMS) - {"CrossQ", "ARS"}


@pytest.mark.parametrize(("policy", "algorithm"), RIGHT)
def test_a_policy_is_made_by_the_algorithms_it_serves(policy: str, algorithm: str) -> None:
    assert isinstance(made(policy, algorithm).policy, getattr(policies, policy))


@pytest.mark.parametrize(("policy", "algorithm"), WRONG)
def test_a_policy_names_the_one_that_serves_an_algorithm(policy: str, algorithm: str) -> None:
    if algorithm == "ProxyTD3":  # looks at the class before it makes one
        with pytest.raises(SpikerlError, match=r"wants spikerl\.policies\.ProxyTD3Policy, found"):
            made(policy, algorithm)
        return
    others = [name for name, served in SERVES.items() if algorithm in served]
    message = (
        f"{policy} serves {', '.join(SERVES[policy])}; found {algorithm}; {algorithm} is served "
        f"by {' and '.join(others) or 'no policy of spikerl'}"
    )
    with pytest.raises(SpikerlError) as error:
        made(policy, algorithm)
    assert str(error.value) == message


class Mine(sb3.PPO):
    """A user's own, not to be known by its name."""


class OwnPolicy(policies.SpikingActorCriticPolicy):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


def test_subclasses_are_taken_for_what_they_derive_from() -> None:
    assert made("SpikingActorCriticPolicy", "PPO", Mine).learn(16).num_timesteps == 16
    assert isinstance(made(OwnPolicy, "PPO", Mine).policy, OwnPolicy)
    with pytest.raises(SpikerlError, match="found Mine, which is a PPO; PPO is served by Spik"):
        made("SpikingDQNPolicy", "PPO", Mine)
    with pytest.raises(SpikerlError, match=r"^OwnPolicy serves PPO, A2C, TRPO; found DQN; DQN is"):
        made(OwnPolicy, "DQN")
    renamed = type("SAC", (sb3.PPO,), {})
    assert isinstance(made("SpikingActorCriticPolicy", "PPO", renamed), sb3.PPO)


class Fresh(OffPolicyAlgorithm):
    """An algorithm of nobody's family."""

    def __init__(self, policy: Any, env: Any, **kwargs: Any) -> None:
        super().__init__(policy, env, 1e-3, **kwargs)
        self._setup_model()

    def train(self, gradient_steps: int, batch_size: int) -> None:
        raise NotImplementedError


def test_an_algorithm_of_ones_own_is_taken_at_its_word() -> None:
    found = made("SpikingSACPolicy", "SAC", Fresh)
    assert isinstance(found.policy, policies.SpikingSACPolicy)


def alone(kind: type[Any], action: Any) -> Any:
    return kind(box(3), action, lambda _: 1e-3, net_arch=[4])


class MakesOne(BaseCallback):
    """Something that makes policies of its own while an algorithm is at work."""

    def _on_step(self) -> bool:
        self.made = [
            alone(policies.SpikingDQNPolicy, spaces.Discrete(2)),
            alone(policies.SpikingActorCriticPolicy, spaces.Discrete(2)),
        ]
        return True


def test_a_policy_without_an_algorithm_has_nothing_to_refuse(tmp_path: Path) -> None:
    policy = alone(policies.ProxyTD3Policy, box(1))
    policy.save(tmp_path / "policy.pt")
    rows = np.eye(3, dtype=np.float32)
    wanted = policy.predict(rows, deterministic=True)[0]
    for other in (type(policy).load(tmp_path / "policy.pt", device="cpu"), copy.deepcopy(policy)):
        np.testing.assert_array_equal(other.predict(rows, deterministic=True)[0], wanted)
    callback = MakesOne()
    made("SpikingActorCriticPolicy", "PPO").learn(8, callback=callback)
    assert len(callback.made) == 2


def test_a_checkpoint_is_not_loaded_by_another_algorithm(tmp_path: Path) -> None:
    made("SpikingTD3Policy", "TD3").save(tmp_path / "model.zip")
    sb3.TD3.load(tmp_path / "model.zip", device="cpu")
    with pytest.raises(SpikerlError, match="SpikingTD3Policy serves TD3, DDPG; found SAC"):
        sb3.SAC.load(tmp_path / "model.zip", device="cpu")
