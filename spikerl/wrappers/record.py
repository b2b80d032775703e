"""RecordSpikes: a Gymnasium wrapper that keeps what a policy's neurons did, beside the episode.

Imports gymnasium, decisions, episode and hardware.
"""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs

from spikerl.episode import EpisodeRecording
from spikerl.errors import SpikerlError
from spikerl.hardware import HardwarePolicy
from spikerl.wrappers.decisions import EpisodeDecisions, SharedPolicy, check_recording, panel


class RecordingSpec(EnvSpec):
    """The spec of an environment around which there is a RecordSpikes: JSON cannot hold a policy.

    Whatever wraps the environment further copies it, so the sentence below is theirs as well.
    """

    def to_json(self) -> str:
        """Raises SpikerlError while a policy is among the wrappers' arguments."""
        for wrapper in self.additional_wrappers:
            if any(isinstance(v, SharedPolicy) for v in (wrapper.kwargs or {}).values()):
                raise SpikerlError(
                    "RecordSpikes holds a policy, which JSON cannot: write the spec of the "
                    "environment without the wrapper, and put RecordSpikes(env, policy) around "
                    "what is made of it"
                )
        return super().to_json()


class RecordSpikes(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Keeps spikes, potentials and values of the decisions a HardwarePolicy makes for this episode.

    policy: decides outside, as ever; made with record_spikes=True. Each step() notes its last
            recording, if that is a new one: repeated or random actions have no decision.
    folder: where every episode with a decision becomes episode-00000.npz and so on, counting on
            from what is there, when it ends or is given up; None keeps the present one only. Read
            them with EpisodeRecording.load().
    last:   decisions kept of an episode, the latest; None keeps all, for as long as memory lasts.
    row:    of the policy's batch, where it decides for several environments at once.
    beside: with render_mode="rgb_array", frames of render() have a raster of the latest decisions
            at their right (extra `plots`), so that RecordVideo around this records both.

    A policy stays in its process: a spec made of this environment makes it again here, but cannot
    become JSON or be pickled. Observations, actions and rewards are as they were.
    Raises SpikerlError for a policy that records no spikes, or anything else that does not fit.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        policy: HardwarePolicy | SharedPolicy,
        folder: str | os.PathLike[str] | None = None,
        *,
        last: int | None = 1000,
        row: int = 0,
        beside: bool = True,
    ) -> None:
        if isinstance(policy, SharedPolicy):
            policy = policy.policy
        place = None if folder is None else os.fspath(folder)
        options: dict[str, Any] = {"folder": place, "last": last, "row": row, "beside": beside}
        RecordConstructorArgs.__init__(self, policy=SharedPolicy(policy), **options)
        gym.Wrapper.__init__(self, env)
        check_recording(policy, last, row, beside, env.render_mode)
        spec = env.spec
        name = type(self.unwrapped).__name__ if spec is None else spec.id
        # shared, so that a copy of the environment shares it too
        self._decisions = EpisodeDecisions(SharedPolicy(policy), row, name, place, last)
        self._panel = panel(policy, beside, env.render_mode)

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]  # as Wrapper itself has it
        """The environment's with this wrapper; it makes both again in this process."""
        plain = super().spec
        if plain is None or isinstance(plain, RecordingSpec):
            return plain
        given = {entry.name: getattr(plain, entry.name) for entry in fields(plain) if entry.init}
        self._cached_spec = RecordingSpec(**given)
        return self._cached_spec

    @property
    def policy(self) -> HardwarePolicy:
        """Whose decisions are recorded."""
        return self._decisions.policy

    @property
    def episode(self) -> EpisodeRecording:
        """What is held of the present episode, or of the one that has just ended."""
        return self._decisions.episode

    @property
    def folder(self) -> Path | None:
        """Where the files go."""
        return self._decisions.folder

    @property
    def saved(self) -> Path | None:
        """The file of the last episode."""
        return self._decisions.saved

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._decisions.save()
        self._decisions.begin(seed)
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._decisions.note(action)
        observation, reward, terminated, truncated, info = super().step(action)
        self._decisions.count(reward, terminated, truncated)
        return observation, reward, terminated, truncated, info

    def render(self) -> Any:
        """The environment's frame, with a raster of the latest decisions at its right."""
        frame = super().render()
        if self._panel is None or frame is None:
            return frame
        return self._decisions.beside(frame, self._panel)

    def close(self) -> None:
        """Save an episode that has not ended, and close the environment."""
        self._decisions.save()
        super().close()
