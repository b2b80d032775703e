"""The "pynn:nest" back end: PyNN builds and drives NEST, spike for spike as the "nest" back end.

Public calls of PyNN: native_cell_type, Population, FromListConnector, Projection, set, initialize,
run, end. NEST itself is asked for one setting of its kernel and, on the node collections of the
populations, for potentials and spikes, which PyNN would wrap into Neo objects at several
milliseconds per population. The neurons and what makes them exact are those of nest.py.

- native types, because PyNN's IF_curr_delta can neither set nor record its potential on NEST;
- run() goes one step further than asked for the first time, so one step is run after building;
- sim.reset() leaves spikes under way: every decision ends with a step in which all potentials are
  far down, which swallows them.

With calls="kernel" PyNN builds the network, and decisions go past it to the kernel.
"""

from __future__ import annotations

from typing import Any
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
from spikerl.backends.nest import (
    DEPTH,
    NestBackend,
    NestSession,
    Nodes,
    imported,
    one_thread,
    require_no_other,
)
from spikerl.backends.nest_kernel import KernelSession, kernel_calls
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

_UNITS = UNITS["native nest"]


class PynnNestBackend:
    """NEST through PyNN in this process; its kernel is global, so one session at a time."""

    name = "pynn:nest"
    capabilities: Capabilities = NestBackend.capabilities

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
        """Build batch_size copies of the network in NEST's kernel, which is emptied first.

        Option calls: "public" decides by public calls of PyNN, "kernel" by those below PyNN, which
        are faster and which another version of NEST may name differently. Nothing here is random.
        Raises BackendError while another session on NEST is open, and for other calls.
        """
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options, ("calls",))
        calls = options.get("calls", "public")
        if calls not in ("public", "kernel"):
            raise BackendError(f"calls is {calls!r}, wanted 'public' or 'kernel'")
        if calls == "kernel" and (lacking := kernel_calls(imported())[1]):
            raise BackendError(f"calls='kernel' is not possible: {lacking}; use calls='public'")
        session = PynnNestSession if calls == "public" else PynnKernelSession
        return self_tested(session(network, batch_size), self.capabilities)


class PynnNestSession(Session):
    """A network in NEST's kernel, made by PyNN; every run() starts at v_init."""

    def __init__(self, network: SpikingNetwork, batch_size: int) -> None:
        require_no_other()
        self._nest = imported()
        self._sim = simulator("nest")
        self._batch = batch_size
        self._layers: list[_Population] = []
        self._first: list[Layer] = []
        self._now = 0  # steps since the kernel was emptied
        self._swallowed = False  # whether no spike is under way
        with one_thread(), expected_warnings():
            try:
                _set_up(self._nest, self._sim)
                self._first, self._layers = _populations(
                    self._nest, self._sim, network, self._batch
                )
                self._sim.run(STEP_MS)
            except BaseException:
                self._close()
                raise
        super().__init__(PynnNestBackend.name, network, batch_size)
        NestSession._open = ref(self)

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        with one_thread():
            return self._decide(drive, record_spikes)

    def _decide(self, drive: FloatArray, record_spikes: bool) -> Recording:
        steps, rows, _ = drive.shape
        constant = drive.strides[0] == 0
        first = self._layers[0]
        if not self._swallowed:  # the first decision, or the last one was interrupted
            first.set_current(np.zeros_like(first.current))  # it may not have come through
            self._swallow()
            self._now = round(float(self._nest.biological_time) / STEP_MS)
        self._swallowed = False
        begin = self._now
        first.start_driven(*(self._currents(drive[min(t, steps - 1)]) for t in (0, 1)))
        for population in self._layers[1:]:
            population.start()
        if constant:
            self._simulate(steps)
        else:
            self._simulate(1)
            for t in range(1, steps):
                ahead = t + 1 if first.late else t
                if ahead < steps:
                    first.set_current(self._currents(drive[ahead]))
                self._simulate(1)
        self._now += steps
        potentials = tuple(population.potentials()[:rows] for population in self._layers)
        self._swallow()
        spikes = [p.spikes(begin, steps)[:, :rows] for p in self._layers if p.spiking]
        return Recording(
            counts=tuple(s.sum(axis=0, dtype=np.int64) for s in spikes),
            potentials=potentials,
            sim_steps=steps,
            spikes=tuple(spikes) if record_spikes else None,
        )

    def _swallow(self) -> None:
        """One step with all potentials out of reach; recorders hear of the last spikes in it."""
        for population in self._layers:
            population.sink()
        self._simulate(1)
        self._now += 1
        self._swallowed = True

    def _simulate(self, steps: int) -> None:
        self._sim.run(steps * STEP_MS)

    def _currents(self, x: FloatArray) -> FloatArray:
        return drive_currents(self._first, x, self._batch)

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        pass  # every run starts at v_init

    def _close(self) -> None:
        for population in self._layers:
            release(population.cells)
        self._layers = []
        with one_thread():
            self._sim.end()  # removes the temporary folder that every setup() makes
            self._nest.ResetKernel()


class PynnKernelSession(KernelSession):
    """A network in NEST's kernel, made by PyNN and decided upon as by the "nest" back end."""

    back_end = PynnNestBackend.name

    def _clear(self) -> None:
        self._sim = simulator("nest")
        with expected_warnings():
            _set_up(self._nest, self._sim)

    def _build(self, network: SpikingNetwork) -> None:
        with expected_warnings():
            self._first, made = _populations(self._nest, self._sim, network, self._batch)
        self._layers = list(made)
        self._wire(network)

    def _close(self) -> None:
        for population in self._layers:
            release(population.cells)  # type: ignore[attr-defined]
        with one_thread():
            self._read_pending()
            self._sim.end()  # removes the temporary folder that every setup() makes
        super()._close()


def _set_up(nest: Any, sim: Any) -> None:
    nest.verbosity = nest.VerbosityLevel.ERROR
    sim.setup(
        timestep=STEP_MS,
        min_delay=STEP_MS,
        max_delay=STEP_MS,
        spike_precision="on_grid",  # else PyNN takes neurons that cannot do without a pause
        threads=1,
    )
    nest.verbosity = nest.VerbosityLevel.ERROR
    nest.spike_buffer_shrink_limit = 0.0  # else the kernel logs every resizing for ever


def _populations(
    nest: Any, sim: Any, network: SpikingNetwork, batch: int
) -> tuple[list[Layer], list[_Population]]:
    """The layers that numpy applies to the drive, and the connected populations."""
    made: list[_Population] = []
    first: list[Layer] = []
    for layer, stack in stacks(network):
        population = _Population(nest, sim, layer, batch)
        if not made:
            first = stack
        else:
            population.set_current(np.tile(neuron_bias(layer), (batch, 1)))
            before = made[-1]
            for receptor, rows in connection_lists(stack, before.n, population.n, batch, 1, _UNITS):
                _connect(sim, before, population, receptor, rows)
        if layer.recurrent_weight is not None:
            for receptor, rows in recurrent_lists(layer.recurrent_weight, batch, 1, _UNITS):
                _connect(sim, population, population, receptor, rows)
        made.append(population)
    return first, made


def _connect(
    sim: Any, before: _Population, after: _Population, receptor: str, rows: FloatArray
) -> None:
    sim.Projection(  # connects at once; calling the connector again would double all weights
        before.cells,
        after.cells,
        sim.FromListConnector(rows),
        sim.StaticSynapse(),
        receptor_type=receptor,
    )


class _Population(Nodes):
    """The copies of one layer of neurons as a PyNN population, and the recorder of its spikes.

    n:       neurons of one copy.
    current: [batch_size, n], the last one that was set.
    """

    def __init__(self, nest: Any, sim: Any, layer: NeuronLayer, batch_size: int) -> None:
        self._sim = sim
        self.n = layer.n_out
        self.current: FloatArray = np.zeros((batch_size, self.n))
        super().__init__(nest, layer, batch_size)
        self._start = _UNITS.potential.to_pynn(self.start_at)
        self._sink = _UNITS.potential.to_pynn(np.full(self.start_at.shape, DEPTH))

    def _made(
        self, nest: Any, model: str, parameters: dict[str, float], threshold: FloatArray
    ) -> Any:
        native = self._sim.native_cell_type(model)
        # PyNN would also set what NEST lists but does not let be set
        kind = type(native.__name__, (native,), {"default_initial_values": {"V_m": 0.0}})
        cell = kind(**{**parameters, "C_m": _UNITS.capacitance})
        self.cells = self._sim.Population(len(threshold), cell, label=None)
        if self.spiking:
            # not in the constructor: NEST refuses PyNN's arrays there
            self.cells.set(V_th=_UNITS.potential.to_pynn(threshold))
        return self.cells.node_collection

    def set_current(self, current: FloatArray) -> None:
        """Set the current of every copy [batch_size, n]."""
        self.current = current
        self.cells.set(I_e=_UNITS.current.to_pynn(current.reshape(-1)))

    def start_driven(self, now: FloatArray, following: FloatArray) -> None:
        """Put all potentials to v_init, with a current in the first step and one afterwards.

        A late neuron still has the current set before in that step: its potential makes up for it.
        """
        if not self.late:
            self.set_current(now)
            self.start()
            return
        difference = _UNITS.current.to_pynn((now - self.current).reshape(-1))
        self.set_current(following)
        self.start(difference)

    def start(self, more: FloatArray | float = 0.0) -> None:
        """Put all potentials to v_init and forget recorded spikes."""
        self.cells.initialize(V_m=self._start + more)
        if self.spiking:
            self.recorder.n_events = 0

    def sink(self) -> None:
        """Put all potentials out of reach of a threshold."""
        self.cells.initialize(V_m=self._sink)
