"""Spiking actors for PPO, A2C and TRPO. Imports torch and SB3."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim
from torch import Tensor, nn

from spikerl.errors import SpikerlError
from spikerl.policies.images import SpikingNatureCNN, nature_cnn
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

    arch_parts: ClassVar[tuple[str, ...]] = ("pi", "vf")

    def _build_mlp_extractor(self) -> None:
        image = self.features_extractor_class is SpikingNatureCNN
        if image and not (self.share_features_extractor or self.spiking_critic):
            self.vf_features_extractor = nature_cnn(self.observation_space, self.features_dim)
        super()._build_mlp_extractor()
        plain = self.mlp_extractor
        arch = self.net_arch
        pi, vf = (
            (arch.get("pi", []), arch.get("vf", [])) if isinstance(arch, dict) else (arch, arch)
        )
        if self.parts.norm is not None:
            raise SpikerlError(
                f"norm={self.parts.norm!r} would make the updates of PPO, A2C and TRPO see other "
                "probabilities than the rollouts did; it is for DQN, QR-DQN, SAC, TQC and TD3"
            )
        n_values = _n_values(self.action_space)
        actor = self._acting(self.features_dim, pi, self.pi_features_extractor, n_values)
        critic: nn.Module = plain.value_net
        if self.spiking_critic:
            critic = self._spiking(self.features_dim, vf, self.vf_features_extractor, False)
        read_out = self.parts.read_out(n_values)
        latent = plain.latent_dim_pi if read_out is None else read_out.weight.numel()
        widths = (latent, plain.latent_dim_vf)
        self.mlp_extractor = SpikingExtractor(actor, critic, widths).to(self.device)  # type: ignore[assignment]

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        initialise_stacks(self)
        read_out = self.parts.read_out(_n_values(self.action_space))
        if read_out is not None:
            if self.ortho_init:
                read_out.initialise(gain=0.01)  # as SB3 starts the layer it stands for
            self.action_net = read_out.to(self.device)
            self.optimizer = self.optimizer_class(
                self.parameters(),
                lr=lr_schedule(1),  # type: ignore[call-arg]
                **self.optimizer_kwargs,
            )


def _n_values(space: spaces.Space[Any]) -> int:
    """Logits or means that the policy of SB3 wants for an action space."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.MultiBinary):
        return int(np.prod(space.shape))
    return get_action_dim(space)
