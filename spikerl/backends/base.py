"""What a back end is: Capabilities (data), Backend (protocol), Session (lifecycle).

Imports numpy, network, reference and errors. Every back-end file imports this one; nothing here
imports a simulator.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spikerl.errors import BackendError, SessionClosed, ShapeError, UnsupportedNetwork
from spikerl.network import RESETS, FloatArray, NeuronLayer, Recording, SpikingNetwork
from spikerl.reference import as_drive, simulate

Rows = NDArray[np.bool_]
EXACTNESS = ("potentials", "spikes", "counts", "rates", "unverified")


@dataclass(frozen=True)
class Capabilities:
    """What a back end promises, readable without its simulator; the suite tests just this.

    exactness:     on dyadic networks, against the reference on the effective network: "potentials"
                   (every spike and every final potential), "spikes", "counts" or "rates";
                   "unverified" promises nothing: no one has compared them.
    tolerance:     largest difference allowed in what exactness names (0 for spikes).
    resets, layers, recurrent, decay, bias, refractory, v_min: what a network may contain.
    current, adaptation: the same for synaptic currents and thresholds that adapt; False unless
                   said, as few back ends have them.
    first_resets:  what the first layer of neurons may have, where it runs elsewhere than the
                   others; None: as resets.
    max_delay_steps: largest delay_steps a layer may have; min_delay_steps: the smallest.
    min_refractory_steps: smallest refractory_steps, where a neuron must rest after a spike.
    drive:         "current" (any numbers) and "spikes" (0/1) that run() takes; "constant" for
                   numbers that stay the same throughout a run.
    records:       what a Recording holds: "counts", "spikes", "potential" (last layer),
                   "potentials" (every layer).
    batching:      "native", "copies" (B disjoint nets in one simulation) or "loop".
    keeps_state:   run(a); run(b) equals run(a then b).
    partial_reset: reset(rows) leaves the other rows alone.
    weight_bits:   None for floating point.
    weight_steps:  "layer" where a whole layer's weights are multiples of one step, which is what a
                   conversion can round to beforehand; "neuron" where each neuron has a step.
    v_init:        where the neurons must start; None: anywhere.
    limits:        largest sizes, by name: "neurons_per_layer", "neurons", "fan_in", "inputs".
    max_sessions:  1 where the simulator is global.
    hardware:      True where a board decides.
    """

    exactness: Literal["potentials", "spikes", "counts", "rates", "unverified"] = "potentials"
    tolerance: float = 0.0
    resets: frozenset[str] = frozenset(RESETS)
    first_resets: frozenset[str] | None = None
    layers: frozenset[str] = frozenset({"Dense", "Conv2d", "AvgPool2d", "Flatten"})
    recurrent: bool = True
    decay: bool = True
    bias: bool = True
    refractory: bool = True
    v_min: bool = True
    current: bool = False
    adaptation: bool = False
    min_refractory_steps: int = 0
    min_delay_steps: int = 0
    max_delay_steps: int | None = None
    drive: frozenset[str] = frozenset({"current", "spikes"})
    records: frozenset[str] = frozenset({"counts", "spikes", "potential", "potentials"})
    batching: Literal["native", "copies", "loop"] = "native"
    keeps_state: bool = True
    partial_reset: bool = True
    weight_bits: int | None = None
    weight_steps: Literal["layer", "neuron"] = "layer"
    v_init: float | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    max_sessions: int | None = None
    hardware: bool = False

    @property
    def can_read_out(self) -> bool:
        """Whether the potential of a read-out is both given back and promised to be right."""
        return bool({"potential", "potentials"} & self.records) and self.exactness == "potentials"


def rules_of(capabilities: Capabilities) -> dict[str, Any]:
    """The reset, delay_steps and weight_bits a network must have to run there.

    Where there is a choice, reset by subtraction, which loses nothing, and the shortest delay.
    first_reset is among them where the first layer has a choice that the others have not, v_init
    where the neurons must start there.
    Weights are rounded beforehand only where the target's own rounding would be as coarse.
    """
    found: dict[str, Any] = {
        "reset": "subtract" if "subtract" in capabilities.resets else "zero",
        "delay_steps": capabilities.min_delay_steps,
        "weight_bits": capabilities.weight_bits if capabilities.weight_steps == "layer" else None,
    }
    first = capabilities.first_resets or frozenset()
    if "subtract" in first - capabilities.resets:
        found["first_reset"] = "subtract"
    if capabilities.v_init is not None:
        found["v_init"] = capabilities.v_init
    return found


def under_rules(network: SpikingNetwork, capabilities: Capabilities) -> SpikingNetwork:
    """The same weights with the resets, delays, rests and first potentials a back end must have."""
    rules = rules_of(capabilities)
    fields = {"v_init": rules["v_init"]} if "v_init" in rules else {}
    first = network.neuron_layers[0]
    layers = tuple(
        replace(
            layer,
            reset=rules.get("first_reset", rules["reset"]) if layer is first else rules["reset"],
            delay_steps=rules["delay_steps"],
            refractory_steps=capabilities.min_refractory_steps,
            **fields,
        )
        if isinstance(layer, NeuronLayer) and layer.spiking
        else layer
        for layer in network.layers
    )
    return replace(network, layers=layers)


def capability_problems(capabilities: Capabilities, network: SpikingNetwork) -> list[str]:
    """Every reason, readable from the capabilities alone, why a network cannot run."""
    c = capabilities
    found: list[str] = []
    first = network.neuron_layers[0]
    for i, layer in enumerate(network.layers):
        kind = type(layer).__name__
        if kind not in c.layers:
            found.append(f"layer {i}: {kind} is not supported, only {', '.join(sorted(c.layers))}")
        if not isinstance(layer, NeuronLayer):
            continue
        resets = c.resets if layer is not first or c.first_resets is None else c.first_resets
        if layer.spiking and layer.reset not in resets:
            found.append(
                f"layer {i}: reset={layer.reset!r} is not supported, only "
                + ", ".join(sorted(resets))
            )
        if not c.decay and (layer.decay != 1).any():
            found.append(f"layer {i}: decay < 1 is not supported")
        if not c.recurrent and layer.recurrent_weight is not None:
            found.append(f"layer {i}: recurrent weights are not supported")
        if not c.bias and np.any(getattr(layer, "bias", 0.0)):
            found.append(f"layer {i}: biases are not supported")
        if not c.refractory and layer.refractory_steps:
            found.append(f"layer {i}: refractory_steps > 0 is not supported")
        if layer.spiking and layer.refractory_steps < c.min_refractory_steps:
            found.append(f"layer {i}: refractory_steps must be at least {c.min_refractory_steps}")
        if not c.v_min and layer.v_min is not None:
            found.append(f"layer {i}: v_min is not supported")
        if not c.current and layer.has_current:
            found.append(f"layer {i}: synaptic currents (current_decay > 0) are not supported")
        if not c.adaptation and layer.adapts:
            found.append(f"layer {i}: thresholds that adapt (adaptation > 0) are not supported")
        highest = c.max_delay_steps
        if layer.spiking and layer.delay_steps < c.min_delay_steps:
            found.append(f"layer {i}: delay_steps must be at least {c.min_delay_steps}")
        if highest is not None and layer.delay_steps > highest:
            found.append(f"layer {i}: delay_steps must be at most {highest}")
    return found + _limit_problems(c.limits, network)


def _limit_problems(limits: Mapping[str, int], network: SpikingNetwork) -> list[str]:
    found = []
    sizes = [layer.n_out for layer in network.neuron_layers]
    if sum(sizes) > limits.get("neurons", sum(sizes)):
        found.append(f"{sum(sizes)} neurons in all, at most {limits['neurons']} fit")
    if network.n_in > limits.get("inputs", network.n_in):
        found.append(f"{network.n_in} inputs, at most {limits['inputs']} fit")
    for i, layer in enumerate(network.layers):
        if not isinstance(layer, NeuronLayer):
            continue
        if layer.n_out > limits.get("neurons_per_layer", layer.n_out):
            found.append(
                f"layer {i}: {layer.n_out} neurons, at most {limits['neurons_per_layer']} fit"
            )
        if layer.n_in > limits.get("fan_in", layer.n_in):
            found.append(
                f"layer {i}: {layer.n_in} inputs per neuron, at most {limits['fan_in']} fit"
            )
    return found


@runtime_checkable
class Backend(Protocol):
    """Where networks run: compile() builds once, the Session decides many times."""

    @property
    def name(self) -> str:
        """What it is called in the registry and in messages."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it promises; readable without its simulator."""
        ...

    def problems(self, network: SpikingNetwork) -> list[str]:
        """Every reason this network cannot run here; empty if it can. Imports no simulator."""
        ...

    def compile(
        self,
        network: SpikingNetwork,
        *,
        batch_size: int = 1,
        seed: int | None = None,
        **options: Any,
    ) -> Session:
        """Build the network for batch_size rows; raises UnsupportedNetwork with every problem."""
        ...


def require_runnable(backend: Backend, network: SpikingNetwork, batch_size: int = 1) -> None:
    """Raise UnsupportedNetwork with every problem at once; the first line of every compile()."""
    problems = list(backend.problems(network))
    if (
        isinstance(batch_size, bool)
        or not isinstance(batch_size, (int, np.integer))
        or batch_size < 1
    ):
        problems.append(f"batch_size must be a whole number >= 1, found {batch_size!r}")
    if problems:
        raise UnsupportedNetwork(backend.name, problems)


def refuse_options(backend: str, options: Mapping[str, Any], known: tuple[str, ...] = ()) -> None:
    """Raise BackendError naming every option this back end does not have."""
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise BackendError(
            f"back end {backend!r} has no option {', '.join(unknown)}; "
            + (f"it has {', '.join(known)}" if known else "it has none")
        )


class Session(ABC):
    """One compiled network and its state; a back end writes _run, _reset and _close.

    network:    the EFFECTIVE network, in spikerl's units: what really runs.
    batch_size: rows that can be run at once.
    """

    closed = True  # until __init__ has gone through: a constructor that raises owns nothing

    def __init__(self, backend: str, network: SpikingNetwork, batch_size: int) -> None:
        self.backend = backend
        self.network = network
        self.batch_size = int(batch_size)
        self.closed = False

    def run(self, drive: ArrayLike, *, record_spikes: bool = False) -> Recording:
        """Simulate T steps from the present state and return what happened.

        drive: [T, B, n_in] with B <= batch_size; rows 0..B-1 advance, the others stay as they are.
        record_spikes: also return the spikes of every step; costs time and memory.
        Raises ShapeError for a drive that does not fit, SessionClosed after close().
        """
        self._check_open()
        checked = as_drive(drive, self.network)
        if checked.shape[1] > self.batch_size:
            raise ShapeError(
                f"the drive has {checked.shape[1]} rows, the session was compiled for "
                f"batch_size={self.batch_size}"
            )
        return self._run(checked, record_spikes)

    def reset(self, rows: ArrayLike | None = None) -> None:
        """Put rows (bool mask [batch_size] or indices; None: all) back to their first state."""
        self._check_open()
        if rows is None:
            self._reset(None)
            return
        chosen = np.asarray(rows)
        mask = np.zeros(self.batch_size, dtype=np.bool_)
        try:
            if chosen.dtype == np.bool_ and chosen.shape != mask.shape:
                raise IndexError
            if chosen.dtype.kind == "i" and (chosen < 0).any():
                raise IndexError  # numpy would count from the end
            if chosen.size:
                mask[chosen] = True
        except IndexError:
            raise ShapeError(
                f"rows must be a bool mask of shape ({self.batch_size},) or indices from 0 "
                f"to {self.batch_size - 1}, found {rows!r}"
            ) from None
        self._reset(mask)

    def close(self) -> None:
        """Give everything back; calling it again does nothing."""
        if not self.closed:
            self.closed = True
            self._close()

    @abstractmethod
    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording: ...

    @abstractmethod
    def _reset(self, rows: NDArray[np.bool_] | None) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    def _check_open(self) -> None:
        if self.closed:
            raise SessionClosed(f"this {self.backend!r} session is closed; compile a new one")

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self.closed:
            warnings.warn(
                f"a {self.backend!r} session was never closed; call close() or use 'with'",
                ResourceWarning,
                stacklevel=2,
            )
            self.close()


def self_tested(session: Session, capabilities: Capabilities, *, sim_steps: int = 4) -> Session:
    """Return the session if it reproduces the reference, else raise BackendError.

    A few steps of a fixed dyadic drive; catches a broken installation or a back end that was built
    against another version of its simulator before it makes a decision. Leaves the start state.
    """
    network = session.network
    drive, decisive = _test_drive(network, capabilities, sim_steps)
    try:
        got = session.run(drive)
        session.reset()
        if decisive and capabilities.exactness in ("potentials", "spikes"):
            want = simulate(network, drive)
            wrong = [
                i
                for i, (a, b) in enumerate(zip(got.counts, want.counts, strict=True))
                if not np.array_equal(a[:1], b)
            ]
            if wrong:
                raise BackendError(
                    f"back end {session.backend!r} failed its self-test: spike counts differ from "
                    f"the reference in spiking layers {wrong}; reinstall it, or report this"
                )
    except BaseException:
        session.close()
        raise
    return session


def _test_drive(
    network: SpikingNetwork, capabilities: Capabilities, sim_steps: int
) -> tuple[FloatArray, bool]:
    """A drive of one row, and whether two right programs must agree on it in every spike.

    With weights like 0.1 a sum that meets a threshold depends on the order of adding; such a drive
    decides nothing, and the next one is tried.
    """
    steps = np.arange(sim_steps * network.n_in)
    for factor in (5, 2, 4, 7):
        pattern = (steps * factor % 9 - 4).reshape(sim_steps, 1, network.n_in)
        current = "current" in capabilities.drive
        drive: FloatArray = pattern / 4.0 if current else (pattern > 0).astype(np.float64)
        if tie_free(network, drive).all():
            return drive, True
    return drive, False


def tie_free(network: SpikingNetwork, drive: FloatArray, margin: float = 2.0**-14) -> Rows:
    """Bool [B]: rows in which no spike changes if every threshold moves by this share of itself."""
    low, high = (
        simulate(_moved(network, factor), drive).spikes for factor in (1 - margin, 1 + margin)
    )
    free = np.ones(drive.shape[1], dtype=np.bool_)
    for a, b in zip(low or (), high or (), strict=True):
        free &= (a == b).all(axis=(0, 2))
    return free


def _moved(network: SpikingNetwork, factor: float) -> SpikingNetwork:
    layers = (
        replace(layer, v_threshold=layer.v_threshold * factor)
        if isinstance(layer, NeuronLayer)
        else layer
        for layer in network.layers
    )
    return SpikingNetwork(tuple(layers), network.dt_ms)
