"""Networks in nengo's own simulator: ensembles, connections and a neuron type of the contract.

One ensemble per layer holds the neurons of all rows; connections of more than one row are
block-diagonal. Nothing is probed, so nothing grows from decision to decision.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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
from spikerl.connections import neuron_bias, synapses
from spikerl.network import Dense, FloatArray, Layer, NeuronLayer, Recording, SpikingNetwork


class NengoBackend:
    """nengo 4.1 on the CPU: every spike and potential of the reference, with any delay."""

    name = "nengo"
    capabilities = Capabilities(batching="copies")

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
        """A session in a nengo simulator of its own; nothing in it is random.

        Raises UnsupportedNetwork, and BackendError for options, of which there are none.
        """
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options)
        return self_tested(NengoSession(network, batch_size), self.capabilities)


class NengoSession(Session):
    """A nengo simulator with batch_size copies of a network.

    model:     the nengo.Network that was built.
    simulator: the nengo.Simulator that runs it.
    """

    def __init__(self, network: SpikingNetwork, batch_size: int) -> None:
        nengo = imported()
        from nengo.builder import Model

        dt = network.dt_ms / 1000
        heard = np.zeros(batch_size * network.n_in)
        self._heard = heard.reshape(batch_size, -1)
        with _settings(nengo):
            self.model, neurons, delayed = _built(nengo, network, batch_size, heard)
            self.simulator = nengo.Simulator(
                self.model, dt=dt, model=Model(dt=dt), optimize=False, progress_bar=False
            )
        signals, of = self.simulator.signals, self.simulator.model.sig
        self._cells = [_Cell(signals, of[each]) for each in neurons]
        held = [signals[of[connection]["weighted"]] for connection in delayed]
        held += [state for cell in self._cells for state in cell.states]
        self._states = [
            array.reshape(-1, batch_size, array.shape[-1] // batch_size) for array in held
        ]
        self._start = [array.copy() for array in self._states]
        super().__init__(NengoBackend.name, network, batch_size)

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        sim_steps, rows, _ = drive.shape
        sizes = [layer.n_out for layer in self.network.spiking_layers]
        counts = [np.zeros((rows, n), dtype=np.int64) for n in sizes]
        trains = [np.zeros((sim_steps, rows, n), dtype=np.bool_) for n in sizes]
        trains = trains if record_spikes else []
        idle = [array[:, rows:].copy() for array in self._states]
        step = self.simulator.step
        for t in range(sim_steps):
            self._heard[:rows] = drive[t]
            step()
            for k, total in enumerate(counts):
                fired = self._cells[k].fired.reshape(self.batch_size, -1)[:rows] > 0
                total += fired
                if record_spikes:
                    trains[k][t] = fired
        for array, kept in zip(self._states, idle, strict=True):
            array[:, rows:] = kept
        return Recording(
            counts=tuple(counts),
            potentials=tuple(
                cell.voltage.reshape(self.batch_size, -1)[:rows].copy() for cell in self._cells
            ),
            sim_steps=sim_steps,
            spikes=tuple(trains) if record_spikes else None,
        )

    def simulate_alone(self, steps: int) -> None:
        """Let nengo take so many steps and nothing else: no decision can be faster."""
        self._check_open()
        for _ in range(steps):
            self.simulator.step()

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        chosen = slice(None) if rows is None else rows
        for array, start in zip(self._states, self._start, strict=True):
            array[:, chosen] = start[:, chosen]

    def _close(self) -> None:
        self._cells, self._states, self._start = [], [], []
        self.simulator.close()


class _Cell:
    """The arrays in which nengo keeps the state of one ensemble."""

    def __init__(self, signals: Any, of: Any) -> None:
        self.voltage: FloatArray = signals[of["voltage"]]
        self.fired: FloatArray = signals[of["fired"]]
        self.states = [self.voltage, signals[of["resting"]], signals[of["sent"]]]


def _built(
    nengo: Any, network: SpikingNetwork, batch_size: int, heard: FloatArray
) -> tuple[Any, list[Any], list[Any]]:
    """The nengo.Network, the neurons of each layer, and the connections that hold a step back."""
    from spikerl.backends.nengo_neuron import ContractNeuron

    neurons: list[Any] = []
    delayed: list[Any] = []

    def connect(source: Any, target: Any, transform: Any, late: bool) -> None:
        made = nengo.Connection(
            source, target, transform=transform, synapse=0 if late else None, seed=0
        )
        if late:
            delayed.append(made)

    with nengo.Network(seed=0) as model:
        source = nengo.Node(lambda t: heard, size_out=len(heard))
        late = False
        maps: list[Layer] = []
        for layer in network.layers:
            maps.append(layer)
            if not isinstance(layer, NeuronLayer):
                continue
            size = batch_size * layer.n_out
            here = nengo.Ensemble(
                size,
                1,
                neuron_type=ContractNeuron(layer, batch_size),
                gain=np.ones(size),
                bias=np.tile(neuron_bias(layer), batch_size),
                encoders=np.ones((size, 1)),
                eval_points=np.zeros((1, 1)),
            ).neurons
            connect(source, here, _transform(nengo, maps, batch_size), late)
            if layer.recurrent_weight is not None:
                loop = Dense(layer.recurrent_weight)
                connect(here, here, _transform(nengo, [loop], batch_size), True)
            neurons.append(here)
            source, late, maps = here, layer.delay_steps > 0, []
    return model, neurons, delayed


def _transform(nengo: Any, maps: Sequence[Layer], batch_size: int) -> Any:
    """The linear maps of a layer as one matrix, on the diagonal once per row of the batch."""
    if batch_size == 1 and len(maps) == 1 and isinstance(maps[0], Dense):
        return np.array(maps[0].weight)
    found = synapses(maps)
    n_in, n_out = maps[0].n_in, maps[-1].n_out
    row = np.arange(batch_size)[:, None]
    sender = np.repeat(np.arange(n_in), np.diff(found.starts))
    indices = np.stack([row * n_out + found.targets, row * n_in + sender], axis=-1)
    return nengo.Sparse(
        (batch_size * n_out, batch_size * n_in),
        indices=indices.reshape(-1, 2),
        init=np.tile(found.weights, batch_size),
    )


def imported() -> Any:
    """The nengo module; 4.1 looks for numpy.core, which numpy 2 has under another name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "numpy.core is deprecated", DeprecationWarning)
        import nengo
    return nengo


@contextmanager
def _settings(nengo: Any) -> Iterator[None]:
    """Numbers of 64 bits while a simulator is built, whatever nengo's configuration says."""
    before = nengo.rc.get("precision", "bits")
    nengo.rc.set("precision", "bits", "64")
    try:
        yield
    finally:
        nengo.rc.set("precision", "bits", before)
