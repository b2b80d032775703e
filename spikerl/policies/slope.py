"""SlopeSchedule: surrogate gradients that start shallow and grow steep. Imports torch and SB3."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from spikerl.errors import SpikerlError
from spikerl.nn.layer import SpikingLayer
from spikerl.nn.memory import SpikingMemory


class SlopeSchedule(BaseCallback):
    """Moves the slope of every surrogate gradient from start to end while a policy trains.

    Shallow gradients reach far and are wrong in detail, steep ones are right and soon vanish; in
    reinforcement learning schedules did better than a fixed slope (arXiv 2510.24461). In rl-zoo:
    `callback: [{spikerl.policies.SlopeSchedule: {start: 0.5, end: 4.0}}]`.

    start, end: slopes, see spikerl.nn.surrogates.
    fraction:   of the training after which end is reached; linear until then.
    Raises SpikerlError for numbers that cannot be, and where nothing spikes.
    """

    def __init__(
        self, start: float = 0.5, end: float = 4.0, fraction: float = 1.0, verbose: int = 0
    ) -> None:
        super().__init__(verbose)
        problems = [
            f"{name} must be a number > 0{also}, found {value!r}"
            for name, value, most, also in (
                ("start", start, float("inf"), ""),
                ("end", end, float("inf"), ""),
                ("fraction", fraction, 1.0, " and at most 1"),
            )
            if not isinstance(value, (int, float)) or not 0 < value <= most
        ]
        if problems:
            raise SpikerlError("; ".join(problems))
        self.start, self.end, self.fraction = float(start), float(end), float(fraction)
        self._surrogates: list[Any] = []

    def _on_training_start(self) -> None:
        parts = self.model.policy.modules()
        self._surrogates = [
            p.surrogate for p in parts if isinstance(p, (SpikingLayer, SpikingMemory))
        ]
        if not self._surrogates:
            raise SpikerlError(
                f"{type(self.model.policy).__name__} has no spiking layers whose slope could change"
            )
        self._set()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._set()

    def _set(self) -> None:
        total = self.locals.get("total_timesteps") or self.model._total_timesteps
        done = min(1.0, self.num_timesteps / max(1, total) / self.fraction)
        slope = self.start + done * (self.end - self.start)
        for surrogate in self._surrogates:
            surrogate.slope = slope
        self.logger.record("train/surrogate_slope", slope)
