"""What a trial found, the agent that is tried, and processes to try it in. Imports the core."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from gymnasium import spaces

import spikerl
from spikerl.agent import SpikingAgent
from spikerl.backends.base import Capabilities, under_rules
from spikerl.decoding import Categorical, Decoder, FinalPotential, SpikeCount
from spikerl.encoding import ConstantCurrent, Encoder, EquidistantSpikes
from spikerl.network import Dense, SpikingNetwork
from spikerl.preprocessing import from_space

SPACE = spaces.Box(-2.0, 2.0, (4,), np.float32)
SIM_STEPS = 16


@dataclass(frozen=True)
class Trial:
    """What was tried and how often.

    start, end: figures of the beginning and the end, by name, where there are any.
    note:       what else was seen; wrong: what should not have been, "" if nothing.
    """

    name: str
    count: int
    start: dict[str, float] = field(default_factory=dict)
    end: dict[str, float] = field(default_factory=dict)
    note: str = ""
    wrong: str = ""


def agent_for(can: Capabilities, seed: int) -> SpikingAgent:
    """An agent of 4-64-64-2 random neurons as a back end needs them."""
    rng = np.random.default_rng(seed)
    plain = bool({"current", "constant"} & can.drive)
    encoder: Encoder = ConstantCurrent() if plain else EquidistantSpikes(scale=2.0)
    sizes = (encoder.n_channels(4), 64, 64)
    hidden = [Dense(rng.normal(size=(n, m)) / np.sqrt(m) * 2) for m, n in pairwise(sizes)]
    reads = "potential" in can.records or "potentials" in can.records
    last = Dense(rng.normal(size=(2, 64)) / 8, spiking=not reads)
    return SpikingAgent(
        network=under_rules(SpikingNetwork((*hidden, last)), can),
        preprocessing=from_space(SPACE),
        encoder=encoder,
        decoder=Decoder(FinalPotential() if reads else SpikeCount(), Categorical((2,))),
        sim_steps=SIM_STEPS,
        observation_space=SPACE,
        action_space=spaces.Discrete(2),
    )


def observations(count: int, seed: int) -> np.ndarray:
    """Observations [count, 4]."""
    return np.random.default_rng([seed, 1]).uniform(-2, 2, (count, 4)).astype(np.float32)


def started(code: str) -> subprocess.Popen[str]:
    """Another Python that runs this code with the spikerl of this one."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(spikerl.__file__)))
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


def answer(code: str) -> str:
    """What such a process printed last; raises RuntimeError with its last words where it failed."""
    with started(code) as process:
        out, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(" ".join(errors.split())[-300:] or f"status {process.returncode}")
    return out.splitlines()[-1]
