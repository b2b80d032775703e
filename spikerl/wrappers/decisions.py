"""EpisodeDecisions: what one row of a policy's batch decided in an episode, and its file.

Imports agent's parts, episode and hardware; no Gymnasium; plots late.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import numpy as np
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


@dataclass
class _Decision:
    step: int
    spikes: tuple[NDArray[np.uint8], ...]  # bits of [T, n], an eighth of the memory
    potentials: tuple[FloatArray | None, ...]
    values: FloatArray
    action: NDArray[Any]
    reward: float = 0.0


class EpisodeDecisions:
    """The latest decisions of an episode, from begin() to save(); folder=None writes no file.

    shared:      whose decisions they are.
    row:         of its batch.
    environment: its name, for EpisodeRecording.about.
    Raises SpikerlError for a folder that cannot be made.
    """

    def __init__(
        self,
        shared: SharedPolicy,
        row: int,
        environment: str,
        folder: str | os.PathLike[str] | None,
        last: int | None,
    ) -> None:
        self._shared, self._row, self._environment = shared, row, environment
        self._sizes = sizes(shared.policy)
        self._held: deque[_Decision] = deque(maxlen=last)
        self.folder = None if folder is None else Path(folder)
        self.saved: Path | None = None  # the file of the last episode
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SpikerlError(f"{folder} cannot be made: {error.strerror}") from None
        self._ended: Literal["terminated", "truncated", "unfinished"]
        self.begin(None)

    @property
    def policy(self) -> HardwarePolicy:
        return self._shared.policy

    @property
    def pending(self) -> Recording | None:
        """The policy's decision, if it made one since begin() and the last that was kept."""
        recording = self.policy.recording
        return None if recording is self._seen else recording

    @property
    def episode(self) -> EpisodeRecording:
        """What is held."""
        held = self._held
        potentials = [d.potentials for d in held]
        readable = potentials[0] if potentials else ()
        return EpisodeRecording(
            steps=np.array([d.step for d in held], dtype=np.int64),
            spikes=tuple(self._spikes(layer) for layer in range(len(self._sizes))),
            potentials=tuple(
                None if v is None else np.stack([cast(FloatArray, p[i]) for p in potentials])
                for i, v in enumerate(readable)
            ),
            values=np.array([d.values for d in held]),
            actions=np.array([d.action for d in held]),
            rewards=np.array([d.reward for d in held]),
            about=self._about(),
        )

    def begin(self, seed: int | None, *, decided: bool = False) -> None:
        """A new episode; a pending decision belongs to it only if it was decided for it."""
        self._held.clear()
        if not decided:
            self._seen = self.policy.recording
        self._steps = self._made = 0
        self._total = 0.0
        self._seed = seed
        self._ended = "unfinished"
        self._unsaved = False

    def note(self, action: Any) -> None:
        """Keep the policy's decision, if it made one since the last, before the step it is for.

        Raises SpikerlError where it decided for fewer rows, or no single spikes are known.
        """
        recording = self.pending
        if recording is None:
            return
        self._seen = recording
        row = self._row
        if recording.spikes is None:
            raise SpikerlError(
                f"back end {self.policy.backend.name!r} gives no single spikes, only counts: run "
                "the agent on another one, such as 'cpu'"
            )
        rows = batch(recording)
        if row >= rows:
            raise SpikerlError(f"row is {row}, the policy decided for {rows} environments")
        values = self.policy.agent.decoder.values(recording)[row]
        self._held.append(
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

    def count(self, reward: Any, terminated: Any, truncated: Any) -> None:
        """A step was made; its reward goes to the latest decision, an end is saved."""
        self._steps += 1
        self._total += float(reward)
        if self._held:
            self._held[-1].reward += float(reward)
        if terminated or truncated:
            self._ended = "terminated" if terminated else "truncated"
            self.save()

    def beside(self, frame: Any, panel: Any) -> Any:
        """A frame with a raster of the latest decisions at its right."""
        latest = list(self._held)[-panel.decisions :]
        return panel.beside(frame, [self._unpacked(d) for d in latest])

    def save(self) -> None:
        """Write the episode, unless it was written or has no decision."""
        if self.folder is None or not self._unsaved:
            return
        found = [_NUMBERED.fullmatch(path.name) for path in self.folder.iterdir()]
        number = 1 + max((int(match[1]) for match in found if match), default=-1)
        self.saved = self.folder / _NAME.format(number)
        self.episode.save(self.saved)
        self._unsaved = False

    def _unpacked(self, decision: _Decision) -> tuple[NDArray[np.bool_], ...]:
        def layers() -> Iterator[NDArray[np.bool_]]:
            for bits, n in zip(decision.spikes, self._sizes, strict=True):
                shape = (self.policy.sim_steps, n)
                yield np.unpackbits(bits, count=shape[0] * n).astype(np.bool_).reshape(shape)

        return tuple(layers())

    def _spikes(self, layer: int) -> NDArray[np.bool_]:
        empty = np.zeros((0, self.policy.sim_steps, self._sizes[layer]), dtype=np.bool_)
        held = self._held
        return np.stack([self._unpacked(d)[layer] for d in held]) if held else empty

    def _about(self) -> About:
        meaning, choices = _meaning(self.policy.agent.decoder.head)
        return About(
            environment=self._environment,
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


def batch(recording: Recording) -> int:
    """Rows of a policy's batch."""
    return max((len(counts) for counts in recording.counts), default=1)


def check_recording(policy: Any, last: Any, row: Any, beside: bool, render_mode: Any) -> None:
    """Raise SpikerlError with why decisions cannot be kept, or painted beside frames."""
    problems = [] if last is None else checked_whole("last", last)
    problems += checked_whole("row", row, least=0)
    if not isinstance(policy, HardwarePolicy):
        problems.append(f"policy is {type(policy).__name__}, wanted a HardwarePolicy")
    elif not policy.records_spikes:
        problems.append("the policy records no spikes: make it with record_spikes=True")
    if beside and str(render_mode).endswith("_list"):
        problems.append(
            f"render_mode is {render_mode!r}: a raster belongs to one frame, make the "
            "environment with render_mode='rgb_array', or pass beside=False"
        )
    if problems:
        raise SpikerlError(listed("spikes cannot be recorded like this", problems))


def panel(policy: HardwarePolicy, beside: bool, render_mode: Any) -> Any:
    """The panel that paints decisions at the right of frames; None where nothing is painted."""
    if not beside or render_mode != "rgb_array":
        return None
    from spikerl.plots.panel import Panel

    return Panel(sizes(policy), policy.sim_steps)


def sizes(policy: HardwarePolicy) -> tuple[int, ...]:
    """Neurons of each spiking layer."""
    return tuple(layer.n_out for layer in policy.agent.network.spiking_layers)


def _meaning(head: Head) -> tuple[Any, tuple[int, ...]]:
    """What the values of a head are, and how many belong to each choice."""
    if isinstance(head, Categorical):
        return {"softmax": "logits", "epsilon": "Q values"}.get(head.sampling, "scores"), head.nvec
    if isinstance(head, Binary):
        return "odds", (1,) * head.n
    if isinstance(head, Gaussian):
        return "means", (int(head.low.size),)
    return "scores", (head.n_values,)
