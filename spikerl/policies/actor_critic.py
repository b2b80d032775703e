"""Spiking actors for PPO, A2C and TRPO. Imports torch and SB3."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from spikerl.policies.keywords import SpikingKeywords, initialise_stacks


class SpikingExtractor(nn.Module):
    """Stands for SB3's MlpExtractor: policy_net spikes, value_net is SB3's own or spikes too."""

    def __init__(
        self, policy_net: nn.Module, value_net: nn.Module, widths: tuple[int, int]
    ) -> None:
        super().__init__()
        self.policy_net, self.value_net = policy_net, value_net
        self.latent_dim_pi, self.latent_dim_vf = widths

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Latent rows of the actor and of the critic."""
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        """Spikes per step [B, latent_dim_pi]."""
        found: Tensor = self.policy_net(features)
        return found

    def forward_critic(self, features: Tensor) -> Tensor:
        """[B, latent_dim_vf]."""
        found: Tensor = self.value_net(features)
        return found


class SpikingActorCriticPolicy(SpikingKeywords, ActorCriticPolicy):
    """SB3's ActorCriticPolicy with an actor that spikes, for PPO, A2C and TRPO.

    See SpikingKeywords. action_net is a read-out: it sees spikes per step and spreads them into
    logits or means, so exploration never goes through spikes (Tang et al. 2020).
    """

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        plain = self.mlp_extractor
        arch = self.net_arch
        pi, vf = (
            (arch.get("pi", []), arch.get("vf", [])) if isinstance(arch, dict) else (arch, arch)
        )
        actor = self._spiking(self.features_dim, pi, self.pi_features_extractor)
        critic: nn.Module = plain.value_net
        if self.spiking_critic:
            critic = self._spiking(self.features_dim, vf, self.vf_features_extractor, False)
        widths = (plain.latent_dim_pi, plain.latent_dim_vf)
        self.mlp_extractor = SpikingExtractor(actor, critic, widths).to(self.device)  # type: ignore[assignment]

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        initialise_stacks(self)
