"""Workers that die are replaced unnoticed, and end with their session or its program."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from small_agents import balancer
from troubled import TROUBLES
from workers import (  # noqa: F401 (a fixture)
    NETWORK,
    drive,
    nothing_is_left_behind,
    opened,
    running,
    same,
    soon,
    troubled,
)

from spikerl.backends.reference import ReferenceBackend
from spikerl.backends.worker import WorkerCost, worker_cost
from spikerl.errors import (
    BackendError,
    SessionClosed,
    WorkerWarning,
)
from spikerl.hardware import HardwarePolicy

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
    if child := re.search(r"child (\d+)", str(caught[0].message)):
        assert soon(lambda: not running(int(child[1])))
    assert bool(child) == (trouble == "leave_a_child_that_holds_the_connection")


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
from workers import drive, opened, troubled
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
