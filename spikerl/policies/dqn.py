"""Spiking Q-networks for DQN and QR-DQN. Imports torch, SB3 and sb3-contrib."""

from __future__ import annotations

from typing import Any

from sb3_contrib.qrdqn.policies import QRDQNPolicy, QuantileNetwork
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

from spikerl.policies.keywords import SpikingKeywords, judge_in_batches


class SpikingDQNPolicy(SpikingKeywords, DQNPolicy):
    """SB3's DQNPolicy with a Q-network that spikes; see SpikingKeywords.

    The Q values are the mean potential of a read-out, which takes either sign (Chen et al. 2022
    compare read-outs).
    """

    network_class: type[QNetwork] = QNetwork

    def make_q_net(self) -> QNetwork:
        net = self.network_class(**self._update_features_extractor(self.net_args))
        last: Any = net.q_net[-1]
        arch = (net.features_dim, net.net_arch, net.features_extractor)
        hidden = self._acting(*arch, last.out_features)
        net.q_net = nn.Sequential(*hidden, self._read_out(last)).to(self.device)
        return net

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        judge_in_batches(self.q_net_target)


class SpikingQRDQNPolicy(SpikingKeywords, QRDQNPolicy):
    """sb3-contrib's QRDQNPolicy with a quantile network that spikes; see SpikingKeywords."""

    def make_quantile_net(self) -> QuantileNetwork:
        net = super().make_quantile_net()
        last: Any = net.quantile_net[-1]
        arch = (net.features_dim, net.net_arch, net.features_extractor)
        hidden = self._acting(*arch, last.out_features)
        net.quantile_net = nn.Sequential(*hidden, self._read_out(last)).to(self.device)
        return net

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        judge_in_batches(self.quantile_net_target)
