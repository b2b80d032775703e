"""Fast decisions on NEST: one Simulate() each, by calls that NEST's own Python layer makes.

nest.set() and nest.get() handle all parameters of all neurons; the calls used here do not, but they
are not documented, so nest.py decides without them where they are missing. Besides that:

- a decision begins with a clamp: one spike_generator drives every neuron down to V_min, which
  swallows spikes under way, and the next step another lifts it to v_init. V_min is so low that no
  trajectory of a decision can reach it, and a power of two, so that the lift is not rounded.
- counts and hidden potentials are read when somebody looks at them, at the latest before the next
  decision.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from spikerl.backends.nest import NestSession, imported, one_thread
from spikerl.connections import neuron_bias, synapses
from spikerl.errors import BackendError
from spikerl.network import FloatArray, Layer, NeuronLayer, Recording, SpikingNetwork

DOWN = -(2.0**40)  # weight of the clamp: more than any potential
FLOOR = 2.0**12  # depth of V_min at first
DEEPEST = 2.0**24  # below, rounding of the lift would be more than 1e-9
MARGIN = 4.0  # how much deeper than needed V_min is set, so that it is set seldom


def kernel_calls(nest: Any) -> tuple[tuple[Any, Any], str]:
    """NEST's undocumented calls (set, get), and what is missing, "" if nothing."""
    try:
        from nest import nestkernel_api as api

        return (api.llapi_set_nc_status, api.llapi_get_nc_status), ""
    except (ImportError, AttributeError) as error:
        return (None, None), f"NEST {nest.__version__} lacks calls it had ({error})"


class KernelSession(NestSession):
    """The same network, decided upon by undocumented calls."""

    calls = "kernel"

    def __init__(self, network: SpikingNetwork, batch_size: int) -> None:
        (self._set, self._get), _ = kernel_calls(imported())
        self._now = 0.0  # ms since the kernel was emptied
        self._whole = True  # whether the last decision went through
        self._floor = FLOOR
        self._pending: ref[_Unread] | None = None
        super().__init__(network, batch_size)

    def _build(self, network: SpikingNetwork) -> None:
        super()._build(network)
        self._wire(network)

    def _wire(self, network: SpikingNetwork) -> None:
        """Connect the clamp to the nodes in self._layers, and run the first step."""
        self._fall = _steepest_falls(network)
        self._start = max(float(np.abs(nodes.start_at).max()) for nodes in self._layers)
        nest = self._nest
        self._down, self._up = nest.Create("spike_generator"), nest.Create("spike_generator")
        self._lifts = []
        for nodes in self._layers:
            own = {"weight": DOWN, "delay": 1.0}
            nest.Connect(self._down, nodes.nodes, "all_to_all", own)
            lift = {"weight": np.zeros((len(nodes.nodes), 1)), "delay": 1.0}
            nest.Connect(self._up, nodes.nodes, "all_to_all", lift)
            found = nest.GetConnections(self._up, nodes.nodes)
            order = np.asarray(found.target) - int(nodes.numbers[0, 0])
            self._lifts.append((found, order))
        self._deepen(FLOOR)
        self._simulate(1)

    def _deepen(self, floor: float) -> None:
        """Set V_min of all neurons to -floor, and the lifts from there to v_init."""
        self._floor = floor
        for nodes, (lift, order) in zip(self._layers, self._lifts, strict=True):
            nodes.nodes.V_min = -floor
            lift.weight = (nodes.decay * (floor + nodes.start_at))[order]

    def _simulate(self, steps: int) -> None:
        self._nest.Simulate(float(steps))
        self._now += steps

    def simulate_alone(self, steps: int) -> None:
        """Let the kernel simulate so many steps and nothing else: no decision can be faster."""
        self._check_open()
        self._read_pending()
        with one_thread():
            for nodes in self._layers:
                if nodes.spiking:
                    self._set(nodes.recorder._datum, [{"n_events": 0}])
            self._simulate(steps)

    def _decide(self, drive: FloatArray, record_spikes: bool) -> Recording:
        self._read_pending()
        if not self._whole:  # the decision before was interrupted
            self._now = float(self._nest.biological_time)
        self._whole = False
        steps, rows, _ = drive.shape
        constant = drive.strides[0] == 0
        currents = [self._currents(x) for x in (drive[:1] if constant else drive)]
        self._make_sure(steps, min(float(current.min()) for current in currents))
        first = self._layers[0]
        self._set_current(currents[0])
        set_ = self._set
        for nodes in self._layers:
            if nodes.spiking:
                set_(nodes.recorder._datum, [{"n_events": 0}])
        # A generator's spike is heard two steps later: down in step 2, up in step 3, which is the
        # first of the decision.
        set_(self._down._datum, [{"spike_times": [self._now + 1.0]}])
        set_(self._up._datum, [{"spike_times": [self._now + 2.0]}])
        if constant:
            self._simulate(steps + 2)
        else:
            self._simulate(2)
            for t in range(steps):
                ahead = t + 1 if first.late else t
                if 0 < ahead < steps:
                    self._set_current(currents[ahead])
                self._simulate(1)
        found = _Unread.of(self, steps, rows, self._potentials(-1)[:rows], self._now - steps)
        self._pending = ref(found)
        self._whole = True
        if record_spikes:
            found.read(with_spikes=True)
        return found

    def _make_sure(self, steps: int, least_current: float) -> None:
        """Lower V_min if a decision of so many steps could come near it."""
        driven, others = self._fall
        need = self._start + steps * max(driven + max(0.0, -least_current), others)
        if need <= self._floor:
            return
        if need > DEEPEST:
            raise BackendError(
                f"inputs could drive a potential down to {-need:.3g} within {steps} steps; "
                f"decisions by kernel calls are exact down to {-DEEPEST:.3g}: scale the network, "
                "or use calls='public'"
            )
        self._deepen(min(DEEPEST, 2.0 ** np.ceil(np.log2(need * MARGIN))))

    def _set_current(self, current: FloatArray) -> None:
        values = current.reshape(-1).tolist()
        self._set(self._layers[0].nodes._datum, [{"I_e": value} for value in values])

    def _potentials(self, layer: int) -> FloatArray:
        nodes = self._layers[layer]
        v = np.array(self._get(nodes.nodes._datum)["V_m"], dtype=np.float64)
        potentials: FloatArray = v.reshape(nodes.numbers.shape) - nodes.lift
        return potentials

    def _read_pending(self) -> None:
        """Read what the last decision left in the kernel, if anybody still holds its recording."""
        last = None if self._pending is None else self._pending()
        self._pending = None
        if last is not None:
            last.read()

    def _left(self, begin: float, steps: int) -> tuple[list[FloatArray], list[NDArray[np.bool_]]]:
        """Potentials [batch_size, n] and spikes [T, batch_size, n] of the decision just made."""
        with one_thread():
            potentials = [self._potentials(i) for i in range(len(self._layers))]
            self._simulate(1)  # the recorders hear of the last step's spikes now
            spikes = [
                nodes.raster(self._get(nodes.recorder._datum)["events"][0], begin, steps)
                for nodes in self._layers
                if nodes.spiking
            ]
        return potentials, spikes

    def _close(self) -> None:
        self._read_pending()
        self._lifts = []
        super()._close()


class _Unread(Recording):
    """A recording whose counts and hidden potentials are read from the kernel when looked at."""

    @classmethod
    def of(
        cls, session: KernelSession, steps: int, rows: int, output: FloatArray, begin: float
    ) -> _Unread:
        """The recording of a decision of so many steps that began at `begin` ms."""
        made = object.__new__(cls)
        own = {"_session": session, "_rows": rows, "_output": output, "_begin": begin}
        made.__dict__.update(own, sim_steps=steps, spikes=None)  # past the frozen dataclass
        return made

    @property
    def potential(self) -> FloatArray | None:
        """Final potential [B, n_out] of the last layer, which is always read."""
        output: FloatArray | None = self.__dict__.get("_output")
        return self.potentials[-1] if output is None else output

    def __getattr__(self, name: str) -> Any:
        if name not in ("counts", "potentials"):  # the others are there, or nobody's
            raise AttributeError(name)
        self.read()
        return self.__dict__[name]

    def read(self, with_spikes: bool = False) -> None:
        """Take everything over from the kernel; once is enough."""
        own = self.__dict__
        session = own.pop("_session", None)
        if session is None:
            return
        rows = own["_rows"]
        session._pending = None
        potentials, spikes = session._left(own["_begin"], own["sim_steps"])
        own["counts"] = tuple(s[:, :rows].sum(axis=0, dtype=np.int64) for s in spikes)
        own["potentials"] = tuple(v[:rows] for v in potentials)
        if with_spikes:
            own["spikes"] = tuple(s[:, :rows] for s in spikes)


def _steepest_falls(network: SpikingNetwork) -> tuple[float, float]:
    """How far inputs can drive a potential down in one step: first layer without its current, and
    the others."""
    driven, others = 0.0, 0.0
    stack: list[Layer] = []
    for layer in network.layers:
        stack.append(layer)
        if not isinstance(layer, NeuronLayer):
            continue
        fall = np.zeros(layer.n_out)
        if layer.recurrent_weight is not None:
            fall -= np.minimum(layer.recurrent_weight, 0.0).sum(axis=1)
        if layer is network.neuron_layers[0]:
            driven = float(fall.max())
        else:
            found = synapses(stack)
            np.subtract.at(fall, found.targets, np.minimum(found.weights, 0.0))
            fall += np.maximum(-neuron_bias(layer), 0.0)
            others = max(others, float(fall.max()))
        stack = []
    return driven, others
