"""A back end in a process of its own is a session like any other."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_agents import balancer, observations, pixels
from troubled import Refusing, Troubled
from workers import (  # noqa: F401 (a fixture)
    NETWORK,
    drive,
    nothing_is_left_behind,
    opened,
    same,
)

from spikerl.backends.reference import ReferenceBackend
from spikerl.backends.worker import WorkerBackend
from spikerl.errors import (
    BackendError,
    ConversionWarning,
    ShapeError,
    SpikerlError,
    UnsupportedNetwork,
    WorkerWarning,
)
from spikerl.hardware import HardwarePolicy
from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, SpikingNetwork
from spikerl.testing import parametrize_with_checks

NEST = ["nest"] if find_spec("nest") else []

# --- a session like any other ------------------------------------------------------------------


@parametrize_with_checks([WorkerBackend(name) for name in ("reference", "cpu", *NEST)])
def test_a_back_end_in_a_worker_keeps_the_contract(backend: Any, check: Any) -> None:
    check(backend)


def test_networks_of_every_layer_arrive_unchanged() -> None:
    network = SpikingNetwork(
        (
            Conv2d(np.ones((2, 1, 2, 2)) / 3, (1, 5, 4), [0.1, 0.2], stride=(2, 1), padding=(1, 0)),
            AvgPool2d((2, 3, 3), (2, 2), (1, 1)),
            Flatten((2, 2, 2)),
            Dense(
                np.ones((3, 8)) / 7,
                recurrent=np.eye(3) / 5,
                decay=[0.5, 0.25, 0.1],
                v_threshold=0.7,
                reset="zero",
                v_init=-0.1,
                delay_steps=2,
                refractory_steps=1,
                v_min=-2,
            ),
            Dense(np.ones((2, 3)), spiking=False),
        ),
        dt_ms=0.1,
    )
    with opened(network=network) as session:
        assert session.network.fingerprint() == network.fingerprint()
        assert session.backend == "reference"
        assert session.versions["numpy"] == np.__version__


def test_recordings_are_equal_to_those_of_this_process() -> None:
    here = ReferenceBackend().compile(NETWORK, batch_size=3)
    with here, opened(batch_size=3) as there:
        for seed in range(4):
            given = drive(seed, rows=1 + seed % 3)
            assert same(there.run(given, record_spikes=True), here.run(given, record_spikes=True))
        constant = np.broadcast_to(drive(9, 3)[:1], (5, 3, 2))
        got = there.run(constant)
        assert got.spikes is None
        assert same(got, here.run(constant))
        assert got.counts[0].flags.writeable


def test_a_policy_in_a_worker_takes_the_same_actions() -> None:
    agent = pixels()  # Poisson spikes: the random numbers are drawn here
    with (
        HardwarePolicy(agent, "cpu", seed=3) as here,
        HardwarePolicy(agent, "cpu", seed=3, isolation="process") as there,
    ):
        assert there.backend.name == "cpu"
        for observation in observations(agent, 20):
            assert np.array_equal(there.values(observation), here.values(observation))


def test_two_policies_in_one_program_have_a_process_each() -> None:
    options: dict[str, Any] = {"isolation": "process"}
    backend = "troubled:Refusing"  # it allows one session at a time
    agent = replace(balancer(), network=SpikingNetwork((Dense(np.ones((2, 4)), spiking=False),)))
    with HardwarePolicy(agent, backend, **options) as one:
        with HardwarePolicy(agent, backend, **options) as two:
            assert one.backend.capabilities.max_sessions is None
            assert one._session.worker_pid != two._session.worker_pid  # type: ignore[attr-defined]
            assert np.array_equal(one.values(np.ones(4)), two.values(np.ones(4)))
        one.predict(np.ones(4))


@pytest.mark.skipif(not NEST, reason="needs NEST: pip install 'spikerl[nest]'")
def test_two_policies_on_nest_run_side_by_side_and_survive_a_death() -> None:
    """NEST's kernel is one per process."""
    agents = [
        balancer(network=SpikingNetwork((Dense(weight), Dense(second, spiking=False))))
        for weight, second in (
            (np.eye(4) / 4, [[-1, -2, -4, -3], [1, 2, 4, 3]]),
            (np.eye(4) / 2, [[1, 0, 1, 0], [0, 1, 0, 1]]),
        )
    ]
    for agent in agents:
        hidden, last = agent.network.layers
        network = SpikingNetwork((replace(hidden, delay_steps=1), last))  # type: ignore[type-var]
        object.__setattr__(agent, "network", network)
    seen = np.round(np.random.default_rng(0).normal(size=(10, 4)) * 64) / 64
    there = [HardwarePolicy(agent, "nest", isolation="process") for agent in agents]
    here = [HardwarePolicy(agent, "reference") for agent in agents]
    for i, observation in enumerate(seen):
        for a, b in zip(there, here, strict=True):
            if i == 5:
                os.kill(a._session.worker_pid, signal.SIGKILL)  # type: ignore[attr-defined]
                with pytest.warns(WorkerWarning, match="SIGKILL"):
                    values = a.values(observation)
            else:
                values = a.values(observation)
            assert np.allclose(values, b.values(observation), rtol=0, atol=1e-8)
    for policy in (*there, *here):
        policy.close()


# --- errors ------------------------------------------------------------------------------------


def test_a_refused_network_is_refused_with_every_problem() -> None:
    layer = Dense([[1.0]], delay_steps=2)
    network = SpikingNetwork((layer, Dense([[1.0]])), dt_ms=13.0)
    want = Refusing().problems(network)
    assert len(want) == 4
    assert WorkerBackend(Refusing()).problems(network) == want
    with pytest.raises(UnsupportedNetwork) as caught:
        opened(Refusing(), network)
    assert caught.value.problems == tuple(want)
    assert caught.value.backend == "refusing"
    assert "the moon is full" in str(caught.value)


def test_errors_of_the_back_end_arrive_as_they_are_and_the_worker_stays() -> None:
    network = SpikingNetwork((Dense([[1.0, 1.0]], spiking=False),))
    with opened("troubled:Refusing", network, raised="spikerl") as session:
        pid = session.worker_pid
        with pytest.raises(BackendError, match=r"^the board does not answer; switch it on$"):
            session.run(drive())
        with pytest.raises(BackendError, match="rows cannot be reset alone"):
            session.reset([0])
        with pytest.raises(ShapeError, match="wanted"):
            session.run(np.ones((2, 1, 3)))
        assert session.worker_pid == pid


def test_other_exceptions_arrive_as_backend_errors_with_their_traceback() -> None:
    network = SpikingNetwork((Dense([[1.0, 1.0]], spiking=False),))
    said = "ZeroDivisionError: a simulator divided by zero"
    with (
        opened("troubled:Refusing", network, raised="other") as session,
        pytest.raises(BackendError, match=said) as caught,
    ):
        session.run(drive())
    assert "troubled.py" in caught.value.__notes__[0]


def test_unknown_back_ends_and_options_are_refused_as_ever() -> None:
    with pytest.raises(BackendError, match="there is no back end 'brain'; these are known"):
        opened("brain")
    with pytest.raises(BackendError, match="has no option volts"):
        opened(volts=3)
    with pytest.raises(BackendError, match=r"no_such:Thing.*could not be loaded"):
        opened("no_such:Thing")


def test_options_travel_as_plain_data_and_nothing_else() -> None:
    with pytest.raises(BackendError) as caught:
        opened("troubled:Options", a=np.int64(3), b=Path("x"), c=[1.5, None], seed=np.int64(4))
    assert str(caught.value) == "{'a': 3, 'b': 'x', 'batch_size': 1, 'c': [1.5, None], 'seed': 4}"
    with pytest.raises(BackendError, match="cannot be sent to another process"):
        opened("troubled:Options", a=object())


def test_objects_that_another_process_cannot_make_are_refused() -> None:
    class Local(ReferenceBackend):
        name = "local"

    argued = Troubled()
    argued.argument = 1  # type: ignore[attr-defined]
    for backend in (Local(), argued):
        with pytest.raises(BackendError, match="cannot make again"):
            WorkerBackend(backend)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "1", True])
def test_a_timeout_must_be_seconds(timeout: Any) -> None:
    with pytest.raises(BackendError, match="worker_timeout must be seconds"):
        opened(worker_timeout=timeout)
    with pytest.raises(BackendError, match="worker_journal_bytes must be"):
        opened(worker_journal_bytes=timeout)


def test_isolation_is_process_or_nothing() -> None:
    with pytest.raises(SpikerlError, match="isolation is 'thread'"):
        HardwarePolicy(balancer(), isolation="thread")


def test_what_the_back_end_prints_does_not_disturb_and_its_warnings_arrive() -> None:
    with opened("troubled:Talking") as session:
        assert "from a child" in session.output
        with pytest.warns(ConversionWarning, match="close to the limit"):
            session.run(drive())
        for _ in range(300):
            session.run(drive())  # warnings are told once, as in any program
        assert session._worker is not None
        log = os.fstat(session._worker._log.fileno())
        assert log.st_size < 2**20 + 10_000  # 300 runs print 1.5 MB
