"""Checks on random networks: every spike of every layer against the reference.

They compare on session.network, the effective network, so quantisation is not blamed on a device.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from spikerl.backends.base import Backend, Capabilities, capability_problems, tie_free
from spikerl.network import Conv2d, Dense, FloatArray, NeuronLayer, SpikingNetwork
from spikerl.reference import simulate
from spikerl.testing import dyadic
from spikerl.testing.check import (
    FLOAT_NOISE,
    Catalogue,
    comparable,
    compare,
    cut_rows,
    exact,
    fail,
    matches,
    opened,
    run,
)
from spikerl.testing.neuron import delays

_catalogue = Catalogue()
check = _catalogue.add
CHECKS = _catalogue.checks


def _match(
    backend: Backend, network: SpikingNetwork, seed: int, decay: float = 1.0, where: str = ""
) -> None:
    """Three rows of a random drive, on a session for as many."""
    rng = np.random.default_rng(seed)
    drive = dyadic.drive(
        rng, backend.capabilities, network, dyadic.steps(backend.capabilities, decay)
    )
    with opened(backend, network, 3) as session:
        matches(backend, session, drive, where)


@check()
def matches_reference(backend: Backend) -> None:
    """Random networks, with every reset and kind of drive declared, do what the reference does."""
    c = backend.capabilities
    for seed, reset in enumerate(sorted(c.resets)):
        for readout in (True, False):
            rng = np.random.default_rng(10 + seed)
            network = dyadic.stack(rng, c, reset=reset, readout=readout)
            where = f"reset={reset!r}"
            _match(backend, network, 20 + seed, where=where)
            if not c.can_read_out:
                break  # both networks would be the same
        if {"current", "spikes"} <= c.drive:
            with opened(backend, network, 3) as session:
                drive = dyadic.spikes(rng, network, dyadic.steps(c))
                matches(backend, session, drive, f"{where}, drive of spikes")


@check(lambda c: c.decay)
def matches_reference_leaky(backend: Backend) -> None:
    """Leaky networks do what the reference does, with one leak per layer and one per neuron."""
    c = backend.capabilities
    _, hidden, _ = dyadic.sizes(c)
    for seed, reset in enumerate(sorted(c.resets)):
        for decay in (0.5, 0.75):
            network = dyadic.stack(np.random.default_rng(30 + seed), c, reset=reset, decay=decay)
            _match(backend, network, 40 + seed, decay, f"reset={reset!r}, decay={decay}")
        rng = np.random.default_rng(50 + seed)
        n_in, hidden, n_out = dyadic.sizes(c)
        mixed = rng.choice([0.5, 0.75, 1.0], hidden)
        first = dyadic.layer(
            rng,
            c,
            dyadic.quarters(rng, hidden, n_in),
            reset=reset,
            decay=mixed,
            delay_steps=c.min_delay_steps,
        )
        last = dyadic.output(rng, c, dyadic.quarters(rng, n_out, hidden), True, reset=reset)
        network = SpikingNetwork((first, last))
        _match(backend, network, 60 + seed, 0.75, f"reset={reset!r}, a decay per neuron")


@check(lambda c: c.max_delay_steps is None or c.max_delay_steps > c.min_delay_steps)
def matches_reference_delayed(backend: Backend) -> None:
    """Networks whose layers have different delays do what the reference does."""
    c = backend.capabilities
    allowed = delays(c, 0, 1, 2, 3)
    for first, second in zip(allowed, reversed(allowed), strict=True):
        rng = np.random.default_rng(70 + first)
        network = dyadic.stack(rng, c, delays=(first, second), reset=reset_of(c))
        _match(backend, network, 80, where=f"delays {first} and {second}")


@check(lambda c: c.recurrent)
def matches_reference_recurrent(backend: Backend) -> None:
    """Recurrent networks do what the reference does, at every delay."""
    c = backend.capabilities
    for delay in delays(c, 0, 1, 2):
        rng = np.random.default_rng(90 + delay)
        network = dyadic.stack(rng, c, delays=(delay, delay), recurrent=True, reset=reset_of(c))
        _match(backend, network, 100, where=f"delay {delay}")


def _maps_fit(c: Capabilities) -> bool:
    return not capability_problems(c, _maps(c))


def _maps(c: Capabilities) -> SpikingNetwork:
    return dyadic.convolutional(np.random.default_rng(110), c, reset=reset_of(c))


@check(_maps_fit)
def matches_reference_convolutional(backend: Backend) -> None:
    """Convolutions with stride and padding, and pooling, do what the reference does."""
    _match(backend, _maps(backend.capabilities), 111)


@check(lambda c: c.refractory)
def matches_reference_refractory(backend: Backend) -> None:
    """Networks of refractory neurons do what the reference does."""
    c = backend.capabilities
    for refractory in (1, 2):
        rng = np.random.default_rng(120 + refractory)
        network = dyadic.stack(rng, c, refractory_steps=refractory, reset=reset_of(c))
        _match(backend, network, 130, where=f"refractory_steps={refractory}")


@check(lambda c: c.v_min)
def matches_reference_floored(backend: Backend) -> None:
    """Networks with a floor under the potential do what the reference does."""
    c = backend.capabilities
    network = dyadic.stack(np.random.default_rng(140), c, v_min=-0.5, reset=reset_of(c))
    _match(backend, network, 141)


@check(lambda c: c.current)
def matches_reference_with_currents(backend: Backend) -> None:
    """Networks with synaptic currents do what the reference does, read-outs included."""
    c = backend.capabilities
    network = dyadic.stack(np.random.default_rng(142), c, current_decay=0.5, reset=reset_of(c))
    _match(backend, network, 143, 0.5)


@check(lambda c: c.adaptation)
def matches_reference_adaptive(backend: Backend) -> None:
    """Networks whose thresholds adapt do what the reference does."""
    c = backend.capabilities
    for reset in sorted(c.resets):
        network = dyadic.stack(
            np.random.default_rng(144), c, adaptation=0.5, adaptation_decay=0.5, reset=reset
        )
        _match(backend, network, 145, 0.5, f"reset={reset!r}")


@check()
def matches_reference_combined(backend: Backend) -> None:
    """A network with everything declared at once does what the reference does."""
    c = backend.capabilities
    network = everything(c, seed=150)
    _match(backend, network, 151, 0.5 if c.decay else 1.0)


@check(exact)  # locked rhythms slip with the least noise
def constant_drive_is_a_drive(backend: Backend) -> None:
    """A drive broadcast along time gives the same as one written out."""
    c = backend.capabilities
    rng = np.random.default_rng(160)
    network = everything(c, seed=161)
    one = dyadic.drive(rng, c, network, 1)
    sim_steps = dyadic.steps(c, 0.5 if c.decay else 1.0)
    with opened(backend, network, 3) as session:
        matches(backend, session, np.broadcast_to(one, (sim_steps, *one.shape[1:])), "broadcast")
        session.reset()
        matches(backend, session, np.repeat(one, sim_steps, axis=0), "written out")


@check()
def rows_independent(backend: Backend) -> None:
    """A row of a batch does what it does alone, whatever its neighbours do."""
    c = backend.capabilities
    network = everything(c, seed=170)
    sim_steps = dyadic.steps(c, 0.5 if c.decay else 1.0)
    drive = dyadic.drive(np.random.default_rng(171), c, network, sim_steps, rows=4)
    with opened(backend, network, 4) as session:
        together = run(session, backend, drive)
        rows = np.flatnonzero(comparable(c, session.network, drive))
    with opened(backend, network, 1) as session:
        for row in map(int, rows):
            session.reset()
            alone = run(session, backend, drive[:, row : row + 1])
            compare(
                c, cut_rows(together, row, row + 1), alone, f"row {row} of 4 against alone", slack=2
            )


@check()
def effective_network_reproduces_device(backend: Backend) -> None:
    """session.network is what runs: the reference on it does what the device does, and it differs
    from the network asked for by no more than the declared number format."""
    c = backend.capabilities
    for network in _real_valued(c):
        rng = np.random.default_rng(180)
        shape = (24 if c.exactness in ("potentials", "spikes") else dyadic.LONG, 8, network.n_in)
        drive: FloatArray = rng.uniform(-0.5, 1.5, shape)
        if "constant" in c.drive:
            drive = np.broadcast_to(drive[:1], shape)
        elif "current" not in c.drive:
            drive = (drive > 0.5).astype(np.float64)
        with opened(backend, network, 8) as session:
            _differs_by_format(c, session.network, network)
            want = simulate(session.network, drive)
            rows = tie_free(session.network, drive)
            noisy = replace(c, tolerance=max(c.tolerance, FLOAT_NOISE))
            compare(
                noisy if c.exactness == "potentials" else c,
                run(session, backend, drive),
                want,
                "device against the reference on session.network",
                rows if rows.any() else None,
            )


def everything(c: Capabilities, seed: int) -> SpikingNetwork:
    """A network that has every kind of state the capabilities allow."""
    first, second = (delays(c, 1, 2) * 2)[:2]
    options: dict[str, Any] = {"reset": reset_of(c)}
    if c.decay:
        options["decay"] = 0.5
    if c.refractory:
        options["refractory_steps"] = 1
    if c.v_min:
        options["v_min"] = -1.0
    rng = np.random.default_rng(seed)
    # a recurrent network is chaotic: where only rates are promised, noise would change all of them
    loops = c.recurrent and c.exactness in ("potentials", "spikes")
    return dyadic.stack(rng, c, delays=(first, second), recurrent=loops, **options)


def reset_of(c: Capabilities) -> str:
    """The reset of networks that may have any."""
    return "subtract" if "subtract" in c.resets else "zero"


def _real_valued(c: Capabilities) -> list[SpikingNetwork]:
    """Networks of numbers that no short format holds: thirds, sevenths, Gaussian weights."""
    rng = np.random.default_rng(190)
    n_in, hidden, n_out = dyadic.sizes(c)
    shared: dict[str, Any] = {
        "reset": reset_of(c),
        "delay_steps": c.min_delay_steps,
        "refractory_steps": c.min_refractory_steps,
    }
    if c.decay:
        shared["decay"] = 0.9
    layers = [
        Dense(
            weight=rng.normal(0.1, 0.7, (after, before)),
            bias=rng.normal(0.1, 0.1, after) if c.bias else None,
            v_threshold=1.0,
            **shared,
        )
        for before, after in ((n_in, hidden), (hidden, hidden))
    ]
    weight = rng.normal(0.0, 0.5, (n_out, hidden))
    last = Dense(weight=weight, spiking=False) if c.can_read_out else Dense(weight=weight, **shared)
    made = [SpikingNetwork((*layers, last))]
    if "Conv2d" in c.layers:
        conv = Conv2d(weight=rng.normal(0.1, 0.5, (2, 2, 3, 3)), input_shape=(2, 4, 5), **shared)
        after = Dense(weight=rng.normal(0.0, 0.5, (n_out, conv.n_out)), **shared)
        made.append(SpikingNetwork((conv, after)))
    return [network for network in made if not capability_problems(c, network)]


def _differs_by_format(c: Capabilities, effective: SpikingNetwork, ideal: SpikingNetwork) -> None:
    kinds = [type(layer).__name__ for layer in effective.layers]
    wanted = [type(layer).__name__ for layer in ideal.layers]
    if kinds != wanted:
        fail(f"an effective network of {kinds}", wanted)
    for i, (here, there) in enumerate(zip(effective.layers, ideal.layers, strict=True)):
        if not isinstance(here, NeuronLayer) or not isinstance(there, NeuronLayer):
            continue
        # Weights may be held in other units as long as the threshold is: only ratios matter.
        mine, asked = (_arrays(layer, layer.v_threshold.max()) for layer in (here, there))
        largest = max(float(np.abs(value).max()) for value in asked.values())
        step = 2.0**-20 if c.weight_bits is None else 1 / max(1, 2 ** (c.weight_bits - 1) - 1)
        for name, value in asked.items():
            if mine[name].shape not in (value.shape, ()) and value.shape != ():
                fail(f"layer {i}: effective {name} of shape {mine[name].shape}", value.shape)
            gap = float(np.abs(mine[name] - value).max())
            if not gap <= step * largest:
                fail(
                    f"layer {i}: effective {name} off by {gap:g} of the threshold",
                    f"at most {step * largest:g}, a step of "
                    + ("float32" if c.weight_bits is None else f"{c.weight_bits} bits"),
                )
        for name in ("reset", "delay_steps", "refractory_steps", "spiking"):
            if getattr(here, name) != getattr(there, name):
                fail(f"layer {i}: effective {name}={getattr(here, name)!r}", getattr(there, name))


def _arrays(layer: NeuronLayer, unit: float) -> dict[str, FloatArray]:
    found = {
        field.name: getattr(layer, field.name)
        for field in fields(layer)
        if isinstance(getattr(layer, field.name), np.ndarray)
    }
    return {name: value if name == "decay" else value / unit for name, value in found.items()}
