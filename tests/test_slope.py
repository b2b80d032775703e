"""The slope of surrogate gradients follows its schedule through a training run."""

from __future__ import annotations

from typing import Any

import pytest
import stable_baselines3 as sb3
from stable_baselines3.common.callbacks import BaseCallback

from spikerl.errors import SpikerlError
from spikerl.policies import SlopeSchedule, SpikingActorCriticPolicy, SpikingSACPolicy
from spikerl.policies.keywords import stacks


class Watch(BaseCallback):
    """Slopes at the beginning of every rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[set[float]] = []

    def _on_rollout_start(self) -> None:
        layers = [layer for stack in stacks(self.model.policy) for layer in stack.layers]
        self.seen.append({layer.surrogate.slope for layer in layers})  # type: ignore[union-attr]

    def _on_step(self) -> bool:
        return True


def small(kind: str) -> Any:
    kwargs = {"sim_steps": 2, "net_arch": [8]}
    if kind == "ppo":
        return sb3.PPO(
            SpikingActorCriticPolicy, "CartPole-v1", n_steps=32, batch_size=32, seed=0,
            device="cpu", policy_kwargs=kwargs,
        )  # fmt: skip
    return sb3.SAC(
        SpikingSACPolicy, "Pendulum-v1", learning_starts=8, train_freq=32, seed=0, device="cpu",
        policy_kwargs=kwargs,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["ppo", "sac"])
def test_slopes_go_from_start_to_end_in_the_fraction_given(kind: str) -> None:
    watch = Watch()
    small(kind).learn(128, callback=[SlopeSchedule(1.0, 5.0, fraction=0.5), watch])
    assert [slopes.pop() for slopes in watch.seen][:4] == [1.0, 3.0, 5.0, 5.0]


def test_what_cannot_be_scheduled_is_refused() -> None:
    with pytest.raises(
        SpikerlError, match=r"start must be .* found 0; fraction must be .* found 2"
    ):
        SlopeSchedule(0, 1.0, fraction=2)
    model = sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, device="cpu")
    with pytest.raises(SpikerlError, match="ActorCriticPolicy has no spiking layers"):
        model.learn(32, callback=SlopeSchedule())
