"""RecalibrateNorm: exact moments for normalised spiking policies, now and then. Imports SB3."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy

from spikerl.errors import SpikerlError, checked_whole, listed
from spikerl.nn.normalisation import BatchNorm


class RecalibrateNorm(BaseCallback):
    """Replaces the kept moments by those of many replayed batches (Re-BN of CaRe-BN).

    Weights move while moments are gathered over the past, so the two drift apart; what is computed
    here belongs to the weights of the moment. The last time is the end of training, so that the
    policy is deployed as it was recalibrated.

    every:    environment steps from one time to the next.
    n_batches, batch_size: of observations from the replay buffer.
    Raises SpikerlError for a policy without norm, or an algorithm without replay buffer.
    """

    def __init__(
        self, every: int = 5_000, n_batches: int = 100, batch_size: int = 256, verbose: int = 0
    ) -> None:
        super().__init__(verbose)
        problems = [
            *checked_whole("every", every),
            *checked_whole("n_batches", n_batches),
            *checked_whole("batch_size", batch_size, least=2),
        ]
        if problems:
            raise SpikerlError(listed("moments cannot be recalibrated so", problems))
        self.every, self.n_batches, self.batch_size = every, n_batches, batch_size
        self._last = 0

    def _on_training_start(self) -> None:
        _norms(self.model)
        self._last = self.num_timesteps

    def _on_step(self) -> bool:
        if self.num_timesteps - self._last >= self.every:
            self._last = self.num_timesteps
            recalibrate(self.model, self.n_batches, self.batch_size)
        return True

    def _on_training_end(self) -> None:
        recalibrate(self.model, self.n_batches, self.batch_size)


@torch.no_grad()
def recalibrate(model: BaseAlgorithm, n_batches: int = 100, batch_size: int = 256) -> None:
    """Give the acting network's layers the exact moments over replayed batches, layer by layer.

    Layers normalise by what is gathered so far while later ones gather theirs, as in training.
    Nothing happens while the buffer is empty. Raises SpikerlError as RecalibrateNorm does.
    """
    norms, buffer = _norms(model)
    policy: Any = model.policy
    assert isinstance(policy, BasePolicy)
    if buffer.size() == 0:
        return
    training = policy.training
    policy.set_training_mode(True)
    for norm in norms:
        norm.gather()
    try:
        for _ in range(n_batches):
            batch = buffer.sample(batch_size, env=model._vec_normalize_env)
            policy._predict(batch.observations, deterministic=True)
    finally:
        for norm in norms:
            norm.settle()
        policy.set_training_mode(training)


def _norms(model: BaseAlgorithm) -> tuple[list[BatchNorm], Any]:
    """The norms of what acts, and the replay buffer."""
    policy: Any = model.policy
    acting = next(
        (
            getattr(policy, name)
            for name in ("actor", "q_net", "quantile_net")
            if isinstance(getattr(policy, name, None), torch.nn.Module)
        ),
        policy,
    )
    norms = [part for part in acting.modules() if isinstance(part, BatchNorm)]
    buffer = getattr(model, "replay_buffer", None)
    if not norms:
        raise SpikerlError('the policy has no norm to recalibrate; pass norm="care_bn" to it')
    if buffer is None:
        raise SpikerlError(f"{type(model).__name__} has no replay buffer to recalibrate from")
    return norms, buffer
