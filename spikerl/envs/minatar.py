"""Registers MinAtar's games with Gymnasium as it is imported, for rl-zoo's --gym-packages.

MinAtar (Young & Tian 2019) is `pip install --no-deps minatar`; importing it registers nothing.
"""

from __future__ import annotations

import gymnasium as gym

from spikerl.errors import SpikerlError

try:
    from minatar.gym import register_envs
except ImportError:
    raise SpikerlError(
        "MinAtar is not installed; install it: pip install --no-deps minatar"
    ) from None

if "MinAtar/Breakout-v1" not in gym.registry:
    register_envs()
