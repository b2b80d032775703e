"""VectorRecordSpikes: what a policy's neurons did in each environment of a vector.

Imports gymnasium, decisions, episode and hardware.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper

from spikerl.episode import EpisodeRecording
from spikerl.errors import SpikerlError
from spikerl.hardware import HardwarePolicy
from spikerl.network import Recording
from spikerl.wrappers.decisions import (
    EpisodeDecisions,
    SharedPolicy,
    batch,
    check_recording,
    panel,
)


class VectorRecordSpikes(VectorWrapper[Any, Any, Any, Any, Any]):
    """RecordSpikes for vector environments, in each of their autoreset modes.

    policy: decides outside for all environments at once; made with record_spikes=True.
    folder: where every episode of the environment in row i becomes row-i/episode-00000.npz and so
            on; None keeps the present ones only.
    last:   decisions kept of each episode, the latest; None keeps all.
    beside: with render_mode="rgb_array", frames of render() have a raster of the latest decisions
            at their right (extra `plots`), as Gymnasium's vector RecordVideo then has them.

    Where an environment is reset in the step after its last (NEXT_STEP), what the policy decided
    for that step moved nothing and is not kept. Observations, actions and rewards are as they were.
    Raises SpikerlError for a policy that records no spikes, decides for another number of
    environments, or anything else that does not fit.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        policy: HardwarePolicy,
        folder: str | os.PathLike[str] | None = None,
        *,
        last: int | None = 1000,
        beside: bool = True,
    ) -> None:
        VectorWrapper.__init__(self, env)
        check_recording(policy, last, 0, beside, env.render_mode)
        whole: Any = self.unwrapped
        self._separate = isinstance(whole, (SyncVectorEnv, AsyncVectorEnv))
        spec = env.spec
        if spec is None and self._separate:  # made by hand, of environments that may have one
            spec = whole.get_attr("spec")[0]
        name = type(whole).__name__ if spec is None else spec.id
        shared = SharedPolicy(policy)
        places = [None if folder is None else Path(folder, f"row-{i}") for i in range(env.num_envs)]
        self._rows = [
            EpisodeDecisions(shared, i, name, place, last) for i, place in enumerate(places)
        ]
        self._over = np.zeros(self.num_envs, dtype=np.bool_)
        self._mode = getattr(self.metadata.get("autoreset_mode"), "name", "NEXT_STEP")
        self._panel = panel(policy, beside, env.render_mode)

    @property
    def policy(self) -> HardwarePolicy:
        """Whose decisions are recorded."""
        return self._rows[0].policy

    @property
    def episodes(self) -> tuple[EpisodeRecording, ...]:
        """What is held of each environment's present episode, or of one that has just ended."""
        return tuple(row.episode for row in self._rows)

    @property
    def saved(self) -> tuple[Path | None, ...]:
        """The file of each environment's last episode."""
        return tuple(row.saved for row in self._rows)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        # read before: the environments take it out of the options
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=np.bool_))
        # others draw all rows from one generator: no seed of a single environment gives them again
        seeds: list[int | None] = [None] * self.num_envs
        if self._separate and isinstance(seed, (int, np.integer)):
            seeds = [int(seed) + i for i in range(self.num_envs)]
        elif self._separate and seed is not None:
            seeds = list(seed)
        result = self.env.reset(seed=seed, options=options)
        for i in np.flatnonzero(mask):
            self._rows[i].save()
            self._rows[i].begin(seeds[i])
            self._over[i] = False
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        resetting = np.zeros(self.num_envs, dtype=np.bool_)
        for i, row in enumerate(self._rows):
            if self._over[i]:
                resetting[i] = self._mode == "NEXT_STEP"
                row.begin(None, decided=not resetting[i])
            if not resetting[i]:
                self._check(row.pending)
                row.note(actions[i])
        result = self.env.step(actions)
        _, rewards, terminations, truncations, _ = result
        self._over = np.logical_or(terminations, truncations)
        for i in map(int, np.flatnonzero(~resetting)):
            self._rows[i].count(rewards[i], terminations[i], truncations[i])
        return result

    def render(self) -> Any:
        """The environments' frames, each with a raster of its latest decisions at its right."""
        frames = self.env.render()
        if self._panel is None or frames is None:
            return frames
        pairs = zip(self._rows, frames, strict=True)
        return tuple(row.beside(frame, self._panel) for row, frame in pairs)

    def close(self, **arguments: Any) -> None:
        """Save episodes that have not ended, and close the environments."""
        for row in self._rows:
            row.save()
        self.env.close(**arguments)

    def _check(self, recording: Recording | None) -> None:
        if recording is not None and batch(recording) != self.num_envs:
            raise SpikerlError(
                f"the policy decided for {batch(recording)} environments, there are "
                f"{self.num_envs}: make it with n_envs={self.num_envs}"
            )
