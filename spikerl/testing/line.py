"""The smallest environment that closes a loop. Imported when a check needs it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

SCALE = 2.0  # the largest observation


class Line(gymnasium.Env[NDArray[np.float32], np.int64]):
    """A point on a line is pushed left, not at all or right, and drifts; all numbers are dyadic."""

    observation_space = spaces.Box(-SCALE, SCALE, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, start: float) -> None:
        self._start = start
        self._place = np.zeros(2, dtype=np.float32)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Back to the start, a little further right each time."""
        self._start += 0.125
        self._place = np.array([self._start, -self._start / 2], dtype=np.float32)
        self._steps = 0
        return self._place.copy(), {}

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move; the episode ends after ten steps or at the end of the line."""
        self._place += np.array([(int(action) - 1) / 4 + 0.125, 0.0625], dtype=np.float32)
        self._place = np.clip(self._place, -SCALE, SCALE)
        self._steps += 1
        out = bool(abs(self._place[0]) >= SCALE)
        return self._place.copy(), -abs(float(self._place[0])), out, self._steps >= 10, {}
