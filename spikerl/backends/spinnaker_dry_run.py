"""dry_run(): a network mapped onto a virtual SpiNNaker machine, and what it would decide there.

Imports numpy and the core. sPyNNaker places the network, chooses the weights' format and writes all
tables as for a board, but loads and computes nothing. The weights it holds are read back, and the
network they make is run by a back end of spikerl: what that predicts is the effect of the number
formats. It is no measurement of a board.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from spikerl.backends.spinnaker_config import VIRTUAL, Claim, Workspace, spynnaker
from spikerl.backends.spinnaker_graph import Graph
from spikerl.backends.spinnaker_plan import (
    STEP,
    Connections,
    Plan,
    PlannedLayer,
    effective,
    first_current,
    plan,
    problems,
)
from spikerl.errors import BackendError, ShapeError, UnsupportedNetwork
from spikerl.network import FloatArray, SpikingNetwork
from spikerl.statistics import Estimate, mean, share

if TYPE_CHECKING:
    from spikerl.agent import SpikingAgent
    from spikerl.preprocessing import Observation

Held = list[list[tuple[FloatArray, FloatArray]]]
Places = Callable[[], list[tuple[str, str]]]


@dataclass(frozen=True)
class MappedLayer:
    """One layer of neurons on the virtual machine.

    cores:       where it is placed, "x,y,p" of each.
    weight_step: distance of two weights, (excitatory, inhibitory), in the network's units; of the
                 median neuron, for each has its own.
    weight_error: largest difference between a weight asked for and the one held, in such steps.
    coarse:      neurons whose threshold is fewer than 64 steps of potential, beside their inputs.
    synapses:    (excitatory, inhibitory).
    """

    name: str
    neurons: int
    cores: tuple[str, ...]
    weight_step: tuple[float, float]
    weight_error: float
    coarse: int
    synapses: tuple[int, int]


@dataclass(frozen=True, eq=False)
class DryRun:
    """What sPyNNaker made of a network; prints as a few lines.

    cores:      cores that hold its neurons; the machine's own monitors come on top.
    network:    the effective network: weights read back, biases and thresholds as rounded.
    agreement:  share of decisions that the effective network takes as the network asked for does,
                None without observations or for continuous actions.
    action_error: mean absolute difference of the actions in % of their range, for continuous ones.
    """

    layers: tuple[MappedLayer, ...]
    cores: int
    network: SpikingNetwork
    agreement: Estimate | None = None
    action_error: Estimate | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the network."""
        agreement, error = self.agreement, self.action_error
        return {
            "layers": [asdict(layer) for layer in self.layers],
            "cores": self.cores,
            "agreement": None if agreement is None else asdict(agreement),
            "action_error": None if error is None else asdict(error),
        }

    def __str__(self) -> str:
        lines = [f"{self.cores} cores of a virtual SpiNNaker machine; no board was involved"]
        for x in self.layers:
            line = f"  {x.name}: {x.neurons} neurons on cores {' '.join(x.cores)}"
            if any(x.synapses):
                line += (
                    f", {x.synapses[0]} excitatory and {x.synapses[1]} inhibitory synapses in "
                    f"steps of {x.weight_step[0]:.3g} and {x.weight_step[1]:.3g}, weights off by "
                    f"at most {x.weight_error:.2f} of one"
                )
            lines.append(line + (f", {x.coarse} coarse thresholds" if x.coarse else ""))
        for name, e, unit in (
            ("decisions as before rounding", self.agreement, 100.0),
            ("difference of the actions, % of their range", self.action_error, 1.0),
        ):
            if e is not None:
                lines.append(
                    f"  predicted {name}: {unit * e.value:.2f} [{unit * e.low:.2f}, "
                    f"{unit * e.high:.2f}], {e.n} decisions"
                )
        return "\n".join(lines)


def dry_run(
    source: SpikingNetwork | SpikingAgent,
    observations: Observation | ArrayLike | None = None,
    *,
    sim_steps: int | None = None,
    batch_size: int = 1,
    backend: str = "cpu",
) -> DryRun:
    """Map a network without a board and predict how the chip's number formats change decisions.

    observations: of an agent as the environment returns them, [B, ...]; of a network currents,
                  [B, n_in]. None maps only.
    sim_steps:    steps per decision; an agent has its own, a network 100.
    batch_size:   copies to map.
    backend:      where both networks are run.
    Raises UnsupportedNetwork with every problem, BackendError where sPyNNaker is missing, refuses,
    is in use by a session, or holds weights of the wrong sign.
    """
    agent = None if isinstance(source, SpikingNetwork) else source
    network = source if isinstance(source, SpikingNetwork) else source.network
    steps = sim_steps or (agent.sim_steps if agent else 100)
    if found := problems(network):
        raise UnsupportedNetwork("spinnaker", found)
    planned = plan(network)
    drive = None
    if observations is not None:
        drive = _drive(network, agent, observations, steps)
        first_current(planned, drive[0])  # refuse what the board would refuse
    held, places = read_back(planned, batch_size, spynnaker, _places)
    made = effective(planned, held)
    agreement = error = None
    if drive is not None:
        agreement, error = _compared(network, made, agent, drive, backend)
    return DryRun(
        layers=tuple(_mapped(k, planned, held, places) for k in range(len(planned.layers))),
        cores=len(places),
        network=made,
        agreement=agreement,
        action_error=error,
    )


def read_back(
    planned: Plan, batch_size: int, module: Callable[[], Any], places: Places
) -> tuple[Held, list[tuple[str, str]]]:
    """The weights a virtual machine holds, in the plan's order and units, and who is placed where.

    Raises BackendError where a synapse is missing, of the wrong sign or off by more than a step.
    """
    claim = Claim()
    files = Workspace(VIRTUAL)
    graph = None
    try:
        sim = module()
        with files.quiet():
            with files.at_home():
                graph = Graph(sim, planned, batch_size)
            n = planned.layers[0].layer.n_out
            for value in (0.0, 0.25):  # twice: as one decision after another
                graph.decide(np.full((batch_size, n), value), 2)
            held: Held = [
                [
                    (
                        _weights(planned, k, p, 1.0, found.excitatory, graph),
                        _weights(planned, k, p, -1.0, found.inhibitory, graph),
                    )
                    for p, found in enumerate(layer.projections)
                ]
                for k, layer in enumerate(planned.layers)
            ]
            return held, places()
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(
            f"sPyNNaker could not map the network: {type(error).__name__}: {error}"
        ) from error
    finally:
        try:
            if graph is not None:
                with files.quiet():
                    graph.end()
        finally:
            files.close()
            claim.release()


def _weights(
    planned: Plan, k: int, p: int, sign: float, asked: Connections, graph: Graph
) -> FloatArray:
    """Weights of one projection as held, in the order asked for and the network's units."""
    projection = graph.projections[k][p][0 if sign > 0 else 1]
    if projection is None:
        return np.zeros(0)
    here = planned.layers[k]
    before = here if here.projections[p].kind == "recurrent" else planned.layers[k - 1]
    n_pre, n_post = before.layer.n_out, here.layer.n_out
    rows = np.array(
        [tuple(map(float, row)) for row in projection.get("weight", "list", with_address=True)]
    ).reshape(-1, 3)
    rows = rows[(rows[:, 0] < n_pre) & (rows[:, 1] < n_post)]  # the first copy
    keys = rows[:, 0].astype(np.int64) * n_post + rows[:, 1].astype(np.int64)
    wanted = asked.senders * n_post + asked.targets
    # Two synapses between the same neurons come back in any order; rounding keeps their order.
    theirs, ours = np.lexsort((rows[:, 2], keys)), np.lexsort((asked.weights, wanted))
    if not np.array_equal(keys[theirs], wanted[ours]):
        raise BackendError(
            f"sPyNNaker holds {len(rows)} synapses between other neurons than the {len(asked)} "
            f"asked for (layer of neurons {k}, {here.projections[p].kind})"
        )
    values = np.empty(len(asked))
    values[ours] = rows[theirs, 2] / here.scale[asked.targets[ours]]
    # Both projections hold magnitudes: a negative one would be read as its own opposite.
    off = _off(here, sign, asked, values)
    if (values < 0).any() or off > 1:
        raise BackendError(
            f"sPyNNaker holds weights that are {off:.2f} steps off, wanted at most one and none "
            f"negative (layer of neurons {k}): it does not round as 7.4.1 does"
        )
    return values


def _off(here: PlannedLayer, sign: float, asked: Connections, values: FloatArray) -> float:
    """The largest difference between weights asked for and held, in their steps."""
    gap = np.abs(values - asked.weights / here.scale[asked.targets])
    return float((gap / here.steps(sign)[asked.targets]).max(initial=0.0))


def _places() -> list[tuple[str, str]]:
    """(label, "x,y,p") of every core that holds neurons."""
    from importlib import import_module

    view: Any = import_module("spynnaker.pyNN.data").SpynnakerDataView
    return [
        (place.vertex.app_vertex.label, f"{place.x},{place.y},{place.p}")
        for place in view.iterate_placemements()
        if place.vertex.app_vertex is not None
    ]


def _mapped(k: int, planned: Plan, held: Held, places: list[tuple[str, str]]) -> MappedLayer:
    here = planned.layers[k]
    errors = [0.0]
    counts = [0, 0]
    for projection, weights in zip(here.projections, held[k], strict=True):
        for j, (_, sign, asked) in enumerate(projection.signs):
            counts[j] += len(asked)
            errors.append(_off(here, sign, asked, weights[j]))
    return MappedLayer(
        name=f"layer {k}",
        neurons=here.layer.n_out,
        cores=tuple(core for label, core in places if label == f"layer {k}"),
        weight_step=(float(np.median(here.steps(1.0))), float(np.median(here.steps(-1.0)))),
        weight_error=max(errors),
        coarse=int((here.threshold < 64 * STEP).sum()) if here.layer.spiking else 0,
        synapses=(counts[0], counts[1]),
    )


def _drive(
    network: SpikingNetwork, agent: SpikingAgent | None, observations: Any, steps: int
) -> FloatArray:
    if agent is None:
        rows = np.asarray(observations, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != network.n_in:
            raise ShapeError(f"found currents of shape {rows.shape}, wanted [B, {network.n_in}]")
        return np.broadcast_to(rows, (steps, *rows.shape))
    rows = agent.preprocessing(observations)
    drive: FloatArray = agent.encoder.encode(rows, steps, np.random.default_rng(0))
    if (drive != drive[:1]).any():
        raise BackendError(
            f"the encoder {type(agent.encoder).__name__} changes from step to step, wanted "
            "ConstantCurrent: a board takes one current per decision"
        )
    return drive


def _compared(
    network: SpikingNetwork,
    made: SpikingNetwork,
    agent: SpikingAgent | None,
    drive: FloatArray,
    backend: str,
) -> tuple[Estimate | None, Estimate | None]:
    """Agreement or action error of the network the chip holds with the one asked for."""
    from spikerl.backends import get

    actions: list[NDArray[Any]] = []
    for one in (network, made):
        with get(backend).compile(one, batch_size=drive.shape[1]) as session:
            recording = session.run(drive, record_spikes=True)
        if agent is None:
            read_out = recording.counts[-1] if one.readout.spiking else recording.potential
            assert read_out is not None
            actions.append(read_out.argmax(axis=1))
        else:
            values = agent.decoder.values(recording)
            actions.append(agent.decoder.action(values, True, np.random.default_rng(0)))
    first, second = actions
    space = None if agent is None else agent.action_space
    if isinstance(space, spaces.Box):
        from spikerl.metrics import percent_error

        return None, mean(percent_error(second, first, space))
    return share((first == second).reshape(len(first), -1).all(axis=1)), None
