"""Spiking policies for Stable-Baselines3 and sb3-contrib: pass the class, or name it in rl-zoo.

Imports torch, SB3 and sb3-contrib.
"""

from spikerl.policies.actor_critic import SpikingActorCriticPolicy
from spikerl.policies.continuous import SpikingSACPolicy, SpikingTD3Policy, SpikingTQCPolicy
from spikerl.policies.dqn import SpikingDQNPolicy, SpikingQRDQNPolicy
from spikerl.policies.images import SpikingNatureCNN
from spikerl.policies.recurrent import SpikingRecurrentPolicy
from spikerl.policies.slope import SlopeSchedule

__all__ = [
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
