"""The "pynn:neuron" back end: NEURON through PyNN, for neurons that rest after a spike.

PyNN resets a neuron of NEURON when its potential crosses the threshold from below. One that crosses
it in two steps running is not seen the second time, and never again while it stays above; a step of
rest at zero puts it below. So only networks with reset="zero" and refractory_steps >= 1 run as the
contract says, and others are refused: an ordinary ReLU net is none of them. For those that run

- IF_curr_exp with a time constant far below a step is a current that acts in one step: a jump;
- run() goes one step further, because spikes of a step are recorded at the start of the next;
- a potential that starts at v_init would not be seen to cross: v_init comes with the first step.
"""

from __future__ import annotations

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
    simulator,
    stacks,
)
from spikerl.backends.pynn_units import STEP_MS, TAU_SYN_MS, UNITS
from spikerl.connections import neuron_bias
from spikerl.errors import BackendError
from spikerl.network import FloatArray, Layer, NeuronLayer, Recording, SpikingNetwork

_UNITS = UNITS["IF_curr_exp"]
EDGE = 1e-9  # how far below its threshold a potential still counts as meeting it
NEVER = 1e300  # threshold of a read-out
TAU_MS = 2.0**52  # of the membrane: no leak that a double can hold
MOST_MS = 1e6  # PyNN asks for the longest delay


class PynnNeuronBackend:
    """NEURON through PyNN in this process; PyNN has one network, so one session at a time.

    PyNN's mechanisms must have been compiled once, with NEURON's nrnivmodl. NEURON keeps the cells
    of closed sessions, and integrates them with those of later ones: isolation="process" helps.
    """

    name = "pynn:neuron"
    capabilities = Capabilities(
        exactness="potentials",
        tolerance=1e-8,
        resets=frozenset({"zero"}),
        decay=False,
        v_min=False,
        min_refractory_steps=1,
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
        """Build batch_size copies of the network.

        Nothing here is random. Raises BackendError while another session is open.
        """
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options)
        return self_tested(PynnNeuronSession(network, batch_size), self.capabilities)


class PynnNeuronSession(Session):
    """A network in PyNN's NEURON; every run() starts at v_init."""

    _open: ClassVar[ref[PynnNeuronSession] | None] = None

    def __init__(self, network: SpikingNetwork, batch_size: int) -> None:
        other = PynnNeuronSession._open() if PynnNeuronSession._open is not None else None
        if other is not None and not other.closed:
            raise BackendError(
                "PyNN has one network per process and another 'pynn:neuron' session is open: "
                "close it first, or give each a process with HardwarePolicy(..., "
                "isolation='process')"
            )
        self._sim = simulator("neuron")
        self._batch = batch_size
        self._first: list[Layer] = []
        self._layers: list[_Cells] = []
        try:
            with expected_warnings():
                self._build(network)
        except BaseException:
            self._close()
            raise
        super().__init__(PynnNeuronBackend.name, network, batch_size)
        PynnNeuronSession._open = ref(self)

    def _build(self, network: SpikingNetwork) -> None:
        self._sim.setup(timestep=STEP_MS, min_delay=STEP_MS, max_delay=MOST_MS)
        for layer, stack in stacks(network):
            cells = _Cells(self._sim, layer, self._batch)
            if not self._layers:
                self._first = stack
            else:
                before = self._layers[-1]
                cells.current = np.tile(neuron_bias(layer), (self._batch, 1))
                for receptor, rows in connection_lists(
                    stack, before.n, cells.n, self._batch, before.delay_steps, _UNITS
                ):
                    self._connect(before, cells, receptor, rows)
            if layer.recurrent_weight is not None:
                for receptor, rows in recurrent_lists(
                    layer.recurrent_weight, self._batch, layer.delay_steps, _UNITS
                ):
                    self._connect(cells, cells, receptor, rows)
            self._layers.append(cells)

    def _connect(self, before: _Cells, after: _Cells, receptor: str, rows: FloatArray) -> None:
        sim = self._sim
        projection = sim.Projection(
            before.cells,
            after.cells,
            sim.FromListConnector(rows),
            sim.StaticSynapse(delay=STEP_MS),
            receptor_type=receptor,
        )
        # A spike leaves at the end of its step. A delay of 0 can be set but not given above.
        projection.set(delay=float(rows[0, 3]) - STEP_MS)

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        with expected_warnings():
            return self._decide(drive, record_spikes)

    def _decide(self, drive: FloatArray, record_spikes: bool) -> Recording:
        steps, rows, _ = drive.shape
        first = self._layers[0]
        # not sim.reset(), which does just this and keeps a Neo segment per population and decision
        self._sim.simulator.state.reset()
        first.current = drive_currents(self._first, drive[0], self._batch)
        for cells in self._layers:
            cells.apply(with_start=True)
        self._sim.run(STEP_MS)
        for cells in self._layers:
            cells.apply()
        if drive.strides[0] == 0 and steps > 1:
            self._sim.run((steps - 1) * STEP_MS)
        elif steps > 1:
            for t in range(1, steps):
                first.current = drive_currents(self._first, drive[t], self._batch)
                first.apply()
                self._sim.run(STEP_MS)
        before = [cells.potentials() for cells in self._layers]
        self._sim.run(STEP_MS)
        fired = [cells.spikes(steps) for cells in self._layers]
        # a spike of the last step has been seen, but its reset would come with the next one
        potentials = [np.where(s[-1], 0.0, v) for s, v in zip(fired, before, strict=True)]
        spiking = [cells.spiking for cells in self._layers]
        spikes = [s[:, :rows] for s, fires in zip(fired, spiking, strict=True) if fires]
        return Recording(
            counts=tuple(s.sum(axis=0, dtype=np.int64) for s in spikes),
            potentials=tuple(v[:rows] for v in potentials),
            sim_steps=steps,
            spikes=tuple(spikes) if record_spikes else None,
        )

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        pass  # every run starts at v_init

    def _close(self) -> None:
        self._sim.end()
        self._sim.simulator.state.clear()
        self._sim.simulator.initializer.clear()
        self._layers = []


class _Cells:
    """The copies of one layer of neurons as a PyNN population.

    current: [batch_size, n] of the next step; the bias, or the drive of the first layer.
    """

    def __init__(self, sim: Any, layer: NeuronLayer, batch_size: int) -> None:
        self.n = layer.n_out
        self.delay_steps = layer.delay_steps
        self.spiking = layer.spiking
        self._shape = (batch_size, self.n)
        self.current: FloatArray = np.zeros(self._shape)
        self._start: FloatArray = np.broadcast_to(layer.v_init, self.n)
        self.cells = sim.Population(
            self.n * batch_size,
            sim.IF_curr_exp(
                cm=_UNITS.capacitance,
                tau_m=TAU_MS,
                tau_syn_E=TAU_SYN_MS,
                tau_syn_I=TAU_SYN_MS,
                tau_refrac=max(layer.refractory_steps, 1) * STEP_MS,
                v_rest=0.0,
                v_reset=0.0,
                v_thresh=NEVER,
            ),
        )
        if layer.spiking:
            threshold = np.tile(np.broadcast_to(layer.v_threshold, self.n), batch_size)
            self.cells.set(v_thresh=_UNITS.potential.to_pynn(threshold - EDGE))
        self.cells.initialize(v=0.0, isyn_exc=0.0, isyn_inh=0.0)
        self.cells.record("spikes")
        self._cells = [cell._cell for cell in self.cells.all_cells]  # NEURON's objects

    def apply(self, with_start: bool = False) -> None:
        """Set the current of the next step, with what lifts the potentials from 0 to v_init."""
        current = self.current + self._start if with_start else self.current
        self.cells.set(i_offset=_UNITS.current.to_pynn(current.reshape(-1)))

    def potentials(self) -> FloatArray:
        """Potentials now: [batch_size, n]."""
        v = np.array([cell.seg.v for cell in self._cells], dtype=np.float64)
        potentials: FloatArray = _UNITS.potential.from_pynn(v.reshape(self._shape))
        return potentials

    def spikes(self, steps: int) -> NDArray[np.bool_]:
        """Spikes of every step: [T, batch_size, n]."""
        found = np.zeros((steps, *self._shape), dtype=np.bool_)
        for which, cell in enumerate(self._cells):
            step = np.rint(np.array(cell.spike_times) / STEP_MS).astype(np.int64) - 1
            found.reshape(steps, -1)[step[step < steps], which] = True
        return found
