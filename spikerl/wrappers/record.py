"""RecordSpikes: a Gymnasium wrapper that keeps what a policy's neurons did, beside the episode.

Imports gymnasium, agent, episode and hardware; plots late, for frames with a raster.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from spikerl.episode import About, EpisodeRecording
from spikerl.errors import SpikerlError, checked_whole, listed
from spikerl.hardware import HardwarePolicy
from spikerl.heads import Binary, Categorical, Gaussian, Head
from spikerl.network import FloatArray, Recording

_NAME = "episode-{:05d}.npz"
_NUMBERED = re.compile(r"episode-(\d+)\.npz")


class SharedPolicy:
    """A policy in the arguments of an environment's spec: shared when copied, never written down.

    gym.make(env.spec) and copy.deepcopy(env) give environments that record the same policy, as long
    as they stay in its process.
    """

    def __init__(self, policy: HardwarePolicy) -> None:
        self.policy = policy

    def __deepcopy__(self, memo: Any) -> SharedPolicy:
        return self

    def __reduce__(self) -> NoReturn:
        raise SpikerlError(
            "RecordSpikes holds a policy, which cannot leave its process: send the environment "
            "without the wrapper, and put RecordSpikes(env, policy) around it there"
        )


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


@dataclass
class _Decision:
    step: int
    spikes: tuple[NDArray[np.uint8], ...]  # bits of [T, n], an eighth of the memory
    potentials: tuple[FloatArray | None, ...]
    values: FloatArray
    action: NDArray[Any]
    reward: float = 0.0


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
        problems = _problems(env, policy, last, row, beside)
        if problems:
            raise SpikerlError(listed("spikes cannot be recorded like this", problems))
        self._shared = SharedPolicy(policy)  # so that a copy of the environment shares it too
        self._row = row
        self._decisions: deque[_Decision] = deque(maxlen=last)
        self._sizes = tuple(layer.n_out for layer in policy.agent.network.spiking_layers)
        self._panel: Any = None
        if beside and env.render_mode == "rgb_array":
            from spikerl.plots.panel import Panel

            self._panel = Panel(self._sizes, policy.sim_steps)
        self.folder = None if place is None else Path(place)
        self.saved: Path | None = None  # the file of the last episode
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SpikerlError(f"{place} cannot be made: {error.strerror}") from None
        self._ended: Literal["terminated", "truncated", "unfinished"]
        self._begin(None)

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
        return self._shared.policy

    @property
    def episode(self) -> EpisodeRecording:
        """What is held of the present episode, or of the one that has just ended."""
        held = self._decisions
        potentials = [d.potentials for d in held]
        readable = potentials[0] if potentials else ()
        return EpisodeRecording(
            steps=np.array([d.step for d in held], dtype=np.int64),
            spikes=tuple(self._spikes(held, layer) for layer in range(len(self._sizes))),
            potentials=tuple(
                None if v is None else np.stack([cast(FloatArray, p[i]) for p in potentials])
                for i, v in enumerate(readable)
            ),
            values=np.array([d.values for d in held]),
            actions=np.array([d.action for d in held]),
            rewards=np.array([d.reward for d in held]),
            about=self._about(),
        )

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._save()
        self._begin(seed)
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        recording = self.policy.recording
        if recording is not None and recording is not self._seen:
            self._note(recording, action)
        observation, reward, terminated, truncated, info = super().step(action)
        self._steps += 1
        self._total += float(reward)
        if self._decisions:
            self._decisions[-1].reward += float(reward)
        if terminated or truncated:
            self._ended = "terminated" if terminated else "truncated"
            self._save()
        return observation, reward, terminated, truncated, info

    def render(self) -> Any:
        """The environment's frame, with a raster of the latest decisions at its right."""
        frame = super().render()
        if self._panel is None or frame is None:
            return frame
        latest = [self._unpacked(d) for d in list(self._decisions)[-self._panel.decisions :]]
        return self._panel.beside(frame, latest)

    def close(self) -> None:
        """Save an episode that has not ended, and close the environment."""
        self._save()
        super().close()

    def _begin(self, seed: int | None) -> None:
        self._decisions.clear()
        self._seen = self.policy.recording  # of a decision that was not for this episode
        self._steps = self._made = 0
        self._total = 0.0
        self._seed = seed
        self._ended = "unfinished"
        self._unsaved = False

    def _note(self, recording: Recording, action: Any) -> None:
        self._seen = recording
        row = self._row
        if recording.spikes is None:
            raise SpikerlError(
                f"back end {self.policy.backend.name!r} gives no single spikes, only counts: run "
                "the agent on another one, such as 'cpu'"
            )
        rows = max((len(counts) for counts in recording.counts), default=1)
        if row >= rows:
            raise SpikerlError(f"row is {row}, the policy decided for {rows} environments")
        values = self.policy.agent.decoder.values(recording)[row]
        self._decisions.append(
            _Decision(
                step=self._steps,
                spikes=tuple(np.packbits(layer[:, row]) for layer in recording.spikes),
                potentials=tuple(
                    None if v is None else np.array(v[row]) for v in recording.potentials
                ),
                values=np.array(values, dtype=np.float64),
                action=np.array(action),
            )
        )
        self._made += 1
        self._unsaved = True

    def _unpacked(self, decision: _Decision) -> tuple[NDArray[np.bool_], ...]:
        def layers() -> Iterator[NDArray[np.bool_]]:
            for bits, n in zip(decision.spikes, self._sizes, strict=True):
                shape = (self.policy.sim_steps, n)
                yield np.unpackbits(bits, count=shape[0] * n).astype(np.bool_).reshape(shape)

        return tuple(layers())

    def _spikes(self, held: deque[_Decision], layer: int) -> NDArray[np.bool_]:
        empty = np.zeros((0, self.policy.sim_steps, self._sizes[layer]), dtype=np.bool_)
        return np.stack([self._unpacked(d)[layer] for d in held]) if held else empty

    def _about(self) -> About:
        head = self.policy.agent.decoder.head
        meaning, choices = _meaning(head)
        spec = self.env.spec
        return About(
            environment=type(self.unwrapped).__name__ if spec is None else spec.id,
            backend=self.policy.backend.name,
            sim_steps=int(self.policy.sim_steps),
            dt_ms=float(self.policy.agent.network.dt_ms),
            seed=self._seed,
            meaning=meaning,
            choices=choices,
            n_decisions=self._made,
            n_steps=self._steps,
            total_reward=self._total,
            ended=self._ended,
        )

    def _save(self) -> None:
        if self.folder is None or not self._unsaved:
            return
        found = [_NUMBERED.fullmatch(path.name) for path in self.folder.iterdir()]
        number = 1 + max((int(match[1]) for match in found if match), default=-1)
        self.saved = self.folder / _NAME.format(number)
        self.episode.save(self.saved)
        self._unsaved = False


def _problems(env: Any, policy: Any, last: Any, row: Any, beside: bool) -> list[str]:
    problems = [] if last is None else checked_whole("last", last)
    problems += checked_whole("row", row, least=0)
    if not isinstance(policy, HardwarePolicy):
        problems.append(f"policy is {type(policy).__name__}, wanted a HardwarePolicy")
    elif not policy.records_spikes:
        problems.append("the policy records no spikes: make it with record_spikes=True")
    if beside and str(env.render_mode).endswith("_list"):
        problems.append(
            f"render_mode is {env.render_mode!r}: a raster belongs to one frame, make the "
            "environment with render_mode='rgb_array', or pass beside=False"
        )
    return problems


def _meaning(head: Head) -> tuple[Any, tuple[int, ...]]:
    """What the values of a head are, and how many belong to each choice."""
    if isinstance(head, Categorical):
        return {"softmax": "logits", "epsilon": "Q values"}.get(head.sampling, "scores"), head.nvec
    if isinstance(head, Binary):
        return "odds", (1,) * head.n
    if isinstance(head, Gaussian):
        return "means", (int(head.low.size),)
    return "scores", (head.n_values,)
