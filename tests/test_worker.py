"""Back ends in a process of their own: the same sessions, and deaths that nobody notices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from small_agents import balancer, observations, pixels
from troubled import TROUBLES, Refusing, Troubled

from spikerl.backends.reference import ReferenceBackend
from spikerl.backends.worker import WorkerBackend, WorkerCost, WorkerSession, worker_cost
from spikerl.errors import (
    BackendError,
    ConversionWarning,
    SessionClosed,
    ShapeError,
    SpikerlError,
    UnsupportedNetwork,
    WorkerWarning,
)
from spikerl.hardware import HardwarePolicy
from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, Recording, SpikingNetwork
from spikerl.testing import parametrize_with_checks

NETWORK = SpikingNetwork(
    (
        Dense([[0.5, 0.25], [0.75, -0.5], [0.3, 0.1]], delay_steps=1, decay=0.9),
        Dense(np.ones((2, 3)) / 2, spiking=False),
    )
)


def drive(seed: int = 0, rows: int = 1, sim_steps: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(sim_steps, rows, 2)) + 0.5


def opened(backend: Any = "reference", network: Any = NETWORK, **options: Any) -> WorkerSession:
    session = WorkerBackend(backend).compile(network, **options)
    assert isinstance(session, WorkerSession)
    return session


def troubled(tmp_path: Path, trouble: str, **options: Any) -> WorkerSession:
    return opened("troubled:Troubled", trouble=trouble, count=tmp_path / "count", **options)


def same(got: Recording, want: Recording) -> bool:
    pairs = [*zip(got.counts, want.counts, strict=True)]
    pairs += [*zip(got.potentials, want.potentials, strict=True)]  # type: ignore[list-item]
    pairs += [*zip(got.spikes or (), want.spikes or (), strict=True)]  # type: ignore[list-item]
    return got.sim_steps == want.sim_steps and all(np.array_equal(a, b) for a, b in pairs)


def soon(condition: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Every test gives back its files and its processes."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before
    children = Path("/proc/self/task").glob("*/children")
    pids = [int(pid) for path in children for pid in path.read_text().split()]
    named = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
    assert not [name for name in named if b"worker_server" in name or not name]


# --- a session like any other ------------------------------------------------------------------


@parametrize_with_checks([WorkerBackend("reference")])
def test_a_worker_with_the_reference_keeps_the_contract(backend: Any, check: Any) -> None:
    check(backend)


@parametrize_with_checks([WorkerBackend("cpu")])
def test_a_worker_with_the_cpu_back_end_keeps_the_contract(backend: Any, check: Any) -> None:
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


# --- deaths ------------------------------------------------------------------------------------


def episode(policy: HardwarePolicy, at: Callable[[int], None] = lambda step: None) -> list[Any]:
    """Actions and return of an episode of CartPole in which a state is carried on."""
    env = gymnasium.make("CartPole-v1", max_episode_steps=60)
    observation, _ = env.reset(seed=5)
    taken: list[Any] = []
    state, over, total = None, False, 0.0
    while not over:
        at(len(taken))
        action, state = policy.predict(observation, state)
        taken.append((int(action), policy.recording.potential.tolist()))  # type: ignore[union-attr]
        observation, reward, terminated, truncated, _ = env.step(action)
        over, total = terminated or truncated, total + float(reward)
    env.close()
    return [*taken, total]


@pytest.mark.parametrize("stateful", [False, True])
def test_sigkill_in_mid_episode_changes_neither_actions_nor_return(stateful: bool) -> None:
    agent = balancer(stateful=stateful)
    with HardwarePolicy(agent, "cpu", seed=0) as policy:
        wanted = episode(policy)
    assert len(wanted) > 40
    with HardwarePolicy(agent, "cpu", seed=0, isolation="process") as policy:
        session: Any = policy._session

        def strike(step: int) -> None:
            if step in (17, 30):
                os.kill(session.worker_pid, signal.SIGKILL)

        with pytest.warns(WorkerWarning, match="SIGKILL.*") as caught:
            found = episode(policy, strike)
        assert session.restarts == 2
    assert found == wanted
    assert len(caught) == 2


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_worker_in_trouble_is_replaced_and_the_run_is_made_again(
    trouble: str, tmp_path: Path
) -> None:
    said = {
        "crash": "SIGSEGV",
        "hang": "did not answer within 2 s",
        "hang_with_the_interpreter": "did not answer within 2 s",
        "leave": "exit code 3.*\n.*no licence any more",
        "kill": "SIGKILL",
        "leave_a_child_that_holds_the_connection": "exit code 4",
    }
    here = ReferenceBackend().compile(NETWORK, batch_size=2)
    with here, troubled(tmp_path, trouble, when=3, batch_size=2, worker_timeout=2) as session:
        for seed in range(2):
            assert same(session.run(drive(seed, 2)), here.run(drive(seed, 2)))
        with pytest.warns(WorkerWarning, match=said[trouble]) as caught:
            got = session.run(drive(2, 2), record_spikes=True)
        assert len(caught) == 1
        assert same(got, here.run(drive(2, 2), record_spikes=True))
        assert same(session.run(drive(3, 2)), here.run(drive(3, 2)))
        assert session.restarts == 1


def test_a_worker_that_dies_while_building_is_replaced(tmp_path: Path) -> None:
    with (
        pytest.warns(WorkerWarning, match="SIGSEGV"),
        troubled(tmp_path, "crash", when="compile") as session,
    ):
        session.run(drive())


@pytest.mark.parametrize("when", ["compile", 1])
def test_three_deaths_in_one_call_are_an_error_that_says_how(when: Any, tmp_path: Path) -> None:
    said = r"failed 3 times in the same call:(\n  - the worker \(process \d+\) was ended by signal "
    said += r"11 \(SIGSEGV\)(.|\n)*Fatal Python error(.|\n)*){3}"
    if when == "compile":
        with pytest.raises(BackendError, match=said):
            troubled(tmp_path, "crash", when=when, times=3)
        return
    with troubled(tmp_path, "crash", when=when, times=3) as session:
        with pytest.raises(BackendError, match=said):
            session.run(drive())
        with ReferenceBackend().compile(NETWORK) as here:
            assert same(session.run(drive()), here.run(drive()))  # it may be tried again


def test_any_history_of_runs_resets_and_deaths_equals_that_of_this_process() -> None:
    rng = np.random.default_rng(0)
    rows = 4
    here = ReferenceBackend().compile(NETWORK, batch_size=rows)
    deaths = 0
    with here, opened(batch_size=rows) as there, warnings.catch_warnings():
        warnings.simplefilter("ignore", WorkerWarning)
        for i in range(120):
            what = rng.choice(["run", "run", "run", "rows", "nobody", "all", "kill"])
            if what == "run":
                given = drive(i, int(rng.integers(1, rows + 1)), int(rng.integers(1, 4)))
                assert same(there.run(given), here.run(given))
            elif what == "kill" and there.worker_pid is not None and deaths < 12:
                os.kill(there.worker_pid, signal.SIGKILL)
                deaths += 1
            elif what != "kill":
                chosen = {"rows": rng.random(rows) < 0.5, "nobody": [], "all": None}[what]
                there.reset(chosen)
                here.reset(chosen)
        assert 5 < there.restarts <= deaths


def test_randomness_starts_again_from_the_seed() -> None:
    with opened("troubled:Random", seed=7) as whole, opened("troubled:Random", seed=7) as broken:
        for i in range(6):
            if i == 3:
                assert broken.worker_pid is not None
                os.kill(broken.worker_pid, signal.SIGKILL)
                with pytest.warns(WorkerWarning):
                    got = broken.run(drive(i))
            else:
                got = broken.run(drive(i))
            assert same(got, whole.run(drive(i)))


def test_a_journal_that_is_full_makes_a_death_an_error_until_the_next_reset() -> None:
    with opened(worker_journal_bytes=1000) as session:
        for _ in range(8):
            session.run(drive())
        assert session.worker_pid is not None
        os.kill(session.worker_pid, signal.SIGKILL)
        with pytest.raises(BackendError, match=r"cannot be rebuilt: .* past 1000 bytes") as caught:
            session.run(drive())
        assert "SIGKILL" in caught.value.__notes__[0]
        session.reset()
        with ReferenceBackend().compile(NETWORK) as here:
            assert same(session.run(drive()), here.run(drive()))


# --- ends --------------------------------------------------------------------------------------


def test_close_ends_the_process_and_a_closed_session_says_so() -> None:
    session = opened()
    pid = session.worker_pid
    assert pid is not None
    session.close()
    session.close()
    assert session.worker_pid is None
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(SessionClosed, match="'reference' session is closed"):
        session.run(drive())


def test_a_worker_that_is_dead_already_is_closed_without_a_word() -> None:
    session = opened()
    assert session.worker_pid is not None
    os.kill(session.worker_pid, signal.SIGKILL)
    session.close()


def test_sessions_that_come_and_go_leave_neither_files_nor_processes(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for i in range(3):
        with opened() as session:
            session.run(drive())
            session.run(drive(1))  # writes the journal
            assert len(os.listdir("/proc/self/fd")) > before
        assert len(os.listdir("/proc/self/fd")) == before
        with pytest.raises(BackendError):
            opened("brain")
        with pytest.raises(BackendError):
            troubled(tmp_path, "leave", when="compile", times=3 * i + 3)
        assert len(os.listdir("/proc/self/fd")) == before


PARENT = """
import sys, time
sys.path.insert(0, {tests!r})
import numpy as np
from test_worker import drive, opened, troubled
from pathlib import Path
session = {session}
print(session.worker_pid, flush=True)
{then}
"""


def parent(session: str, then: str) -> subprocess.Popen[str]:
    code = PARENT.format(tests=str(Path(__file__).parent), session=session, then=then)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("busy", [None, "hang", "hang_with_the_interpreter"])
def test_a_worker_ends_when_its_parent_is_killed(busy: str | None, tmp_path: Path) -> None:
    count = tmp_path / "count"
    session = f"troubled(Path({str(tmp_path)!r}), {busy!r})" if busy else "opened()"
    with parent(session, f"session.run(drive()) if {busy!r} else time.sleep(600)") as there:
        assert there.stdout is not None
        pid = int(there.stdout.readline())
        assert soon(lambda: busy is None or count.exists())
        assert running(pid)
        there.kill()
    assert soon(lambda: not running(pid))


def test_a_program_that_forgets_its_session_ends_with_its_worker() -> None:
    with parent("opened()", "session.run(drive())") as there:
        assert there.stdout is not None
        pid = int(there.stdout.readline())
        assert there.wait(60) == 0
    assert soon(lambda: not running(pid))


def test_a_forked_copy_of_a_session_neither_ends_nor_uses_the_worker() -> None:
    then = (
        "import os\n"
        "if os.fork() == 0:\n"
        "    try:\n"
        "        session.run(drive())\n"
        "    except Exception as error:\n"
        "        print(error, flush=True)\n"
        "    session.close()\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "session.run(drive())\n"
        "print(session.restarts, flush=True)\n"
        "session.close()"
    )
    with parent("opened()", then) as there:
        assert there.stdout is not None
        lines = there.stdout.read().splitlines()
    assert lines[1:] == ["a session in a worker belongs to the process that opened it", "0"]


def test_the_cost_of_a_worker_is_measured() -> None:
    cost = worker_cost(NETWORK, "reference", sim_steps=4, decisions=5)
    assert isinstance(cost, WorkerCost)
    assert cost.start_s > 0
    assert cost.decision_s > 0
    assert cost.decision_here_s > 0
