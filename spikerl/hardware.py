"""HardwarePolicy: a SpikingAgent that decides on a back end, with the predict() of SB3.

Imports agent, the back-end registry and the numpy core; no torch, no SB3.
"""

from __future__ import annotations

import os
import warnings
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spikerl import backends
from spikerl.agent import SpikingAgent
from spikerl.backends.base import Backend
from spikerl.backends.worker import WorkerBackend
from spikerl.errors import (
    ConversionWarning,
    SessionClosed,
    ShapeError,
    SpikerlError,
    checked_seed,
    checked_whole,
)
from spikerl.network import FloatArray, Recording
from spikerl.preprocessing import Observation


class HardwarePolicy:
    """Decides with a spiking network on the back end you name, inside any Gymnasium or SB3 loop.

    agent:     a SpikingAgent or the path of a saved one.
    backend:   a name from spikerl.backends.available(), or a Backend.
    n_envs:    rows the back end is built for. A stateless agent takes larger batches in pieces.
    seed:      of everything random: encoder, sampling, back end. Same seed, same actions.
    sim_steps: steps per decision, if not the agent's own; a ConversionWarning says where network
               or read-out were made for just those.
    observations: "raw", as the environment returns them, or "normalized", where the environment is
               wrapped in a VecNormalize that has done it.
    isolation: "process" gives the back end a process of its own; one that dies is replaced.
    python: another interpreter for that process, such as "venv/bin/python".
    record_spikes: keep every spike in `recording`.
    Further keywords go to the back end. Raises SpikerlError and its children.

    recording:     the Recording of the last decision, None before the first.
    records_spikes: whether recordings hold every spike, as far as the back end gives them.
    preprocessing: what is done to observations, the agent's or less.
    """

    def __init__(
        self,
        agent: SpikingAgent | str | os.PathLike[str],
        backend: str | Backend = "cpu",
        *,
        n_envs: int = 1,
        seed: int | None = None,
        sim_steps: int | None = None,
        observations: Literal["raw", "normalized"] = "raw",
        isolation: str | None = None,
        python: str | os.PathLike[str] | None = None,
        record_spikes: bool = False,
        **backend_options: Any,
    ) -> None:
        if isolation not in (None, "process"):
            raise SpikerlError(f"isolation is {isolation!r}, wanted 'process' or None")
        self.agent = agent if isinstance(agent, SpikingAgent) else SpikingAgent.load(agent)
        self.sim_steps = self.agent.sim_steps if sim_steps is None else sim_steps
        problems = checked_whole("sim_steps", self.sim_steps) + checked_seed(seed)
        problems += checked_whole("n_envs", n_envs)
        if observations not in ("raw", "normalized"):
            problems.append(f"observations is {observations!r}, wanted 'raw' or 'normalized'")
        if problems:
            raise SpikerlError("; ".join(problems))
        self.preprocessing = self.agent.preprocessing
        if observations == "normalized":
            self.preprocessing = self.preprocessing.without_normalization()
        if self.agent.bound_to_steps and self.sim_steps != self.agent.sim_steps:
            warnings.warn(
                f"this agent was made for {self.agent.sim_steps} steps: at {self.sim_steps} its "
                f"report does not hold; make one with sim_steps={self.sim_steps} instead",
                ConversionWarning,
                stacklevel=2,
            )
        if not isinstance(backend, (str, Backend)):
            raise SpikerlError(f"backend is {backend!r}; wanted a name or a Backend")
        self.backend: Backend
        if isolation is not None or python is not None:
            self.backend = WorkerBackend(backend, python)
        else:
            self.backend = backends.get(backend) if isinstance(backend, str) else backend
        if self.agent.stateful:
            self._require_memory(n_envs)
        self.recording: Recording | None = None
        self._drives: list[FloatArray] = []
        self._rng = np.random.default_rng(seed)
        self.records_spikes = record_spikes or self.agent.decoder.read.needs_spikes
        self._session = self.backend.compile(
            self.agent.network, batch_size=n_envs, seed=seed, **backend_options
        )
        self._decisions = np.zeros(n_envs, dtype=np.int64)  # since each row's episode start

    @property
    def drive(self) -> FloatArray | None:
        """What entered the network for the last decision [T, B, n_in], None before the first.

        A drive that is constant in time has stride 0 along T.
        """
        parts = self._drives
        if len(parts) < 2:
            return parts[0] if parts else None
        if any(part.strides[0] for part in parts):
            return np.concatenate(parts, axis=1)
        first = np.concatenate([part[0] for part in parts])
        return np.broadcast_to(first, (self.sim_steps, *first.shape))

    @property
    def n_envs(self) -> int:
        """Rows the back end is built for."""
        return self._session.batch_size

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: ArrayLike | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[Any], Any]:
        """Actions for one observation or a batch, as SB3's predict() returns them.

        observation:   as the environment returns it: the agent normalises by itself, unless
                       observations="normalized".
        state:         for a stateful agent what the last call returned; None starts all rows anew.
        episode_start: bool [B]; a stateful agent's rows that begin an episode.
        Returns (action, state); state stays None for a stateless agent.
        """
        self._check_open()
        batch, vectorised = self.preprocessing.batched(observation)
        rows = self.preprocessing.rows(batch)
        if self.agent.stateful:
            self._start_episodes(len(rows), state, episode_start)
        values = self._values(rows)
        if self.agent.stateful:
            state = self._decisions.copy()
        action = self.agent.decoder.action(values, deterministic, self._rng)
        action = action.astype(self.agent.action_space.dtype, copy=False)
        return (action if vectorised else action[0, ...]), state

    def values(self, observation: Observation) -> FloatArray:
        """The decoder's values [B, n_out]: Q values, logits or means.

        A stateful agent moves on by one decision, and a state predict() gave before is out of date.
        """
        self._check_open()
        rows = self.preprocessing(observation)
        if self.agent.stateful and len(rows) != self.n_envs:
            raise ShapeError(self._rows_message(len(rows)))
        return self._values(rows)

    def reset(self, rows: ArrayLike | None = None) -> None:
        """Start the membranes of some rows (bool mask or indices; None: all) anew."""
        self._check_open()
        self._session.reset(rows)
        if rows is None:
            self._decisions[:] = 0
        elif np.size(rows):  # an empty list would be an array of floats
            self._decisions[np.asarray(rows)] = 0

    def close(self) -> None:
        """Give the back end back; calling it again does nothing."""
        self._session.close()

    def _values(self, rows: FloatArray) -> FloatArray:
        size = len(rows) if self.agent.stateful else self.n_envs
        self.recording = None  # a back end may have to finish one that is still held
        self._drives, recordings = [], []
        for start in range(0, len(rows), size):
            if not self.agent.stateful:
                self._session.reset()
            drive = self.agent.encoder.encode(rows[start : start + size], self.sim_steps, self._rng)
            self._drives.append(drive)
            recordings.append(self._session.run(drive, record_spikes=self.records_spikes))
        self._decisions += self.agent.stateful
        self.recording = recordings[0] if len(recordings) == 1 else Recording.joined(recordings)
        return self.agent.decoder.values(self.recording)

    def _start_episodes(self, n_rows: int, state: Any, episode_start: ArrayLike | None) -> None:
        if n_rows != self.n_envs:
            raise ShapeError(self._rows_message(n_rows))
        if state is None:
            self.reset()
        elif not np.array_equal(state, self._decisions):
            raise SpikerlError(
                "state is not what the last predict() returned: the membranes live on the back end "
                "and cannot go back; pass the latest state, or None to start anew"
            )
        if episode_start is not None:
            starts = np.asarray(episode_start).reshape(-1)
            if starts.shape != (self.n_envs,) or starts.dtype.kind not in "biu":
                raise ShapeError(
                    f"episode_start has shape {starts.shape} and dtype {starts.dtype}, wanted "
                    f"({self.n_envs},) and bool"
                )
            starts = starts.astype(np.bool_)
            if starts.any():
                self.reset(starts)

    def _require_memory(self, n_envs: int) -> None:
        can = self.backend.capabilities
        if not can.keeps_state or (n_envs > 1 and not can.partial_reset):
            raise SpikerlError(
                f"back end {self.backend.name!r} cannot carry this stateful agent's membranes from "
                "decision to decision"
                + ("" if not can.keeps_state else " for each environment on its own (n_envs > 1)")
            )

    def _rows_message(self, found: int) -> str:
        return (
            f"a stateful agent keeps one row per environment: found {found} observations, "
            f"n_envs={self.n_envs}; make the policy with n_envs={found}"
        )

    def _check_open(self) -> None:
        if self._session.closed:
            raise SessionClosed("this policy is closed; make a new HardwarePolicy")

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
