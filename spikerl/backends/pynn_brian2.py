"""The "pynn:brian2" back end: Brian2 through PyNN, spike for spike the contract.

As PyNN sets it up, Brian2 is not: synapses come between thresholds and resets, so that a reset to
zero erases what arrives in the same step, and a spike acts two steps later. Three public settings
make it exact:

- the order of a step is Brian2's Network.schedule: integrate, synapses, thresholds, resets. The
  synapses then carry the spikes of the step before, so a delay of 0 is delay_steps = 1;
- the cells are PyNN's IF_curr_delta with its equations and parameters, integrated by Euler steps,
  which are the contract's v <- decay * v + b; only their threshold is >=, and their reset may
  subtract;
- everything happens in one run() per decision: the spikes of a step would be lost between two.
  A drive that changes in time is set by an operation at the start of every step.

Brian2 prepares every run() anew, which takes about 0.1 s. This is a cross-check, not a way to act.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from spikerl.backends.base import (
    Capabilities,
    Session,
    capability_problems,
    refuse_options,
    require_runnable,
    self_tested,
)
from spikerl.backends.pynn import (
    connection_lists,
    drive_currents,
    expected_warnings,
    recurrent_lists,
    release,
    simulator,
    stacks,
)
from spikerl.backends.pynn_units import STEP_MS, UNITS
from spikerl.connections import neuron_bias
from spikerl.errors import BackendError
from spikerl.network import FloatArray, Layer, NeuronLayer, Recording, SpikingNetwork

_UNITS = UNITS["IF_curr_delta"]
EDGE_MV = 1e-9  # a sum in volts that meets a threshold in millivolts may miss it by a rounding
NEVER = 1e300  # threshold of a read-out
MOST_MS = 1e6  # PyNN asks for the longest delay
SCHEDULE = ["start", "groups", "synapses", "thresholds", "resets", "end"]


class PynnBrian2Backend:
    """Brian2 through PyNN in this process; PyNN has one network, so there is one session at a time.

    Brian2 2.9 needs numpy < 2.4: elsewhere give it an interpreter of its own, with
    HardwarePolicy(..., python=...).
    """

    name = "pynn:brian2"
    capabilities = Capabilities(
        exactness="potentials",
        tolerance=1e-8,
        refractory=False,
        v_min=False,
        min_delay_steps=1,
        batching="copies",
        keeps_state=False,
        partial_reset=False,
        max_sessions=1,
    )

    def problems(self, network: SpikingNetwork) -> list[str]:
        """Every reason this network cannot run here; empty if it can."""
        return capability_problems(self.capabilities, network)

    def compile(
        self,
        network: SpikingNetwork,
        *,
        batch_size: int = 1,
        seed: int | None = None,
        **options: Any,
    ) -> Session:
        """Build batch_size copies of the network; a synapse takes about half a millisecond.

        Nothing here is random. Raises BackendError while another session is open.
        """
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options)
        return self_tested(PynnBrian2Session(network, batch_size), self.capabilities)


class PynnBrian2Session(Session):
    """A network in PyNN's Brian2; every run() starts at v_init."""

    _open: ClassVar[ref[PynnBrian2Session] | None] = None

    def __init__(self, network: SpikingNetwork, batch_size: int) -> None:
        other = PynnBrian2Session._open() if PynnBrian2Session._open is not None else None
        if other is not None and not other.closed:
            raise BackendError(
                "PyNN has one network per process and another 'pynn:brian2' session is open: "
                "close it first, or give each a process with HardwarePolicy(..., "
                "isolation='process')"
            )
        self._sim = simulator("brian2")
        self._brian2 = simulator_itself()
        self._target = self._brian2.prefs.codegen.target
        self._brian2.prefs.codegen.target = "numpy"  # compiling takes a minute and runs no faster
        self._batch = batch_size
        self._layers: list[_Group] = []
        try:
            with _quiet():
                self._build(network)
        except BaseException:
            self._close()
            raise
        super().__init__(PynnBrian2Backend.name, network, batch_size)
        PynnBrian2Session._open = ref(self)

    def _build(self, network: SpikingNetwork) -> None:
        sim, brian2 = self._sim, self._brian2
        sim.setup(timestep=STEP_MS, min_delay=STEP_MS, max_delay=MOST_MS)
        running = sim.simulator.state.network
        running.schedule = SCHEDULE
        for layer, stack in stacks(network):
            group = _Group(self._brian2, sim, layer, self._batch)
            if not self._layers:
                self._driven = _Driven(sim, group, stack, self._batch)
            else:
                before = self._layers[-1]
                group.set_current(np.tile(neuron_bias(layer), (self._batch, 1)))
                delay = before.delay_steps
                for receptor, rows in connection_lists(
                    stack, before.n, group.n, self._batch, delay, _UNITS
                ):
                    self._connect(before, group, receptor, rows)
            if layer.recurrent_weight is not None:
                for receptor, rows in recurrent_lists(
                    layer.recurrent_weight, self._batch, layer.delay_steps, _UNITS
                ):
                    self._connect(group, group, receptor, rows)
            self._layers.append(group)
            if layer.spiking:
                running.add(group.monitor)
        running.add(
            brian2.NetworkOperation(self._driven.step, when="start", clock=running.clock, order=1)
        )

    def _connect(self, before: _Group, after: _Group, receptor: str, rows: FloatArray) -> None:
        sim = self._sim
        projection = sim.Projection(
            before.cells,
            after.cells,
            sim.FromListConnector(rows),
            sim.StaticSynapse(delay=STEP_MS),
            receptor_type=receptor,
        )
        # One step passes before synapses see a spike. A delay of 0 can be set but not given above.
        projection.set(delay=float(rows[0, 3]) - STEP_MS)

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        with _quiet():
            return self._decide(drive, record_spikes)

    def _decide(self, drive: FloatArray, record_spikes: bool) -> Recording:
        steps, rows, _ = drive.shape
        # not sim.reset(), which does just this and keeps a Neo segment per population and decision
        self._sim.simulator.state.reset()
        self._driven.set(drive)
        self._sim.run(steps * STEP_MS)
        spikes = [g.spikes(steps)[:, :rows] for g in self._layers if g.spiking]
        return Recording(
            counts=tuple(s.sum(axis=0, dtype=np.int64) for s in spikes),
            potentials=tuple(group.potentials()[:rows] for group in self._layers),
            sim_steps=steps,
            spikes=tuple(spikes) if record_spikes else None,
        )

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        pass  # every run starts at v_init

    def _close(self) -> None:
        for group in self._layers:
            release(group.cells)
        self._layers = []
        self._sim.end()
        self._sim.simulator.state.clear()
        self._brian2.prefs.codegen.target = self._target


class _Driven:
    """The first layer and its drive; no part of the session, which Brian2 would keep alive."""

    def __init__(self, sim: Any, group: _Group, stack: list[Layer], batch_size: int) -> None:
        self._sim, self._group, self._stack, self._batch = sim, group, stack, batch_size
        self._drive: FloatArray | None = None

    def set(self, drive: FloatArray) -> None:
        """Take the drive [T, B, n_in] of the next run."""
        self._drive = None if drive.strides[0] == 0 else drive
        self._apply(drive[0])

    def step(self) -> None:
        """Called by Brian2 at the start of every step."""
        if self._drive is not None:
            self._apply(self._drive[round(self._sim.get_current_time() / STEP_MS)])

    def _apply(self, x: FloatArray) -> None:
        self._group.set_current(drive_currents(self._stack, x, self._batch))


class _Group:
    """The copies of one layer of neurons as a PyNN population, and the monitor of its spikes."""

    def __init__(self, brian2: Any, sim: Any, layer: NeuronLayer, batch_size: int) -> None:
        self.n = layer.n_out
        self.spiking = layer.spiking
        self.delay_steps = layer.delay_steps
        self._mV = brian2.mV
        self._ms = brian2.ms
        self._shape = (batch_size, self.n)

        def tiled(value: Any) -> FloatArray:
            whole: FloatArray = np.tile(np.broadcast_to(value, self.n), batch_size)
            return whole

        with np.errstate(divide="ignore"):
            leak_ms = STEP_MS / (1 - tiled(layer.decay))  # Euler: v - v * dt / tau_m
        threshold = tiled(layer.v_threshold if layer.spiking else NEVER)
        self.cells = sim.Population(
            self.n * batch_size,
            _cell_type(layer.reset)(
                cm=_UNITS.capacitance,
                v_rest=0.0,
                v_reset=0.0,
                tau_refrac=0.0,
                i_offset=0.0,
                tau_m=leak_ms,
                v_thresh=_UNITS.potential.to_pynn(threshold),
            ),
        )
        self.cells.initialize(v=_UNITS.potential.to_pynn(tiled(layer.v_init)))
        self.monitor: Any = brian2.SpikeMonitor(self.cells.brian2_group) if layer.spiking else None

    def set_current(self, current: FloatArray) -> None:
        """Set the current of every copy [batch_size, n]."""
        self.cells.set(i_offset=_UNITS.current.to_pynn(current.reshape(-1)))

    def potentials(self) -> FloatArray:
        """Potentials after the last step: [batch_size, n]."""
        v = np.asarray(self.cells.brian2_group.v[:] / self._mV, dtype=np.float64)
        potentials: FloatArray = _UNITS.potential.from_pynn(v.reshape(self._shape))
        return potentials

    def spikes(self, steps: int) -> NDArray[np.bool_]:
        """Spikes of every step: [T, batch_size, n]."""
        found = np.zeros((steps, *self._shape), dtype=np.bool_)
        step = np.rint(np.asarray(self.monitor.t / self._ms) / STEP_MS).astype(np.int64)
        found.reshape(steps, -1)[step, np.asarray(self.monitor.i)] = True
        return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it Brian2 logs what is wrong only, not every line of code it makes."""
    log = logging.getLogger("brian2")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with expected_warnings():
            yield
    finally:
        log.setLevel(level)


def simulator_itself() -> Any:
    """The brian2 module, once PyNN has imported it."""
    import brian2

    return brian2


@cache
def _cell_type(reset: str) -> Any:
    """PyNN's IF_curr_delta whose threshold is inclusive and whose reset is ours."""
    from pyNN.brian2 import IF_curr_delta
    from pyNN.brian2.cells import BaseNeuronGroup

    rule = "v -= v_thresh" if reset == "subtract" else "v = v_reset"

    class Group(BaseNeuronGroup):  # type: ignore[misc]
        def __init__(self, n: int, equations: Any, **parameters: Any) -> None:
            super().__init__(
                n,
                equations + "v_thresh : volt (constant)\nv_reset : volt (constant)",
                f"v >= v_thresh - {EDGE_MV} * mV",
                reset=rule,
                method="euler",
                **parameters,
            )

    class Cell(IF_curr_delta):  # type: ignore[misc]
        brian2_model = Group

    return Cell
