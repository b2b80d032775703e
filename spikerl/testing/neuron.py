"""Checks of one rule each, on one or two neurons, against trains worked out by hand.

Every drive is 0/1 and the weights carry the amounts, so they apply to every kind of input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spikerl.backends.base import Backend, Capabilities
from spikerl.network import Dense, Layer, SpikingNetwork
from spikerl.reference import simulate
from spikerl.testing.check import Catalogue, compare, exact, fail, opened, run, train

_catalogue = Catalogue()
check = _catalogue.add
CHECKS = _catalogue.checks


def neurons(c: Capabilities, weight: Any, **fields: Any) -> Dense:
    """A Dense layer with a reset, a delay and a rest that the capabilities allow."""
    fields.setdefault("reset", "subtract" if "subtract" in c.resets else "zero")
    fields.setdefault("delay_steps", c.min_delay_steps)
    fields.setdefault("refractory_steps", c.min_refractory_steps)
    return Dense(weight=weight, **fields)


def expect(backend: Backend, layers: Sequence[Layer], drive: Any, trains: Sequence[str]) -> None:
    """Fail unless the last layer fires these trains, one text like "0010" per neuron.

    drive: [T] or [T, n_in], of 0 and 1.
    """
    c = backend.capabilities
    steps = np.asarray(drive, dtype=np.float64)
    steps = steps.reshape(len(steps), 1, -1)
    with opened(backend, SpikingNetwork(tuple(layers))) as session:
        got = run(session, backend, steps)
        # Amounts of few bits are not those of the trains by hand, and neurons that must rest fire
        # others: then the reference alone says what is right.
        if c.weight_bits is None and c.min_refractory_steps == 0:
            for n, wanted in enumerate(trains):
                if "spikes" in c.records and got.spikes is not None:
                    found = train(got.spikes[-1][:, 0, n])
                    if found != wanted:
                        fail(f"neuron {n} fired {found}", wanted)
                elif "counts" in c.records and got.counts[-1][0, n] != wanted.count("1"):
                    fail(f"neuron {n} fired {got.counts[-1][0, n]} times", wanted)
        compare(c, got, simulate(session.network, steps))


@check()
def quiet(backend: Backend) -> None:
    """Without drive and bias nothing fires and every potential stays at zero."""
    c = backend.capabilities
    weight = np.arange(12).reshape(3, 4) / 4 - 1
    layers = [neurons(c, weight), neurons(c, weight[:2, :3])]
    expect(backend, layers, np.zeros((8, 4)), ["0" * 8] * 2)


@check(exact)
def threshold_is_inclusive(backend: Backend) -> None:
    """Four quarters fire at the fourth step: v equal to the threshold is enough."""
    layer = neurons(backend.capabilities, [[0.25]])
    expect(backend, [layer], [1, 1, 1, 1, 0], ["00010"])


@check(lambda c: exact(c) and "subtract" in c.resets)
def subtract_keeps_remainder(backend: Backend) -> None:
    """With reset="subtract" what exceeds the threshold counts for the next spike."""
    # 3/4, 6/4 fires, 5/4 fires, 4/4 fires, and again from 0; a threshold of 1/2 is subtracted as
    # itself, not as 1: 3/4 fires, 1 fires, 5/4 fires, ...
    layer = neurons(
        backend.capabilities, [[0.75], [0.75]], v_threshold=[1.0, 0.5], reset="subtract"
    )
    expect(backend, [layer], [1] * 8, ["01110111", "11111111"])


@check(lambda c: exact(c) and "zero" in c.resets)
def zero_discards_remainder(backend: Backend) -> None:
    """With reset="zero" a spike leaves the potential at zero, whatever exceeded the threshold."""
    layer = neurons(backend.capabilities, [[0.75]], reset="zero")
    expect(backend, [layer], [1] * 8, ["01010101"])


@check(exact)
def one_spike_per_step(backend: Backend) -> None:
    """A drive of three thresholds in one step fires once in that step."""
    c = backend.capabilities
    wanted = "1110" if "subtract" in c.resets else "1000"
    expect(backend, [neurons(c, [[3.0]])], [1, 0, 0, 0], [wanted])


@check(lambda c: exact(c) and c.decay)
def leak_before_input(backend: Backend) -> None:
    """The potential leaks before the input is added, v_init too, and the input is not scaled."""
    # neuron 0: 3/4; 3/8 + 3/4 fires. neuron 1, from 1/2: 1/4 + 5/8 rests; 7/16 + 5/8 fires.
    # If the input leaked too, neuron 0 would never fire; if v_init did not, neuron 1 would at once.
    layer = neurons(backend.capabilities, [[0.75], [0.625]], decay=0.5, v_init=[0.0, 0.5])
    expect(backend, [layer], [1] * 4, ["0101", "0100"])


@check(exact)
def inhibition_is_remembered(backend: Backend) -> None:
    """A potential goes as far below zero as its input pushes it; there is no hidden floor."""
    # -3/2, -3/4, 0, 3/4, 3/2 fires. A floor at 0 fires twice; one at -1 a step early and twice.
    drive = [[0, 1], [1, 0], [1, 0], [1, 0], [1, 0]]
    expect(backend, [neurons(backend.capabilities, [[0.75, -1.5]])], drive, ["00001"])


@check(lambda c: exact(c) and c.bias)
def bias_every_step(backend: Backend) -> None:
    """The bias is added at every step from the first one on, in every layer."""
    c = backend.capabilities
    expect(backend, [neurons(c, [[1.0]], bias=[0.25])], [0] * 8, ["00010001"])
    layers = [neurons(c, [[1.0]]), neurons(c, [[1.0]], bias=[0.5])]
    expect(backend, layers, [0] * 5, ["01010"])


@check(lambda c: exact(c) and c.weight_bits is None)
def small_increments_accumulate(backend: Backend) -> None:
    """Sixteen steps of 2^-14 are not lost next to a potential close to one."""
    layer = neurons(backend.capabilities, [[2.0**-14]], v_init=1 - 2.0**-10)
    expect(backend, [layer], [1] * 20, ["0" * 15 + "10000"])


@check(exact)
def spikes_arrive_when_due(backend: Backend) -> None:
    """A spike reaches the next layer delay_steps later: not before, not after, and only once."""
    c = backend.capabilities
    for delay in delays(c, 0, 1, 2, 5):
        layers = [neurons(c, [[1.0]], delay_steps=delay), neurons(c, [[1.0]])]
        wanted = "0" * delay + "1" + "0" * (7 - delay)
        expect(backend, layers, [1] + [0] * 7, [wanted])


@check(lambda c: exact(c) and c.recurrent)
def neurons_hear_themselves_a_step_later(backend: Backend) -> None:
    """Recurrent weights carry a spike from neuron j to neuron i max(1, delay_steps) later."""
    c = backend.capabilities
    for delay in delays(c, 0, 1, 3):
        layer = neurons(c, [[1.0], [0.0]], recurrent=[[0.0, 0.0], [1.0, 0.0]], delay_steps=delay)
        due = max(1, delay)
        trains = ["100000", "0" * due + "1" + "0" * (5 - due)]
        expect(backend, [layer], [1, 0, 0, 0, 0, 0], trains)


@check(lambda c: exact(c) and c.refractory)
def refractory_neurons_are_held(backend: Backend) -> None:
    """For refractory_steps after a spike the potential is held: no leak, no input, no spike."""
    # subtract: 3/4, 6/4 fires, 2/4 held twice, 5/4 fires, 1/4 held twice, 4/4 fires.
    # zero:     3/4, 6/4 fires, 0 held twice, 3/4, 6/4 fires, 0 held twice.
    c = backend.capabilities
    wanted = "01001001" if "subtract" in c.resets else "01000100"
    expect(backend, [neurons(c, [[0.75]], refractory_steps=2)], [1] * 8, [wanted])


@check(lambda c: exact(c) and c.v_min)
def floor_is_applied(backend: Backend) -> None:
    """A potential does not go below v_min, however strong the inhibition."""
    # -3/2 becomes -1/2, then 1/4, 4/4 fires, 3/4, 6/4 fires.
    drive = [[0, 1], [1, 0], [1, 0], [1, 0], [1, 0]]
    layer = neurons(backend.capabilities, [[0.75, -1.5]], v_min=-0.5)
    expect(backend, [layer], drive, ["00101"])


@check(lambda c: exact(c) and c.current)
def current_outlasts_its_input(backend: Backend) -> None:
    """A synaptic current keeps current_decay of itself per step and moves v until it is gone."""
    # 1, 1/2, 1/4, ...: v is 1/2, 1 - 1/4 + ..., always below 1; two inputs are enough.
    layer = neurons(backend.capabilities, [[0.5]], current_decay=0.5)
    expect(backend, [layer], [1, 1, 0, 0, 0, 0], ["010000"])
    # held for two steps after its spike, the neuron then goes on with what the current has become
    if backend.capabilities.refractory:
        layer = neurons(backend.capabilities, [[1.0]], current_decay=0.5, refractory_steps=2)
        expect(backend, [layer], [1, 0, 0, 1, 0, 0], ["100100"])


@check(lambda c: exact(c) and c.adaptation)
def spikes_lift_the_threshold(backend: Backend) -> None:
    """Each spike lifts the threshold from the next step on; the lift decays, resets ignore it."""
    c = backend.capabilities
    layer = neurons(c, [[1.0]], adaptation=1.0, adaptation_decay=0.5)
    # subtract: 1 fires; 1 < 2; 2 >= 3/2 fires, 1 is left; 2 < 9/4; 3 >= 13/8 fires; 3 >= 37/16 too.
    # zero:     1 fires; 1 < 2; 2 >= 3/2 fires, 0 is left; 1 < 9/4; 2 >= 13/8 fires; 1 < 37/16.
    wanted = "101011" if "subtract" in c.resets else "101010"
    expect(backend, [layer], [1] * 6, [wanted])


def delays(c: Capabilities, *wanted: int) -> list[int]:
    """The delays among these that the capabilities allow, or else the smallest one."""
    highest = np.inf if c.max_delay_steps is None else c.max_delay_steps
    allowed = [delay for delay in wanted if c.min_delay_steps <= delay <= highest]
    return allowed or [c.min_delay_steps]
