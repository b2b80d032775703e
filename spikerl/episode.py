"""EpisodeRecording: what the neurons of an agent did in the decisions of one episode, in one file.

Imports numpy, network and errors. The file is an ordinary .npz of plain arrays: numpy.load() reads
it, nothing is pickled.
"""

from __future__ import annotations

import json
import os
import secrets
import zipfile
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spikerl.errors import FileFormatError, SpikerlError
from spikerl.network import FloatArray

FORMAT = "spikerl episode"
VERSION = 1


@dataclass(frozen=True)
class About:
    """The setting of an episode, and sums over all of it.

    meaning:      of the values: "Q values", "logits" (softmax gives probabilities), "odds" (a
                  sigmoid does), "means" of a continuous action, or "scores" with no unit.
    choices:      how many of the values belong to each choice, as MultiDiscrete's nvec.
    n_decisions:  of the whole episode; the arrays may hold only the last of them.
    n_steps:      of the environment; total_reward is the sum over them.
    """

    environment: str = ""
    backend: str = ""
    sim_steps: int = 1
    dt_ms: float = 1.0
    seed: int | None = None
    meaning: Literal["Q values", "logits", "odds", "means", "scores"] = "scores"
    choices: tuple[int, ...] = ()
    n_decisions: int = 0
    n_steps: int = 0
    total_reward: float = 0.0
    ended: Literal["terminated", "truncated", "unfinished"] = "unfinished"


@dataclass(frozen=True, eq=False)
class EpisodeRecording:
    """The last D decisions of an episode, oldest first.

    steps:      int64 [D], the environment's step each was made for, from 0.
    spikes:     one bool [D, T, n] per spiking layer.
    potentials: one float64 [D, n] per layer of neurons, after the last of T steps; None where the
                back end cannot read them.
    values:     float64 [D, n_values], what the decoder read.
    actions:    [D, *action shape], as step() was given them.
    rewards:    float64 [D], summed from each decision to the next.
    """

    steps: NDArray[np.int64]
    spikes: tuple[NDArray[np.bool_], ...]
    potentials: tuple[FloatArray | None, ...]
    values: FloatArray
    actions: NDArray[Any]
    rewards: FloatArray
    about: About = field(default_factory=About)

    def __post_init__(self) -> None:
        n = len(self.steps)
        named = {
            "values": self.values,
            "actions": self.actions,
            "rewards": self.rewards,
            **{f"spikes {i}": layer for i, layer in enumerate(self.spikes)},
            **{f"potentials {i}": v for i, v in enumerate(self.potentials) if v is not None},
        }
        wrong = [f"{key} has {len(array)}" for key, array in named.items() if len(array) != n]
        if wrong:
            raise SpikerlError(f"an episode of {n} decisions: {', '.join(wrong)}")

    def __len__(self) -> int:
        """Decisions that are held."""
        return len(self.steps)

    @property
    def rates(self) -> FloatArray:
        """Spikes per neuron and step [D, layers]."""
        return np.stack([layer.mean(axis=(1, 2)) for layer in self.spikes], axis=1)

    @property
    def probabilities(self) -> FloatArray | None:
        """Of the actions [D, n_values], where the values are logits or odds; else None."""
        if self.about.meaning == "odds":
            return np.asarray(1 / (1 + np.exp(-self.values)))
        if self.about.meaning != "logits":
            return None
        parts = np.split(self.values, np.cumsum(self.about.choices)[:-1], axis=1)
        powers = [np.exp(part - part.max(axis=1, keepdims=True)) for part in parts]
        return np.concatenate([p / p.sum(axis=1, keepdims=True) for p in powers], axis=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .npz; it is there whole or, after a failure, as it was before.

        Raises SpikerlError where it cannot be written.
        """
        arrays: dict[str, Any] = {
            "about": json.dumps({"format": FORMAT, "version": VERSION, **asdict(self.about)}),
            "steps": self.steps,
            "values": self.values,
            "actions": self.actions,
            "rewards": self.rewards,
            "readable": np.array([v is not None for v in self.potentials], dtype=np.bool_),
        }
        arrays.update({f"spikes_{i}": layer for i, layer in enumerate(self.spikes)})
        for i, potential in enumerate(self.potentials):
            if potential is not None:
                arrays[f"potentials_{i}"] = potential
        if any(np.asarray(array).dtype == object for array in arrays.values()):
            raise SpikerlError("an episode holds numbers; found an array of Python objects")
        folder, name = os.path.split(os.path.realpath(path))
        temporary = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(8)}.tmp")
        try:
            with open(temporary, "xb") as file:
                np.savez_compressed(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, os.path.join(folder, name))
        except OSError as error:
            raise SpikerlError(f"{os.fspath(path)} cannot be written: {error.strerror}") from None
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EpisodeRecording:
        """Read an episode; raises FileFormatError for a file that is not sound."""
        try:
            # opened here: numpy leaves a file open that it cannot read
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as members:
                arrays = {key: members[key] for key in members.files}
            about = json.loads(str(arrays["about"]))
            if about.pop("format") != FORMAT or about.pop("version") != VERSION:
                raise FileFormatError(f"it is no {FORMAT} of version {VERSION}")
            about["choices"] = tuple(about["choices"])
            n_layers = sum(key.startswith("spikes_") for key in arrays)
            readable = [bool(yes) for yes in arrays["readable"]]
            return cls(
                steps=arrays["steps"],
                spikes=tuple(arrays[f"spikes_{i}"] for i in range(n_layers)),
                potentials=tuple(
                    arrays[f"potentials_{i}"] if yes else None for i, yes in enumerate(readable)
                ),
                values=arrays["values"],
                actions=arrays["actions"],
                rewards=arrays["rewards"],
                about=About(**about),
            )
        except FileNotFoundError:
            reason = "there is no such file"
        except KeyError as error:
            reason = f"it has no entry {error}"
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            reason = f"it is damaged or no .npz ({error})"
        except (SpikerlError, ValueError, TypeError, AttributeError) as error:
            reason = str(error)
        raise FileFormatError(f"{os.fspath(path)} cannot be loaded: {reason}")
