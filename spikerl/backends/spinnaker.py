"""The "spinnaker" back end: a SpiNNaker board through sPyNNaker 7.4.

What is computed on the board has never been compared with a board here: the rules it follows are
read from sPyNNaker's sources and machine code (spinnaker_plan.py), spikes are promised by nobody,
and compile() compares the first layer's spikes with the reference before it gives a session away.
Without a board, dry_run() maps a network with sPyNNaker's own tools and predicts its decisions.

The board takes one constant current per input and decision; sPyNNaker 7.4 cannot change the spike
times of a source between runs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.backends.base import Session, refuse_options, require_runnable, tie_free
from spikerl.backends.spinnaker_config import Board, Claim, Workspace, board, spynnaker
from spikerl.backends.spinnaker_dry_run import DryRun, MappedLayer, dry_run
from spikerl.backends.spinnaker_graph import Graph
from spikerl.backends.spinnaker_plan import (
    CAPABILITIES,
    MAX_STEPS,
    Plan,
    effective,
    first_current,
    plan,
    problems,
)
from spikerl.errors import BackendError
from spikerl.network import FloatArray, Recording, SpikingNetwork
from spikerl.reference import simulate

__all__ = ["DryRun", "MappedLayer", "SpinnakerBackend", "SpinnakerSession", "dry_run"]

TRIAL_STEPS = 12
OPTIONS = ("config", "time_scale_factor")


class SpinnakerBackend:
    """A SpiNNaker board; sPyNNaker is global, so there is one session at a time."""

    name = "spinnaker"
    capabilities = CAPABILITIES

    def problems(self, network: SpikingNetwork) -> list[str]:
        """Every reason this network cannot run here; empty if it can."""
        return problems(network)

    def compile(
        self,
        network: SpikingNetwork,
        *,
        batch_size: int = 1,
        seed: int | None = None,
        **options: Any,
    ) -> Session:
        """Build batch_size copies of the network on the board; nothing here is random.

        config: a settings file instead of sPyNNaker's own (~/.spynnaker.cfg, ./spynnaker.cfg).
        time_scale_factor: slows the board's clock where its cores do not keep up.
        Raises BackendError where no board is configured or answers, or another session is open.
        """
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options, OPTIONS)
        found = board(options.pop("config", None))
        return open_session(network, batch_size, found, spynnaker, **options)


def open_session(
    network: SpikingNetwork,
    batch_size: int,
    where: Board,
    module: Callable[[], Any],
    *,
    time_scale_factor: int | None = None,
) -> SpinnakerSession:
    """A tested session on a board, through the PyNN module that module() returns."""
    session = SpinnakerSession(plan(network), batch_size, where, module, time_scale_factor)
    try:
        _try_out(session)
    except BaseException:
        session.close()
        raise
    return session


class SpinnakerSession(Session):
    """A network on a board; every run() starts at v_init."""

    def __init__(
        self,
        planned: Plan,
        batch_size: int,
        where: Board,
        module: Callable[[], Any],
        time_scale_factor: int | None,
    ) -> None:
        self._claim = Claim()
        self._plan = planned
        self._board = where
        self._graph: Graph | None = None
        self._files = Workspace(where.sections)
        try:
            sim = module()
            with self._files.quiet(), self._files.at_home():
                self._graph = Graph(sim, planned, batch_size, time_scale_factor)
        except BaseException as error:
            self._close()
            if isinstance(error, BackendError) or not isinstance(error, Exception):
                raise
            raise self._failure("could not build the network", error) from error
        super().__init__(SpinnakerBackend.name, effective(planned), batch_size)

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        graph = self._graph
        assert graph is not None  # as long as the session is open
        steps, rows, _ = drive.shape
        if steps > MAX_STEPS:
            raise BackendError(
                f"found {steps} steps, wanted at most {MAX_STEPS}: a read-out could leave the "
                "range of 16.15 fixed point"
            )
        current = self._current(drive)
        try:
            with self._files.quiet():
                # Potentials are recorded before a step, so the last one takes a step more.
                graph.decide(current, steps + 1)
                trains = [
                    self._trains(graph.spikes(k), layer.layer.n_out, steps)[:, :rows]
                    for k, layer in enumerate(self._plan.layers)
                    if layer.layer.spiking
                ]
                v = graph.potentials()
        except Exception as error:
            self.close()  # sPyNNaker has shut down and refuses every further call
            raise self._failure("stopped", error) from error
        self._files.prune()
        last = self._plan.layers[-1]
        if v.shape != (steps + 1, self.batch_size * last.layer.n_out):
            self.close()
            raise BackendError(
                f"sPyNNaker returned potentials of shape {v.shape}, wanted "
                f"{(steps + 1, self.batch_size * last.layer.n_out)}: {self._board.source} may "
                "name a virtual board"
            )
        potential = v[steps].reshape(self.batch_size, -1)[:rows].astype(np.float64) / last.scale
        return Recording(
            counts=tuple(train.sum(axis=0, dtype=np.int64) for train in trains),
            potentials=(*[None] * (len(self._plan.layers) - 1), potential),
            sim_steps=steps,
            spikes=tuple(trains) if record_spikes else None,
        )

    def takes(self, x: FloatArray) -> bool:
        """Whether the currents of rows x [B, n_in] are within their range."""
        try:
            first_current(self._plan, x)
        except BackendError:
            return False
        return True

    def _current(self, drive: FloatArray) -> FloatArray:
        """W x + b of the first layer in chip units for every copy: [batch_size, n]."""
        if drive.strides[0] != 0 and (drive != drive[:1]).any():
            raise BackendError(
                "the drive changes from step to step, wanted one that is constant: sPyNNaker sets "
                "currents before a run. Use the encoder ConstantCurrent: convert(..., "
                "encoder='constant')"
            )
        current = first_current(self._plan, drive[0])
        copies = np.zeros((self.batch_size, current.shape[1]))
        copies[: len(current)] = current
        return copies

    def _trains(self, spikes: FloatArray, n: int, steps: int) -> NDArray[np.bool_]:
        """Events (neuron, ms) as [T, batch_size, n]; the first step is at 0 ms."""
        found = np.zeros((steps, self.batch_size * n), dtype=np.bool_)
        if len(spikes):
            who, when = spikes[:, 0].astype(np.int64), np.rint(spikes[:, 1]).astype(np.int64)
            seen = when < steps  # the step more may have spikes of its own
            found[when[seen], who[seen]] = True
        return found.reshape(steps, self.batch_size, n)

    def _failure(self, what: str, error: Exception) -> BackendError:
        return BackendError(
            f"sPyNNaker {what} on the board {self._board.address} (from {self._board.source}): "
            f"{type(error).__name__}: {error}; check that the board is switched on and reachable "
            "from here, and that [Machine] machine_name and version are right"
        )

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        pass  # every run starts at v_init

    def _close(self) -> None:
        graph, self._graph = self._graph, None
        try:
            # After a failure sPyNNaker has ended by itself and may object.
            with suppress(Exception), self._files.quiet():
                if graph is not None:
                    graph.end()
        finally:
            self._files.close()
            self._claim.release()


def _try_out(session: SpinnakerSession) -> None:
    """Raise BackendError unless the board answers and its first layer fires as the reference's.

    The first layer alone: it is driven by currents that both sides know exactly, and a leak, a
    gain or a step more or less than expected shows there. It is compared where no rounding decides.
    """
    network = session.network
    for factor in (1.0, -1.0, 0.25, -0.25, 4.0, -4.0):
        x = factor * np.cos(np.arange(1.0, network.n_in + 1))[None]  # sums that meet no threshold
        drive = np.broadcast_to(x, (TRIAL_STEPS, 1, network.n_in))
        want = simulate(network, drive)
        decisive = session.takes(x) and tie_free(network, drive, 2.0**-6).all()
        if decisive and want.counts and want.counts[0].any():
            break
    got = session.run(drive, record_spikes=True)
    if not decisive or not got.spikes or not want.spikes:
        return
    if not np.array_equal(got.spikes[0][:, :1], want.spikes[0]):
        raise BackendError(
            f"back end 'spinnaker' failed its self-test: the first layer fired "
            f"{got.counts[0][0].tolist()} times per neuron, the reference "
            f"{want.counts[0][0].tolist()}, or at other steps. This sPyNNaker does not compute "
            "what 7.4.1 was seen to: please report it with its version"
        )
