"""NEST with the neuron models of the literature: what each does, and where it ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spikerl import backends
from spikerl.errors import BackendError, UnsupportedNetwork
from spikerl.network import Dense, SpikingNetwork
from spikerl.reference import simulate

pytest.importorskip("nest", reason="NEST is not installed")


def network(gain: float, seed: int = 0, **rules: Any) -> SpikingNetwork:
    rng = np.random.default_rng(seed)
    layers = [
        Dense(
            rng.normal(size=(16, n)) * gain,
            rng.normal(size=16) * gain / 5,
            v_init=0.5,
            v_threshold=rng.uniform(0.7, 1.5, 16),
            delay_steps=1,
            **rules,
        )
        for n in (4, 16)
    ]
    leak = {"decay": 0.9} if rules.get("decay") is not None else {}
    return SpikingNetwork((*layers, Dense(rng.normal(size=(2, 16)), spiking=False, **leak)))


def currents(steps: int = 50, rows: int = 3, seed: int = 0) -> np.ndarray:
    return np.broadcast_to(np.random.default_rng(seed).normal(size=(rows, 4)), (steps, rows, 4))


@pytest.mark.parametrize("calls", ["kernel", "public"])
@pytest.mark.parametrize("decay", [None, 0.5, np.linspace(0.6, 1.0, 16)], ids=str)
def test_iaf_psc_delta_leaks_and_resets_as_the_contract_says(calls: str, decay: Any) -> None:
    net = network(1.0, reset="zero", **({} if decay is None else {"decay": decay}))
    with backends.get("nest:iaf_psc_delta").compile(net, batch_size=3, calls=calls) as session:
        assert session.backend == "nest:iaf_psc_delta"
        changing = np.random.default_rng(1).normal(size=(50, 3, 4))
        for drive in (currents(), currents(seed=2), changing, currents()):
            ours, theirs = session.run(drive, record_spikes=True), simulate(net, drive)
            assert theirs.counts[1].sum() > 50
            for a, b in zip(ours.spikes, theirs.spikes, strict=True):
                np.testing.assert_array_equal(a, b)
            for a, b in zip(ours.potentials, theirs.potentials, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


def test_iaf_psc_delta_is_refused_for_reset_by_subtraction() -> None:
    with pytest.raises(UnsupportedNetwork, match="reset='subtract' is not supported, only zero"):
        backends.get("nest:iaf_psc_delta").compile(network(1.0))


def seldom(net: SpikingNetwork, drive: np.ndarray) -> bool:
    """Whether no neuron of the reference fires in two steps on end."""
    spikes = simulate(net, drive).spikes
    assert spikes is not None
    return not any((s[1:] & s[:-1]).any() for s in spikes)


def test_pp_psc_delta_is_the_reference_where_no_neuron_fires_twice_on_end() -> None:
    compared = 0
    for seed in range(12):
        net, drive = network(0.15, seed), currents(rows=1, seed=seed)
        if not seldom(net, drive):
            continue
        with backends.get("nest:pp_psc_delta").compile(net) as session:
            for _ in range(2):  # the second decision starts where the first did
                ours, theirs = session.run(drive, record_spikes=True), simulate(net, drive)
                for a, b in zip(ours.spikes, theirs.spikes, strict=True):
                    np.testing.assert_array_equal(a, b)
                for a, b in zip(ours.potentials, theirs.potentials, strict=True):
                    np.testing.assert_allclose(a, b, rtol=0, atol=1e-8)
        compared += int(theirs.counts[0].sum() > 20)
    assert compared >= 3


def test_pp_psc_delta_fires_in_every_second_step_at_most() -> None:
    net = SpikingNetwork((Dense([[1.0]], delay_steps=1), Dense([[1.0]], spiking=False)))
    drive = np.full((10, 1, 1), 2.0)
    assert simulate(net, drive).counts[0][0, 0] == 10
    with backends.get("nest:pp_psc_delta").compile(net) as session:
        found = session.run(drive, record_spikes=True)
    assert found.spikes[0][:, 0, 0].tolist() == [True, False] * 5
    assert found.potentials[0][0, 0] == pytest.approx(20.0 - 5.0)


def test_pp_psc_delta_promises_nothing_and_refuses_what_it_lacks() -> None:
    backend = backends.get("nest:pp_psc_delta")
    assert backend.capabilities.exactness == "unverified"
    with pytest.raises(UnsupportedNetwork, match="reset='zero' is not supported"):
        backend.compile(network(1.0, reset="zero"))
    with (
        backend.compile(network(0.15)) as session,
        pytest.raises(BackendError, match="stays the same throughout a decision"),
    ):
        session.run(np.random.default_rng(0).normal(size=(5, 1, 4)))
