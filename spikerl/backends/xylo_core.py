"""The Xylo core in integers, step by step: what the chip computes, which no SpikingNetwork can say.

Imports numpy. Equal to the simulator of the chip's maker (xylosim 0.1.3, core v2) in every slot;
tests/test_xylo_core.py compares them. All states are 16 bits wide and saturate. Each step:

    i <- i + n * (w << shift)         for each sender in turn: n <= 15 events of an input channel,
                                      or n <= 31 spikes a hidden neuron fired in the step before
    i <- i - d(i, dash_syn)           hidden neurons have two such synapses, i1 and i2, outputs one
    v <- v - d(v, dash_mem) + i1 + i2 + bias
    while v >= threshold and fired < limit:  v <- v - threshold; fired <- fired + 1

    d(x, dash) = x >> dash, rounded down, but at least one unit towards zero where x is not 0
    limit      = 31 spikes per step in hidden neurons, 1 in outputs

So there is no perfect integrator (dash_mem 15 still leaks a unit per step), and no synapse without
a time constant: dash_syn 1 gives half of a weight at once, then a quarter, and so on; dash_syn 0
gives nothing at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntArray = NDArray[np.int64]

LOWEST, HIGHEST = -(2**15), 2**15 - 1  # of a state
MAX_WEIGHT = 127
MAX_SHIFT = 7
MAX_INPUT_EVENTS = 15
MAX_SPIKES = 31
MAX_OUTPUT_SPIKES = 1
NO_LEAK = 15  # the dash nearest to none: a unit per step


@dataclass(frozen=True, eq=False)
class Core:
    """The numbers a Xylo core is configured with; both synapses of a neuron have one dash_syn.

    weights_in: [2, n_in, hidden], weights_rec: [2, hidden, hidden], of both synapses;
    weights_out: [hidden, n_out]. Rows are senders; -128..127.
    shift_in, shift_rec, shift_out: bits the weights are shifted by on the way, 0..7.
    threshold, bias, dash_mem, dash_syn: [hidden]; *_out: [n_out].
    """

    weights_in: IntArray
    weights_rec: IntArray
    weights_out: IntArray
    shift_in: int
    shift_rec: int
    shift_out: int
    threshold: IntArray
    bias: IntArray
    dash_mem: IntArray
    dash_syn: IntArray
    threshold_out: IntArray
    bias_out: IntArray
    dash_mem_out: IntArray
    dash_syn_out: IntArray

    @property
    def n_in(self) -> int:
        """Input channels."""
        return int(self.weights_in.shape[1])

    @property
    def n_hidden(self) -> int:
        """Hidden neurons, of all layers."""
        return len(self.threshold)

    @property
    def n_out(self) -> int:
        """Output neurons."""
        return len(self.threshold_out)


@dataclass
class CoreState:
    """What a core remembers between steps, for B copies: all zero at first.

    v, fired: [B, hidden]; i: [2, B, hidden]; v_out, i_out: [B, n_out].
    """

    v: IntArray
    i: IntArray
    fired: IntArray
    v_out: IntArray
    i_out: IntArray


@dataclass(frozen=True, eq=False)
class CoreRecording:
    """Every slot of T steps: [T, B, n], i [T, 2, B, n]; v and i are those at the end of a step."""

    spikes: IntArray
    v: IntArray
    i: IntArray
    spikes_out: IntArray
    v_out: IntArray
    i_out: IntArray


def start(core: Core, batch_size: int = 1) -> CoreState:
    """The state after a reset."""
    hidden, out = (batch_size, core.n_hidden), (batch_size, core.n_out)
    shapes = (hidden, (2, *hidden), hidden, out, out)
    return CoreState(*(np.zeros(shape, dtype=np.int64) for shape in shapes))


def simulate_core(core: Core, events: ArrayLike, state: CoreState | None = None) -> CoreRecording:
    """Run the core on events [T, B, n_in], whole numbers >= 0, and record every slot.

    state: as start() gives it, changed in place; None starts afresh.
    """
    raster = np.asarray(events, dtype=np.int64)
    here = start(core, raster.shape[1]) if state is None else state
    rows: list[list[IntArray]] = [[] for _ in range(6)]
    for arriving in raster:
        before = here.fired
        for j, i in enumerate(here.i):
            events_in = np.minimum(arriving, MAX_INPUT_EVENTS)
            _deliver(i, events_in, core.weights_in[j] << core.shift_in)
            _deliver(i, before, core.weights_rec[j] << core.shift_rec)
        _deliver(here.i_out, before, core.weights_out << core.shift_out)
        here.i -= leak(here.i, core.dash_syn)
        here.v, here.fired = _step(
            here.v, here.i.sum(axis=0), core.threshold, core.bias, core.dash_mem, MAX_SPIKES
        )
        here.i_out -= leak(here.i_out, core.dash_syn_out)
        here.v_out, fired_out = _step(
            here.v_out,
            here.i_out,
            core.threshold_out,
            core.bias_out,
            core.dash_mem_out,
            MAX_OUTPUT_SPIKES,
        )
        now = (here.fired, here.v, here.i, fired_out, here.v_out, here.i_out)
        for kept, value in zip(rows, now, strict=True):
            kept.append(value.copy())
    return CoreRecording(*(np.stack(kept) for kept in rows))


def leak(state: IntArray, dash: IntArray) -> IntArray:
    """What a state loses in a step: a shift that rounds down, at least one unit towards zero."""
    lost = state >> dash
    return np.where(lost == 0, np.sign(state), lost)


def _deliver(current: IntArray, events: IntArray, weights: IntArray) -> None:
    """Add the events [B, senders] to the currents [B, n], sender after sender, each saturating.

    The order matters once a current saturates, so it is kept.
    """
    for sender in np.flatnonzero(events.any(axis=0)):
        current += events[:, sender, None] * weights[sender]
        np.clip(current, LOWEST, HIGHEST, out=current)


def _step(
    v: IntArray, i: IntArray, threshold: IntArray, bias: IntArray, dash: IntArray, limit: int
) -> tuple[IntArray, IntArray]:
    """Membranes and spikes after a step."""
    gained = (-leak(v, dash)).astype(np.int16)  # 16 bits cannot hold 2^15: dash 0 keeps -2^15
    change = np.clip(i + gained, LOWEST, HIGHEST)
    change = np.clip(change + bias, LOWEST, HIGHEST)
    v = np.clip(v + change, LOWEST, HIGHEST)
    fired = np.clip(v // threshold, 0, limit)
    return v - fired * threshold, fired
