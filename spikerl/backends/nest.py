"""The "nest" back end: NEST's built-in neurons, spike for spike the contract with delay_steps = 1.

By public calls of NEST here; nest_kernel.py decides faster by calls that are not documented. NEST
is imported when a network is compiled. What makes it exact:

- reset "zero" and read-outs are iaf_psc_delta, reset "subtract" is eprop_iaf, plasticity unused;
  tau_m = 2**52 ms, C_m = 1 and a resolution of 1 ms turn both into v <- v + input;
- eprop_iaf starts EDGE higher and iaf_psc_delta's threshold is EDGE lower, because tau_m leaks one
  unit in the last place per step and a sum that meets its threshold exactly must count;
- eprop_iaf takes over I_e at the end of a step: it is set one step ahead;
- one step with all V_m far down swallows the spikes under way, so none reaches the next decision.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
from spikerl.connections import IntArray, neuron_bias, synapses
from spikerl.errors import BackendError
from spikerl.network import FloatArray, Layer, NeuronLayer, Recording, SpikingNetwork

EDGE = 1e-9  # how far below its threshold a potential still counts as meeting it
DEPTH = -1e9  # from here no input lifts a neuron to its threshold within one step
NEVER = 1e300  # threshold of a read-out
COMMON = {"tau_m": 2.0**52, "C_m": 1.0, "E_L": 0.0, "t_ref": 0.0}


class NestBackend:
    """NEST in this process; its kernel is global, so there is one session at a time."""

    name = "nest"
    capabilities = Capabilities(
        exactness="potentials",
        tolerance=1e-8,  # the leak of one unit in the last place, on potentials up to 1e5
        decay=False,
        refractory=False,
        v_min=False,
        min_delay_steps=1,
        max_delay_steps=1,
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
        """Build batch_size copies of the network in NEST's kernel, which is emptied first.

        calls: "kernel" decides by calls of NEST's Python layer that are not documented, "public" by
               documented ones, several times slower; "auto" takes the first where NEST has them.
        Nothing here is random. Raises BackendError while another session is open, or for "kernel"
        where NEST lacks those calls.
        """
        from spikerl.backends.nest_kernel import KernelSession, kernel_calls

        require_runnable(self, network, batch_size)
        refuse_options(self.name, options, ("calls",))
        calls = options.get("calls", "auto")
        if calls not in ("auto", "kernel", "public"):
            raise BackendError(f"calls is {calls!r}, wanted 'auto', 'kernel' or 'public'")
        lacking = kernel_calls(imported())[1]
        if calls == "kernel" and lacking:
            raise BackendError(f"calls='kernel' is not possible: {lacking}; use calls='public'")
        public = calls == "public" or bool(lacking)
        session = (NestSession if public else KernelSession)(network, batch_size)
        session.backend = self.name
        return self_tested(session, self.capabilities)


class NestSession(Session):
    """A network in NEST's kernel; every run() starts at v_init.

    calls: by which calls it decides, "public" or "kernel".
    """

    calls = "public"
    back_end = NestBackend.name
    _open: ClassVar[ref[Session] | None] = None  # of any back end that has NEST's kernel

    def __init__(self, network: SpikingNetwork, batch_size: int) -> None:
        require_no_other()
        self._nest = imported()
        self._batch = batch_size
        self._first: list[Layer] = []
        self._layers: list[Nodes] = []
        with one_thread():
            self._clear()
            self._build(network)
        super().__init__(self.back_end, network, batch_size)
        NestSession._open = ref(self)

    def _clear(self) -> None:
        nest = self._nest
        nest.ResetKernel()
        nest.verbosity = nest.VerbosityLevel.ERROR
        nest.set(resolution=1.0, local_num_threads=1)
        nest.set(min_delay=1.0, max_delay=1.0)
        nest.spike_buffer_shrink_limit = 0.0  # else the kernel logs every resizing for ever

    def _build(self, network: SpikingNetwork) -> None:
        pending: list[Layer] = []
        for layer in network.layers:
            pending.append(layer)
            if isinstance(layer, NeuronLayer):
                self._add(layer, pending)
                pending = []

    def _add(self, layer: NeuronLayer, stack: list[Layer]) -> None:
        nodes = self._nodes(layer)
        if not self._layers:
            self._first = stack
        else:
            nodes.bias(neuron_bias(layer))
            found = synapses(stack)
            senders = np.repeat(np.arange(len(found.starts) - 1), np.diff(found.starts))
            self._connect(self._layers[-1], senders, nodes, found.targets, found.weights)
        if layer.recurrent_weight is not None:
            targets, senders = np.nonzero(layer.recurrent_weight)
            weights = layer.recurrent_weight[targets, senders]
            self._connect(nodes, senders, nodes, targets, weights)
        self._layers.append(nodes)

    def _nodes(self, layer: NeuronLayer) -> Nodes:
        return Nodes(self._nest, layer, self._batch)

    def _connect(
        self,
        before: Nodes,
        senders: IntArray,
        after: Nodes,
        targets: IntArray,
        weights: FloatArray,
    ) -> None:
        for pre, post in zip(before.numbers, after.numbers, strict=True) if len(weights) else ():
            self._nest.Connect(
                pre[senders],
                post[targets],
                "one_to_one",
                {
                    "synapse_model": "static_synapse",
                    "weight": weights,
                    "delay": np.ones(len(weights)),
                },
            )

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        with one_thread():
            return self._decide(drive, record_spikes)

    def _decide(self, drive: FloatArray, record_spikes: bool) -> Recording:
        steps, rows, _ = drive.shape
        first = self._layers[0]
        constant = drive.strides[0] == 0
        current = self._currents(drive[0])
        first.set_current(current)
        for nodes in self._layers:
            nodes.sink()
        self._nest.Simulate(1.0)
        for nodes in self._layers:
            nodes.start()
        begin = float(self._nest.biological_time)
        if constant:
            self._nest.Simulate(float(steps))
        else:
            for t in range(steps):
                ahead = t + 1 if first.late else t
                if 0 < ahead < steps:
                    first.set_current(self._currents(drive[ahead]))
                self._nest.Simulate(1.0)
        potentials = tuple(nodes.potentials()[:rows] for nodes in self._layers)
        self._nest.Simulate(1.0)  # the recorders hear of the last step's spikes now
        spikes = [n.spikes(begin, steps)[:, :rows] for n in self._layers if n.spiking]
        return Recording(
            counts=tuple(s.sum(axis=0, dtype=np.int64) for s in spikes),
            potentials=potentials,
            sim_steps=steps,
            spikes=tuple(spikes) if record_spikes else None,
        )

    def _currents(self, x: FloatArray) -> FloatArray:
        """W x + b of the first layer for one step of the drive, for every copy: [batch_size, n]."""
        for layer in self._first:
            x = layer.apply(x)
        copies = np.zeros((self._batch, x.shape[1]))
        copies[: len(x)] = x
        return copies

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        pass  # every run starts at v_init

    def _close(self) -> None:
        self._layers = []
        with one_thread():
            self._nest.ResetKernel()


def require_no_other() -> None:
    """Raise BackendError while a session on NEST's kernel is open in this process."""
    other = NestSession._open() if NestSession._open is not None else None
    if other is not None and not other.closed:
        raise BackendError(
            f"NEST has one kernel per process and another {other.backend!r} session is open: close "
            "it first, or give each a process with HardwarePolicy(..., isolation='process')"
        )


class Nodes:
    """The copies of one layer of neurons in NEST, and the recorder of its spikes.

    numbers: [batch_size, n] node numbers.  late: I_e set before a step acts in the one after it.
    nodes, recorder: node collections.      start_at: [batch_size * n], v_init as NEST has it, which
    is by lift higher.
    """

    def __init__(self, nest: Any, layer: NeuronLayer, batch_size: int) -> None:
        n = layer.n_out
        self.spiking = layer.spiking
        self.late = layer.spiking and layer.reset == "subtract"
        self._shape = (batch_size, n)
        self.lift = EDGE if self.late else 0.0
        self.start_at = np.tile(np.broadcast_to(layer.v_init, n), batch_size) + self.lift
        threshold = np.tile(np.broadcast_to(layer.v_threshold, n), batch_size)
        own = {} if self.late else {"V_th": NEVER, "V_reset": 0.0}
        model = "eprop_iaf" if self.late else "iaf_psc_delta"
        self.nodes = self._made(nest, model, {**COMMON, **own}, threshold - EDGE * (not self.late))
        self.decay = np.tile(np.broadcast_to(layer.decay, n), batch_size)
        if (self.decay != 1).any():  # P33 = exp(-1 ms / tau_m), and C_m for P30 = 1
            leaky = self.decay < 1
            tau = np.full(len(self.decay), COMMON["tau_m"])
            tau[leaky] = -1.0 / np.log(self.decay[leaky])
            self.nodes.tau_m = tau
            self.nodes.C_m = np.where(leaky, -np.expm1(-1.0 / tau) * tau, COMMON["C_m"])
        if layer.spiking:
            self.recorder = nest.Create("spike_recorder")
            nest.Connect(self.nodes, self.recorder)
        self.numbers = np.array(self.nodes.tolist(), dtype=np.int64).reshape(self._shape)

    def _made(
        self, nest: Any, model: str, parameters: dict[str, float], threshold: FloatArray
    ) -> Any:
        """The neurons of all copies; threshold [batch_size * n], for those that spike."""
        nodes = nest.Create(model, len(threshold), params=parameters)
        if self.spiking:
            nodes.V_th = threshold
        return nodes

    def bias(self, bias: FloatArray) -> None:
        """Set the constant current of every neuron [n]."""
        self.nodes.I_e = np.tile(bias, self._shape[0])

    def set_current(self, current: FloatArray) -> None:
        """Set the current of every copy [batch_size, n]."""
        self.nodes.I_e = current.reshape(-1)

    def sink(self) -> None:
        """Put all potentials out of reach of a threshold."""
        self.nodes.V_m = DEPTH

    def start(self) -> None:
        """Put all potentials to v_init and forget recorded spikes."""
        self.nodes.V_m = self.start_at
        if self.spiking:
            self.recorder.n_events = 0

    def potentials(self) -> FloatArray:
        """Potentials after the last step: [batch_size, n]."""
        v = np.atleast_1d(np.array(self.nodes.V_m, dtype=np.float64))
        return v.reshape(self._shape) - self.lift

    def spikes(self, begin: float, steps: int) -> NDArray[np.bool_]:
        """Spikes of the steps after time `begin`: [T, batch_size, n]."""
        return self.raster(self.recorder.events, begin, steps)

    def raster(self, events: Any, begin: float, steps: int) -> NDArray[np.bool_]:
        """The recorder's events as spikes of the steps after time `begin`: [T, batch_size, n]."""
        found = np.zeros((steps, *self._shape), dtype=np.bool_)
        step = np.rint(np.asarray(events["times"]) - begin).astype(np.int64) - 1
        # The steps around, which begin a decision or flush the recorder, may have spikes as well.
        seen = (step >= 0) & (step < steps)
        which = np.asarray(events["senders"]).astype(np.int64)[seen] - self.numbers[0, 0]
        found.reshape(steps, -1)[step[seen], which] = True
        return found


_pools: tuple[int, list[Any]] = (0, [])  # modules at the last search, OpenMP runtimes found


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which OpenMP has one thread, as NEST's kernel was built for.

    NEST and torch share an OpenMP runtime where both are loaded. After torch.set_num_threads(2) a
    kernel of one thread would be run by two, and the process would die of a segmentation fault.
    """
    global _pools
    if _pools[0] != len(sys.modules):  # another library may have come with another runtime
        from threadpoolctl import ThreadpoolController

        found = ThreadpoolController().select(user_api="openmp").lib_controllers
        _pools = (len(sys.modules), found)
    more = [(pool, pool.get_num_threads()) for pool in _pools[1]]
    more = [(pool, n) for pool, n in more if n != 1]
    for pool, _ in more:
        pool.set_num_threads(1)
    try:
        yield
    finally:
        for pool, n in more:
            pool.set_num_threads(n)


def imported() -> Any:
    """The nest module, without its banner on stdout."""
    before = os.environ.get("PYNEST_QUIET")
    os.environ["PYNEST_QUIET"] = "1"
    try:
        import nest
    finally:
        if before is None:
            del os.environ["PYNEST_QUIET"]
        else:
            os.environ["PYNEST_QUIET"] = before
    return nest
