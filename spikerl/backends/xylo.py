"""The "xylo" back end: a Xylo chip, in xylosim, the simulator of its maker.

The chip's whole numbers are a law of their own: synapses have a time constant, membranes leak a
unit per step and saturate, hidden neurons may fire 31 times in a step. xylo_core.py is that law,
equal to the simulator in every slot; session.network is the nearest network of the contract, and
dry_run() tells how far the two are apart. xylosim is imported when a network is compiled.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from spikerl.backends.base import Session, refuse_options, require_runnable
from spikerl.backends.xylo_chip import AUDIO_2, AUDIO_3, Chip, Resources
from spikerl.backends.xylo_core import Core, IntArray
from spikerl.backends.xylo_dry_run import DryRun, dry_run
from spikerl.backends.xylo_host import check_read_out, potentials, sent
from spikerl.backends.xylo_plan import EVENT, Plan, capabilities_of, plan, problems
from spikerl.errors import BackendError, UnsupportedNetwork
from spikerl.network import FloatArray, Recording, SpikingNetwork

__all__ = ["DryRun", "XyloAudio3Backend", "XyloBackend", "XyloSession", "dry_run"]


class XyloBackend:
    """The core of Xylo-Audio 2."""

    name = "xylo"
    chip: Chip = AUDIO_2
    capabilities = capabilities_of(AUDIO_2)

    def problems(self, network: SpikingNetwork) -> list[str]:
        """Every reason this network cannot run here; empty if it can."""
        return problems(network, self.chip, self.capabilities)

    def resources(self, network: SpikingNetwork) -> Resources:
        """What a network of two or more Dense layers takes of the chip."""
        return plan(network, self.chip).resources

    def compile(
        self,
        network: SpikingNetwork,
        *,
        batch_size: int = 1,
        seed: int | None = None,
        **options: Any,
    ) -> Session:
        """One core per row; nothing here is random.

        event: thresholds by which one event of an input may move the median neuron, 0.5. Smaller
               ones send numbers more finely, larger ones larger numbers: 15 events per step.
        """
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options, ("event",))
        event = options.get("event", EVENT)
        if isinstance(event, bool) or not isinstance(event, (int, float)) or not 0 < event < np.inf:
            raise BackendError(f"event is {event!r}, wanted a number > 0")
        planned = plan(network, self.chip, float(event))
        if planned.problems:  # of this event
            raise UnsupportedNetwork(self.name, list(planned.problems))
        return XyloSession(self.name, planned, batch_size)


class XyloAudio3Backend(XyloBackend):
    """The core of Xylo-Audio 3."""

    name = "xylo:audio3"
    chip = AUDIO_3
    capabilities = capabilities_of(AUDIO_3)


class XyloSession(Session):
    """A network on one simulated core per row, each with its state.

    plan: how the network is written on the chip.
    """

    def __init__(self, backend: str, planned: Plan, batch_size: int) -> None:
        self.plan = planned
        # The simulator keeps bare pointers to its synapses: they must outlive the cores.
        self._synapses, self._cores = built(planned.core, batch_size)
        self._owed = np.zeros((batch_size, planned.effective.n_in))  # of the drive, not yet sent
        self._steps = np.zeros(batch_size, dtype=np.int64)  # since the row's last reset
        self._taken = np.zeros((batch_size, planned.core.n_out), dtype=np.int64)
        self._pending: ref[_Unread] | None = None
        self._sent: list[list[list[int]]] = []  # the events of the last run, by row
        super().__init__(backend, planned.effective, batch_size)

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        self._read_pending()
        steps, rows, _ = drive.shape
        fresh = self._steps[:rows] == 0
        events, owed = sent(self.plan, drive, self._owed[:rows], fresh)
        fired = np.empty((rows, self.plan.core.n_out), dtype=np.int64)
        output = np.empty(fired.shape)
        self._sent = [events[:, row].tolist() for row in range(rows)]
        for row in range(rows):
            core = self._cores[row]
            trains = core.evolve(self._sent[row])
            fired[row] = [sum(train) for train in zip(*trains, strict=True)]
            v = core.rec_v_mem_out
            if not self.network.readout.spiking:
                check_read_out(v, core.rec_i_syn_out)
            output[row] = [trace[-1] for trace in v]
        self._owed[:rows] = owed
        self._steps[:rows] += steps
        self._taken[:rows] += fired
        potential = potentials(self.plan, output, self._taken[:rows], self._steps[:rows])
        found = _Unread.of(self, steps, rows, fired, potential)
        self._pending = ref(found)
        return found

    def simulate_alone(self, steps: int) -> None:
        """Let xylosim take the last run's events again, up to so many steps, and nothing else."""
        self._check_open()
        self._read_pending()
        for core, events in zip(self._cores, self._sent, strict=False):
            core.evolve(events[:steps])

    def _hidden(self, rows: int) -> tuple[list[NDArray[np.int64]], list[FloatArray]]:
        """Spikes in the last run and potentials of every hidden layer: [B, n]."""
        cores = self._cores[:rows]
        spikes = np.array([np.sum(core.rec_recurrent_spikes, axis=0) for core in cores])
        v = np.array([[trace[-1] for trace in core.rec_v_mem] for core in cores])
        places = list(zip(self.plan.hidden, self.plan.scales[:-1], strict=True))
        counts = [spikes[:, place].astype(np.int64) for place, _ in places]
        return counts, [v[:, place] / scale for place, scale in places]

    def _read_pending(self) -> None:
        """Read what the last run left in the cores, if anybody still holds its recording."""
        last = None if self._pending is None else self._pending()
        self._pending = None
        if last is not None:
            last.read()

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        self._read_pending()
        chosen = np.ones(self.batch_size, dtype=np.bool_) if rows is None else rows
        for row in np.flatnonzero(chosen):
            self._cores[row].reset_all()
        self._owed[chosen] = 0.0
        self._steps[chosen] = 0
        self._taken[chosen] = 0

    def _close(self) -> None:
        self._read_pending()
        self._cores = []
        self._synapses = ()


class _Unread(Recording):
    """A recording whose counts and hidden potentials are read from the cores when looked at."""

    @classmethod
    def of(
        cls, session: XyloSession, steps: int, rows: int, fired: IntArray, output: FloatArray
    ) -> _Unread:
        """The recording of a run; fired: [B, output neurons], output: [B, n_out]."""
        made = object.__new__(cls)
        own = {"_session": session, "_rows": rows, "_fired": fired, "_output": output}
        made.__dict__.update(own, sim_steps=steps, spikes=None)  # past the frozen dataclass
        return made

    @property
    def potential(self) -> FloatArray | None:
        """Final potential [B, n_out] of the last layer, which is always read."""
        output: FloatArray = self.__dict__["_output"]
        return output

    def __getattr__(self, name: str) -> Any:
        if name not in ("counts", "potentials"):  # the others are there, or nobody's
            raise AttributeError(name)
        self.read()
        return self.__dict__[name]

    def read(self) -> None:
        """Take everything over from the cores; once is enough."""
        own = self.__dict__
        session = own.pop("_session", None)
        if session is None:
            return
        session._pending = None
        counts, potentials = session._hidden(own["_rows"])
        own["counts"] = (*counts, *([own["_fired"]] if session.network.readout.spiking else []))
        own["potentials"] = (*potentials, own["_output"])


def built(core: Core, copies: int) -> tuple[tuple[Any, ...], list[Any]]:
    """Simulated cores of these numbers, and the synapses they all share and point to."""
    from xylosim.v2 import XyloLayer, XyloSynapse

    def lists(weights: IntArray) -> list[list[Any]]:
        """[synapse, sender, target] as one list of synapses per sender."""
        return [
            [
                XyloSynapse(int(target), int(synapse), int(of_sender[synapse, target]))
                for synapse, target in np.argwhere(of_sender)
            ]
            for of_sender in weights.transpose(1, 0, 2)
        ]

    synapses = lists(core.weights_in), lists(core.weights_rec), lists(core.weights_out[None])
    cores = [
        XyloLayer(
            *synapses,
            aliases=[[] for _ in range(core.n_hidden)],
            threshold=core.threshold.tolist(),
            threshold_out=core.threshold_out.tolist(),
            has_bias=bool(core.bias.any() or core.bias_out.any()),
            bias=core.bias.tolist(),
            bias_out=core.bias_out.tolist(),
            weight_shift_inp=core.shift_in,
            weight_shift_rec=core.shift_rec,
            weight_shift_out=core.shift_out,
            dash_mem=core.dash_mem.tolist(),
            dash_mem_out=core.dash_mem_out.tolist(),
            dash_syns=[[dash, dash] for dash in core.dash_syn.tolist()],
            dash_syns_out=[[dash] for dash in core.dash_syn_out.tolist()],
            name="spikerl",
        )
        for _ in range(copies)
    ]
    return synapses, cores
