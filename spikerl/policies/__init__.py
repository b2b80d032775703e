"""Spiking policies for Stable-Baselines3 and sb3-contrib: pass the class, or name it in rl-zoo.

Imports torch, SB3 and sb3-contrib.
"""

from spikerl.policies.actor_critic import SpikingActorCriticPolicy
from spikerl.policies.common_mode import CommonModeDQNPolicy
from spikerl.policies.continuous import SpikingSACPolicy, SpikingTD3Policy, SpikingTQCPolicy
from spikerl.policies.dqn import SpikingDQNPolicy, SpikingQRDQNPolicy
from spikerl.policies.images import SpikingNatureCNN
from spikerl.policies.proxy import ProxyTD3, ProxyTD3Policy
from spikerl.policies.recalibration import RecalibrateNorm
from spikerl.policies.recurrent import SpikingRecurrentPolicy
from spikerl.policies.slope import SlopeSchedule

__all__ = [
    "CommonModeDQNPolicy",
    "ProxyTD3",
    "ProxyTD3Policy",
    "RecalibrateNorm",
    "SlopeSchedule",
    "SpikingActorCriticPolicy",
    "SpikingDQNPolicy",
    "SpikingNatureCNN",
    "SpikingQRDQNPolicy",
    "SpikingRecurrentPolicy",
    "SpikingSACPolicy",
    "SpikingTD3Policy",
    "SpikingTQCPolicy",
]
