"""ProxyTD3: TD3 whose target actor is an ordinary network. Imports torch and SB3.

Averaging the weights of a spiking actor moves its actions in jumps, and the critic's targets with
them. Proxy target (Xu et al., arXiv 2505.24161): a ReLU network stands for the target actor, it
follows the spiking actor by regression, and stays behind when that is deployed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3 import TD3
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.td3.policies import Actor
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from spikerl.errors import SpikerlError
from spikerl.policies.continuous import SpikingTD3Policy
from spikerl.policies.images import SpikingNatureCNN
from spikerl.policies.refusals import width_problems


class ProxyTD3Policy(SpikingTD3Policy):
    """SpikingTD3Policy with an ordinary network as target actor, for ProxyTD3.

    proxy_arch: its hidden layers.  proxy_learning_rate: of its own optimiser.
    """

    actor_target: Actor

    def __init__(
        self,
        *args: Any,
        proxy_arch: Sequence[int] = (512, 512),
        proxy_learning_rate: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        self.proxy_arch = proxy_arch
        self.proxy_learning_rate = proxy_learning_rate
        super().__init__(*args, **kwargs)

    def _own_problems(self) -> list[str]:
        found = width_problems("proxy_arch", self.proxy_arch)
        rate = self.proxy_learning_rate
        if not isinstance(rate, (int, float)) or not 0 < rate < float("inf"):
            found.append(f"proxy_learning_rate must be a number > 0, found {rate!r}")
        return found

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        if self.features_extractor_class is SpikingNatureCNN:
            raise SpikerlError("a proxy target is for vectors, found images: use TD3")
        rules = {**self.actor_kwargs, "net_arch": [*self.proxy_arch], "activation_fn": nn.ReLU}
        self.actor_target = Actor(**self._update_features_extractor(rules)).to(self.device)
        self.actor_target.optimizer = self.optimizer_class(
            self.actor_target.parameters(),
            lr=self.proxy_learning_rate,  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )
        self.actor_target.set_training_mode(False)

    def rules(self) -> dict[str, Any]:
        return {**super().rules(), "proxy_arch": [int(n) for n in self.proxy_arch]}

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {
            "proxy_arch": [*self.proxy_arch],
            "proxy_learning_rate": self.proxy_learning_rate,
        }


class ProxyTD3(TD3):
    """SB3's TD3 with a target actor that is regressed onto the spiking one at every step.

    proxy_updates: steps of the proxy per gradient step, each on a batch of its own.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {
        "MlpPolicy": ProxyTD3Policy,
        "MultiInputPolicy": ProxyTD3Policy,
    }

    def __init__(
        self, policy: Any, env: Any, *args: Any, proxy_updates: int = 3, **kwargs: Any
    ) -> None:
        whole = isinstance(proxy_updates, int) and not isinstance(proxy_updates, bool)
        if not whole or proxy_updates < 1:
            raise SpikerlError(f"proxy_updates must be a whole number >= 1, found {proxy_updates}")
        self.proxy_updates = proxy_updates
        super().__init__(policy, env, *args, **kwargs)

    def _setup_model(self) -> None:
        if not issubclass(self.policy_class, ProxyTD3Policy):
            raise SpikerlError(
                f"ProxyTD3 wants spikerl.policies.ProxyTD3Policy, found {self.policy_class}: its "
                "target actor has an optimiser of its own"
            )
        super()._setup_model()

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Per step: the proxy follows, the critics learn; the actor learns every policy_delay."""
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        losses: dict[str, list[float]] = {"proxy": [], "critic": [], "actor": []}
        for _ in range(gradient_steps):
            self._n_updates += 1
            for _ in range(self.proxy_updates):
                batch = self._sampled(batch_size)
                losses["proxy"].append(self._follow(batch))
            losses["critic"].append(self._judge(batch))
            if self._n_updates % self.policy_delay == 0:
                losses["actor"].append(self._improve(batch))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, found in losses.items():
            if found:
                self.logger.record(f"train/{name}_loss", np.mean(found))

    def _sampled(self, batch_size: int) -> ReplayBufferSamples:
        assert self.replay_buffer is not None
        return self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)

    def _follow(self, batch: ReplayBufferSamples) -> float:
        """One step of the proxy towards the spiking actor's actions."""
        with torch.no_grad():
            wanted = self.actor(batch.observations)
        loss = mse_loss(self.actor_target(batch.observations), wanted)
        return _step(self.actor_target.optimizer, loss)

    def _judge(self, batch: ReplayBufferSamples) -> float:
        """One step of the critics: the smaller of their targets at the proxy's next action."""
        with torch.no_grad():
            noise = self.target_policy_noise * torch.randn_like(batch.actions)
            noise = noise.clamp(-self.target_noise_clip, self.target_noise_clip)
            following = (self.actor_target(batch.next_observations) + noise).clamp(-1, 1)
            values = torch.cat(self.critic_target(batch.next_observations, following), dim=1)
            discount = self.gamma if batch.discounts is None else batch.discounts
            worth = values.min(dim=1, keepdim=True).values
            target = batch.rewards + (1 - batch.dones) * discount * worth
        found = self.critic(batch.observations, batch.actions)
        return _step(self.critic.optimizer, torch.stack([mse_loss(q, target) for q in found]).sum())

    def _improve(self, batch: ReplayBufferSamples) -> float:
        """One step of the spiking actor; the target critics follow."""
        actions = self.actor(batch.observations)
        loss = _step(
            self.actor.optimizer, -self.critic.q1_forward(batch.observations, actions).mean()
        )
        for now, kept, tau in (
            (self.critic.parameters(), self.critic_target.parameters(), self.tau),
            (self.critic_batch_norm_stats, self.critic_batch_norm_stats_target, 1.0),
        ):
            polyak_update(now, kept, tau)
        return loss

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        modules, tensors = super()._get_torch_save_params()
        return [*modules, "actor_target.optimizer"], tensors


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()
