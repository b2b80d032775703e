"""KeepEntries: a Gymnasium wrapper that hides all but some numbers of an observation.

Imports gymnasium, agent, errors and arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from spikerl.errors import SpikerlError, checked_whole
from spikerl.wrappers.arguments import plain


class KeepEntries(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Observations [n] become those of their entries, in the order given.

    Without velocities an agent has to remember: membranes can. rl-zoo's MaskVelocityWrapper hides
    as much, but keeps zeros in their places.
    Raises SpikerlError for entries that are not there, or observations that are no Box [n].
    """

    def __init__(self, env: gym.Env[Any, Any], entries: Sequence[int]) -> None:
        RecordConstructorArgs.__init__(self, entries=plain(entries))
        gym.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise SpikerlError(f"entries are kept of a Box [n], found {space}")
        found, last = plain(entries), space.shape[0] - 1
        whole = isinstance(found, list) and not any(checked_whole("", i, least=0) for i in found)
        if not whole or not found or max(found) > last:
            raise SpikerlError(f"entries is {entries!r}; wanted some of 0 to {last}, in a list")
        self._entries = np.array(found)
        low, high = space.low[self._entries], space.high[self._entries]
        self.observation_space = spaces.Box(low, high, dtype=space.dtype.type)

    def observation(self, observation: Any) -> NDArray[Any]:
        """The entries that are kept."""
        kept: NDArray[Any] = np.asarray(observation)[self._entries]
        return kept
