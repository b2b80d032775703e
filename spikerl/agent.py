"""SpikingAgent: a spiking network and all it needs to act; the thing one saves and deploys.

Imports numpy, gymnasium and the numpy core; no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from spikerl.decoding import Binary, Categorical, Decoder, FirstSpike, Gaussian, Head
from spikerl.encoding import Encoder
from spikerl.errors import SpikerlError, checked_whole, listed
from spikerl.network import Recording, SpikingNetwork
from spikerl.preprocessing import Preprocessing
from spikerl.report import ConversionReport


@dataclass(frozen=True, eq=False)
class SpikingAgent:
    """A spiking network with its preprocessing, encoder, decoder, spaces and history.

    sim_steps:  steps per decision, T.
    stateful:   membranes are carried from decision to decision and reset at episode starts. All of
                them: a read-out without leak adds up the whole episode.
    provenance: where it comes from: source file and hash, versions, seed, rules; plain data.
    report:     how faithful the conversion was, or None.
    Raises SpikerlError with every way in which the parts do not fit each other.
    """

    network: SpikingNetwork
    preprocessing: Preprocessing
    encoder: Encoder
    decoder: Decoder
    sim_steps: int
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    report: ConversionReport | None = None
    stateful: bool = False

    def __post_init__(self) -> None:
        problems = [*self._problems()]
        if problems:
            raise SpikerlError(listed("the parts of this agent do not fit", problems))

    def _problems(self) -> list[str]:
        found = checked_whole("sim_steps", self.sim_steps)
        found += self.preprocessing.problems(self.observation_space)
        channels = self.encoder.n_channels(self.preprocessing.n_outputs())
        if channels != self.network.n_in:
            found.append(f"the encoder has {channels} channels, the network {self.network.n_in}")
        found += self.decoder.problems(self.network)
        found += _head_problems(self.decoder.head, self.action_space)
        return found or self._rehearsed()

    def _rehearsed(self) -> list[str]:
        """Problems that show when the parts handle one row of zeros: arrays of the wrong length."""
        rng = np.random.default_rng(0)
        layers = self.network.neuron_layers
        silent = Recording(
            counts=tuple(np.zeros((1, x.n_out), np.int64) for x in self.network.spiking_layers),
            potentials=tuple(np.zeros((1, layer.n_out)) for layer in layers),
            spikes=tuple(np.zeros((1, 1, x.n_out), bool) for x in self.network.spiking_layers),
            sim_steps=1,
        )
        shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
        part = "encoder"
        try:
            zeros = np.zeros((1, self.preprocessing.n_outputs()))
            drive = self.encoder.encode(zeros, 1, rng)
            shapes.append((part, drive.shape, (1, 1, self.network.n_in)))
            part = "decoder"
            with np.errstate(all="ignore"):
                values = self.decoder.values(silent)
                shapes.append((part, values.shape, (1, self.decoder.head.n_values)))
                action = self.decoder.action(values, True, rng)
            shapes.append((part, action.shape, (1, *(self.action_space.shape or ()))))
        except (ValueError, IndexError) as error:
            return [f"the {part} has arrays of a length that does not fit: {error}"]
        return [
            f"the {part} gives shape {found}, wanted {wanted}"
            for part, found, wanted in shapes
            if found != wanted
        ]

    @property
    def bound_to_steps(self) -> bool:
        """Whether it was made for just this sim_steps: trained, fitted, or the first spike."""
        recipe = self.provenance.get("recipe")
        if not isinstance(recipe, Mapping):
            recipe = {}
        made = recipe.get("trained") is True or recipe.get("penalty") is not None
        made = made or "distillation" in self.provenance
        return made or isinstance(self.decoder.read, FirstSpike)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the agent to one file, atomically: arrays and JSON, no pickle."""
        from spikerl.files import save_agent

        save_agent(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SpikingAgent:
        """Read an agent; executes nothing. Raises FileFormatError for a file that is not sound."""
        from spikerl.files import load_agent

        return load_agent(path)


def _head_problems(head: Head, space: spaces.Space[Any]) -> list[str]:
    if np.any(getattr(space, "start", 0)):
        return [f"the action space {space} does not start at 0, as SB3's policies do"]
    if isinstance(space, spaces.Discrete):
        fits = isinstance(head, Categorical) and not head.multi and head.nvec == (int(space.n),)
    elif isinstance(space, spaces.MultiDiscrete):
        nvec = tuple(int(n) for n in space.nvec.ravel())
        fits = isinstance(head, Categorical) and head.multi and head.nvec == nvec
        fits = fits and space.nvec.ndim == 1
    elif isinstance(space, spaces.MultiBinary):
        fits = isinstance(head, Binary) and (head.n,) == space.shape
    elif isinstance(space, spaces.Box):
        fits = isinstance(head, Gaussian) and head.low.shape == space.shape
    else:
        known = "Discrete, MultiDiscrete, MultiBinary or Box"
        return [f"the action space {space} is not supported; wanted {known}"]
    return [] if fits else [f"the action head {head} does not fit the action space {space}"]
