"""Spiking actors for SAC, TQC, TD3 and DDPG. Imports torch, SB3 and sb3-contrib."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from sb3_contrib.tqc.policies import Actor as TQCActor
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, SACPolicy
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.td3.policies import Actor as TD3Actor
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

from spikerl.policies.images import SpikingNatureCNN, nature_cnn
from spikerl.policies.keywords import SpikingKeywords, judge_in_batches


class SpreadBeside:
    """Actors whose log standard deviation comes from a network of its own, not through spikes.

    As in PopSAN (Tang et al. 2020): it is needed for exploration only, and stays behind when the
    spiking network is deployed. Under gSDE (Raffin et al. 2021) the noise is a linear function of
    that network's last hidden layer, where SB3 takes the actor's own.
    """

    def get_action_dist_params(self: Any, obs: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Mean and log standard deviation of the action before tanh; what gSDE's noise is of."""
        features = self.extract_features(obs, self.features_extractor)
        mean = self.mu(self.latent_pi(features))
        if self.use_sde:
            return mean, self.log_std, {"latent_sde": self.latent_sde(features)}
        log_std = torch.clamp(self.log_std(features), LOG_STD_MIN, LOG_STD_MAX)
        return mean, log_std, {}


class SpikingSACActor(SpreadBeside, SACActor):
    """SAC's actor with a mean that is read from spikes."""


class SpikingTQCActor(SpreadBeside, TQCActor):
    """TQC's actor with a mean that is read from spikes."""


class _Continuous(SpikingKeywords):
    """Critics of policies that have Q(s, a): SB3's own, unless they are to spike.

    Where the critic shares the actor's SpikingNatureCNN, its target has one of its own.
    """

    arch_parts: ClassVar[tuple[str, ...]] = ("pi", "qf")

    def _build(self: Any, lr_schedule: Any) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]
        judge_in_batches(self.critic_target)

    def make_critic(self: Any, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        image = self.features_extractor_class is SpikingNatureCNN
        spikes = self.spiking_critic or self.share_features_extractor
        if image and features_extractor is None and not spikes:
            features_extractor = nature_cnn(self.observation_space)
        critic = super().make_critic(features_extractor)  # type: ignore[misc]
        if self.spiking_critic and not image:
            for i, net in enumerate(critic.q_networks):
                n_in = net[0].in_features
                widths = _widths(self.net_arch, "qf")
                hidden = SpikingKeywords._spiking(self, n_in, widths, deployed=False)
                spiking = nn.Sequential(*hidden, net[-1]).to(self.device)
                critic.q_networks[i] = spiking
                critic.add_module(_name_of(critic, net), spiking)
        return critic


class _Gaussian(_Continuous):
    """make_actor() of SAC and TQC."""

    actor_class: type[Any]

    def make_actor(self: Any, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        actor = self.actor_class(**kwargs)
        clipped = isinstance(actor.mu, nn.Sequential)  # under gSDE, unless clip_mean is 0
        last: Any = actor.mu[0] if clipped else actor.mu
        n_actions = last.out_features
        arch = (actor.features_dim, actor.net_arch, actor.features_extractor)
        actor.latent_pi = self._acting(*arch, n_actions)
        read_out = self._read_out(last)
        actor.mu = nn.Sequential(read_out, actor.mu[1]) if clipped else read_out
        beside = list(actor.net_arch)
        if actor.use_sde:
            actor.latent_sde = nn.Sequential(*create_mlp(actor.features_dim, -1, beside))
        else:
            beside = beside or [64]
            actor.log_std = nn.Sequential(*create_mlp(actor.features_dim, n_actions, beside))
        return actor.to(self.device)


class SpikingSACPolicy(_Gaussian, SACPolicy):
    """SB3's SACPolicy with a spiking actor; see SpikingKeywords."""

    actor_class = SpikingSACActor


class SpikingTQCPolicy(_Gaussian, TQCPolicy):
    """sb3-contrib's TQCPolicy with a spiking actor; see SpikingKeywords."""

    actor_class = SpikingTQCActor


class SpikingTD3Policy(_Continuous, TD3Policy):
    """SB3's TD3Policy with a spiking actor, for TD3 and DDPG; see SpikingKeywords."""

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> TD3Actor:
        actor: TD3Actor = super().make_actor(features_extractor)
        last: Any = actor.mu[-2]
        arch = (actor.features_dim, actor.net_arch, actor.features_extractor)
        hidden = self._acting(*arch, last.out_features)
        actor.mu = nn.Sequential(*hidden, self._read_out(last), actor.mu[-1]).to(self.device)
        return actor

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        judge_in_batches(self.actor_target)


def _widths(net_arch: Any, part: str) -> list[int]:
    return list(net_arch[part] if isinstance(net_arch, dict) else net_arch)


def _name_of(owner: nn.Module, part: nn.Module) -> str:
    return next(name for name, module in owner.named_children() if module is part)
