"""CommonModeDQNPolicy: the value all actions share comes from an ordinary network while training.

Imports torch and SB3. CMC-DSQN (arXiv 2610.07808): at few steps the error of a spiking Q-network is
mostly common to all actions, and enters the bootstrap target undamped, where a choice does not see
it. So that part is left to a network that does not spike:

    Q(s, a) = Q_snn(s, a) - mean over a' of Q_snn(s, a') + C(s)

Both learn from the ordinary loss on Q, which the target is made of too. The greedy action is that
of Q_snn, so C stays behind when the policy acts or is deployed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.dqn.policies import QNetwork
from torch import Tensor, nn

from spikerl.policies.dqn import SpikingDQNPolicy
from spikerl.policies.images import SpikingNatureCNN, nature_cnn
from spikerl.policies.refusals import width_problems


class CommonModeQNetwork(QNetwork):
    """Trains on Q, acts by Q_snn alone."""

    common_extractor: Any
    common: nn.Module

    def forward(self, obs: Any) -> Tensor:
        """Q [B, n_actions], for the loss and its target."""
        values = self.spiking_values(obs)
        shared: Tensor = self.common(self.extract_features(obs, self.common_extractor))
        return values - values.mean(dim=1, keepdim=True) + shared

    def spiking_values(self, obs: Any) -> Tensor:
        """Q_snn [B, n_actions]."""
        found: Tensor = self.q_net(self.extract_features(obs, self.features_extractor))
        return found

    def _predict(self, observation: Any, deterministic: bool = True) -> Tensor:
        return self.spiking_values(observation).argmax(dim=1)


class CommonModeDQNPolicy(SpikingDQNPolicy):
    """SpikingDQNPolicy with common-mode correction, for DQN; the actions are the spiking network's.

    common_arch: hidden layers of C; None for those of net_arch (behind a NatureCNN for images).
    """

    network_class = CommonModeQNetwork

    def __init__(self, *args: Any, common_arch: Sequence[int] | None = None, **kwargs: Any) -> None:
        self.common_arch = common_arch
        super().__init__(*args, **kwargs)

    def _own_problems(self) -> list[str]:
        arch = self.common_arch
        return [] if arch is None else width_problems("common_arch", arch)

    def make_q_net(self) -> QNetwork:
        net: Any = super().make_q_net()
        if isinstance(net.features_extractor, SpikingNatureCNN):
            net.common_extractor = nature_cnn(
                self.observation_space, who="the common value", remedy="use SpikingDQNPolicy"
            )
        else:
            net.common_extractor = self.make_features_extractor()
        arch = net.net_arch if self.common_arch is None else self.common_arch
        net.common = nn.Sequential(*create_mlp(net.common_extractor.features_dim, 1, list(arch)))
        found: QNetwork = net.to(self.device)
        return found

    def rules(self) -> dict[str, Any]:
        arch = self.net_arch if self.common_arch is None else self.common_arch
        return {**super().rules(), "common_arch": [int(n) for n in arch]}

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {
            "common_arch": None if self.common_arch is None else [*self.common_arch]
        }
