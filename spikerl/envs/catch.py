"""Catch: a ball falls, a paddle at the bottom meets it or not; 84 x 84 pixels, no other package.

After the game in Mnih et al. 2014 (Recurrent models of visual attention), with pixels and a drift.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from spikerl.errors import SpikerlError

SIZE = 84  # pixels, both ways: what SB3's NatureCNN was made for
BALL, PADDLE = 4, 12  # pixels, the ball's edge and the paddle's width
STEP = 4  # pixels that the ball falls and the paddle moves
_ZOOM = 4
_BALL_COLOUR, _PADDLE_COLOUR = (213, 94, 0), (0, 114, 178)  # told apart by all eyes


class Catch(gym.Env[NDArray[np.uint8], np.int64]):
    """Catch a falling ball: 1 for a catch, -1 for a miss, after 20 steps.

    Observations: uint8 [84, 84, 1], 255 where the ball (4 x 4) or the paddle (12 x 4) is.
    Actions: 0 left, 1 stay, 2 right, by 4 pixels.
    drift:   the ball moves sideways by up to so many pixels a step and bounces off the walls; one
             picture does not show where it goes.
    Raises SpikerlError for a drift that the paddle cannot follow, or another render_mode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's

    def __init__(self, render_mode: str | None = None, drift: int = 2) -> None:
        if isinstance(drift, bool) or drift not in range(STEP):
            raise SpikerlError(f"drift is {drift!r}; wanted 0 to {STEP - 1} pixels a step")
        if render_mode not in (None, "rgb_array"):
            raise SpikerlError(f"render_mode is {render_mode!r}; Catch has 'rgb_array' only")
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 1), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.drift = int(drift)
        self.ball = (0, 0)  # left, top
        self.paddle = 0  # left
        self._sideways = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self.ball = (int(self.np_random.integers(SIZE - BALL + 1)), 0)
        self._sideways = int(self.np_random.integers(-self.drift, self.drift + 1))
        self.paddle = (SIZE - PADDLE) // 2
        return self._picture(), {}

    def step(
        self, action: np.int64 | int
    ) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        moved = self.paddle + STEP * (int(action) - 1)
        self.paddle = min(max(moved, 0), SIZE - PADDLE)
        left, top = self.ball
        left, most = left + self._sideways, SIZE - BALL
        if not 0 <= left <= most:
            left = -left if left < 0 else 2 * most - left
            self._sideways = -self._sideways
        self.ball = (left, top + STEP)
        landed = top + STEP >= SIZE - BALL
        reward = 0.0
        if landed:
            reward = 1.0 if self.paddle - BALL < left < self.paddle + PADDLE else -1.0
        return self._picture(), reward, landed, False, {}

    def render(self) -> Any:
        """The board four times as large, in colours; None without a render_mode."""
        if self.render_mode is None:
            return None
        board = np.full((SIZE, SIZE, 3), 255, dtype=np.uint8)
        for (rows, columns), colour in zip(
            self._places(), (_PADDLE_COLOUR, _BALL_COLOUR), strict=True
        ):
            board[rows, columns] = colour
        return board.repeat(_ZOOM, axis=0).repeat(_ZOOM, axis=1)

    def _picture(self) -> NDArray[np.uint8]:
        board = np.zeros((SIZE, SIZE, 1), dtype=np.uint8)
        for rows, columns in self._places():
            board[rows, columns] = 255
        return board

    def _places(self) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        left, top = self.ball
        paddle = slice(SIZE - BALL, SIZE), slice(self.paddle, self.paddle + PADDLE)
        return paddle, (slice(top, top + BALL), slice(left, left + BALL))
