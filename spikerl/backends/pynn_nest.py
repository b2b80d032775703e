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
    COMMON,
    DEPTH,
    EDGE,
    NEVER,
    NestBackend,
    NestSession,
    _imported,
    _one_thread,
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
        if calls not in CALLS:
            raise BackendError(f"calls is {calls!r}, wanted one of {', '.join(map(repr, CALLS))}")
        return self_tested(PynnNestSession(network, batch_size, CALLS[calls]), self.capabilities)


class PynnNestSession(Session):
    """A network in NEST's kernel, made by PyNN; every run() starts at v_init."""

    def __init__(self, network: SpikingNetwork, batch_size: int, calls: type[PublicCalls]) -> None:
        other = NestSession._open() if NestSession._open is not None else None
        if other is not None and not other.closed:
            raise BackendError(
                f"NEST has one kernel per process and another {other.backend!r} session is open: "
                "close it first, or give each a process with HardwarePolicy(..., "
                "isolation='process')"
            )
        self._nest = _imported()
        self._sim = simulator("nest")
        self._calls = calls(self._nest, self._sim)
        self._batch = batch_size
        self._layers: list[_Population] = []
        self._first: list[Layer] = []
        self._now = 0  # steps since the kernel was emptied
        self._swallowed = False  # whether no spike is under way
        with _one_thread(), expected_warnings():
            try:
                self._setup()
                self._build(network)
                self._sim.run(STEP_MS)
            except BaseException:
                self._close()
                raise
        super().__init__(PynnNestBackend.name, network, batch_size)
        NestSession._open = ref(self)

    def _setup(self) -> None:
        self._nest.verbosity = self._nest.VerbosityLevel.ERROR
        self._sim.setup(
            timestep=STEP_MS,
            min_delay=STEP_MS,
            max_delay=STEP_MS,
            spike_precision="on_grid",  # else PyNN takes neurons that cannot do without a pause
            threads=1,
        )
        self._nest.verbosity = self._nest.VerbosityLevel.ERROR
        self._nest.spike_buffer_shrink_limit = 0.0  # else the kernel logs every resizing for ever

    def _build(self, network: SpikingNetwork) -> None:
        for layer, stack in stacks(network):
            population = _Population(self._nest, self._sim, self._calls, layer, self._batch)
            if not self._layers:
                self._first = stack
            else:
                population.set_current(np.tile(neuron_bias(layer), (self._batch, 1)))
                before = self._layers[-1]
                for receptor, rows in connection_lists(
                    stack, before.n, population.n, self._batch, 1, _UNITS
                ):
                    self._connect(before, population, receptor, rows)
            if layer.recurrent_weight is not None:
                for receptor, rows in recurrent_lists(
                    layer.recurrent_weight, self._batch, 1, _UNITS
                ):
                    self._connect(population, population, receptor, rows)
            self._layers.append(population)

    def _connect(
        self, before: _Population, after: _Population, receptor: str, rows: FloatArray
    ) -> None:
        sim = self._sim
        sim.Projection(  # connects at once; calling the connector again would double all weights
            before.cells,
            after.cells,
            sim.FromListConnector(rows),
            sim.StaticSynapse(),
            receptor_type=receptor,
        )

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        with _one_thread():
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
            self._calls.run(steps)
        else:
            self._calls.run(1)
            for t in range(1, steps):
                ahead = t + 1 if first.late else t
                if ahead < steps:
                    first.set_current(self._currents(drive[ahead]))
                self._calls.run(1)
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
        self._calls.run(1)
        self._now += 1
        self._swallowed = True

    def _currents(self, x: FloatArray) -> FloatArray:
        return drive_currents(self._first, x, self._batch)

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        pass  # every run starts at v_init

    def _close(self) -> None:
        for population in self._layers:
            release(population.cells)
        self._layers = []
        with _one_thread():
            self._sim.end()  # removes the temporary folder that every setup() makes
            self._nest.ResetKernel()


class PublicCalls:
    """What a decision asks of PyNN, and of NEST where PyNN has no answer."""

    def __init__(self, nest: Any, sim: Any) -> None:
        self._nest, self._sim = nest, sim

    def run(self, steps: int) -> None:
        """Simulate so many steps."""
        self._sim.run(steps * STEP_MS)

    def set_current(self, cells: Any, values: FloatArray) -> None:
        """Set the current of every cell of a population [cells]."""
        cells.set(I_e=values)

    def set_potential(self, cells: Any, values: FloatArray) -> None:
        """Set the potential of every cell of a population [cells]."""
        cells.initialize(V_m=values)

    def potentials(self, cells: Any) -> FloatArray:
        """The potential of every cell of a population: [cells]."""
        return np.atleast_1d(np.array(cells.node_collection.V_m, dtype=np.float64))

    def forget(self, recorder: Any) -> None:
        """Delete the recorded spikes."""
        recorder.n_events = 0

    def events(self, recorder: Any) -> Any:
        """The recorded spikes: arrays "times" and "senders"."""
        return recorder.events


class KernelCalls(PublicCalls):
    """The same by the calls that NEST's own Python layer makes; raises BackendError without them.

    NEST's set() first reads all parameters of all neurons; these calls do not.
    """

    def __init__(self, nest: Any, sim: Any) -> None:
        super().__init__(nest, sim)
        try:
            from nest import nestkernel_api

            self._set = nestkernel_api.llapi_set_nc_status
            self._get = nestkernel_api.llapi_get_nc_status
        except (ImportError, AttributeError) as error:
            raise BackendError(
                f"NEST {nest.__version__} lacks the calls of calls='kernel' ({error}); "
                "leave it at calls='public'"
            ) from error

    def run(self, steps: int) -> None:
        self._nest.Simulate(steps * STEP_MS)

    def set_current(self, cells: Any, values: FloatArray) -> None:
        self._set(cells.node_collection._datum, [{"I_e": value} for value in values.tolist()])

    def set_potential(self, cells: Any, values: FloatArray) -> None:
        self._set(cells.node_collection._datum, [{"V_m": value} for value in values.tolist()])

    def potentials(self, cells: Any) -> FloatArray:
        found = self._get(cells.node_collection._datum)["V_m"]
        return np.atleast_1d(np.array(found, dtype=np.float64))

    def forget(self, recorder: Any) -> None:
        self._set(recorder._datum, [{"n_events": 0}])

    def events(self, recorder: Any) -> Any:
        (events,) = self._get(recorder._datum)["events"]
        return events


CALLS: dict[str, type[PublicCalls]] = {"public": PublicCalls, "kernel": KernelCalls}


class _Population:
    """The copies of one layer of neurons as a PyNN population, and the recorder of its spikes.

    n:    neurons of one copy.
    current: [batch_size, n], the last one that was set.
    late: a current set before a step acts in the one after it (eprop_iaf).
    """

    def __init__(
        self, nest: Any, sim: Any, calls: PublicCalls, layer: NeuronLayer, batch_size: int
    ) -> None:
        self.n = layer.n_out
        self._calls = calls
        self.spiking = layer.spiking
        self.late = layer.spiking and layer.reset == "subtract"
        self._shape = (batch_size, self.n)
        self._lift = EDGE if self.late else 0.0
        start = np.tile(np.broadcast_to(layer.v_init, self.n), batch_size) + self._lift
        self._start = _UNITS.potential.to_pynn(start)
        self._sink = _UNITS.potential.to_pynn(np.full(start.shape, DEPTH))
        self.current: FloatArray = np.zeros(self._shape)
        model = sim.native_cell_type("eprop_iaf" if self.late else "iaf_psc_delta")
        # PyNN would also set what NEST lists but does not let be set
        kind = type(model.__name__, (model,), {"default_initial_values": {"V_m": 0.0}})
        own = {} if self.late else {"V_th": NEVER, "V_reset": 0.0}
        capacitance = {"C_m": _UNITS.capacitance}
        self.cells = sim.Population(
            self.n * batch_size, kind(**{**COMMON, **capacitance, **own}), label=None
        )
        if layer.spiking:
            threshold = np.tile(np.broadcast_to(layer.v_threshold, self.n), batch_size)
            lowered = threshold - (0.0 if self.late else EDGE)
            # not in the constructor: NEST refuses PyNN's arrays there
            self.cells.set(V_th=_UNITS.potential.to_pynn(lowered))
            self._recorder = nest.Create("spike_recorder")
            nest.Connect(self.cells.node_collection, self._recorder)
        self._number = int(self.cells.node_collection[0].tolist()[0])

    def set_current(self, current: FloatArray) -> None:
        """Set the current of every copy [batch_size, n]."""
        self.current = current
        self._calls.set_current(self.cells, _UNITS.current.to_pynn(current.reshape(-1)))

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
        self._calls.set_potential(self.cells, self._start + more)
        if self.spiking:
            self._calls.forget(self._recorder)

    def sink(self) -> None:
        """Put all potentials out of reach of a threshold."""
        self._calls.set_potential(self.cells, self._sink)

    def potentials(self) -> FloatArray:
        """Potentials after the last step: [batch_size, n]."""
        v = self._calls.potentials(self.cells)
        potentials: FloatArray = _UNITS.potential.from_pynn(v.reshape(self._shape)) - self._lift
        return potentials

    def spikes(self, begin: int, steps: int) -> NDArray[np.bool_]:
        """Spikes of the steps after step `begin`: [T, batch_size, n]."""
        found = np.zeros((steps, *self._shape), dtype=np.bool_)
        events = self._calls.events(self._recorder)
        step = np.rint(np.asarray(events["times"]) / STEP_MS).astype(np.int64) - begin - 1
        which = np.asarray(events["senders"]).astype(np.int64) - self._number
        found.reshape(steps, -1)[step, which] = True
        return found
