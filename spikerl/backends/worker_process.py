"""One worker process as its caller sees it: started, spoken to, and cleared away in every case.

Imports the standard library, wire, channel and errors.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from spikerl import errors
from spikerl.backends import wire
from spikerl.backends.channel import Channel, ChannelClosed, Door
from spikerl.errors import BackendError, SpikerlError

CLOSE_S = 10.0  # for an orderly end; then the worker is killed
_TAIL_LINES = 15
_TAIL_BYTES = 8192
_LOG_BYTES = 2**20  # of what the worker prints; older lines are dropped
# What stands in the current directory must not shadow a package of the other interpreter.
_BOOT = """
import json, sys
boot = json.loads(sys.stdin.buffer.readline())
sys.path[:] = boot.pop("path") or [entry for entry in sys.path if entry]
from spikerl.backends.worker_server import main
main(**boot)
"""

Told = list[tuple[str, type[Warning]]]


class WorkerDied(Exception):
    """A worker is gone or does not answer; the text says how, with the last lines it printed."""


class Worker:
    """A process that runs spikerl.backends.worker_server under this or another interpreter.

    versions: what the worker said about itself: "spikerl", "python", "numpy".
    pid:      its process id.
    dead:     whether it can no longer be spoken to.
    Raises BackendError if the interpreter cannot run a worker, WorkerDied if it dies at the start.
    """

    def __init__(self, python: str | None, timeout: float) -> None:
        self._python = python or sys.executable
        if not self._python:
            raise BackendError("this program does not know its interpreter; give python=")
        self._timeout = timeout
        self._owner = os.getpid()
        self._channel: Channel | None = None
        self.dead = False
        with contextlib.ExitStack() as undo:
            self._log = undo.enter_context(tempfile.TemporaryFile("a+b", buffering=0))
            door = Door()
            with contextlib.closing(door):
                self._process = self._started()
                undo.callback(self.kill)
                self._admit(door)
            undo.pop_all()

    def _started(self) -> subprocess.Popen[bytes]:
        same = os.path.abspath(self._python) == os.path.abspath(sys.executable or "")
        self._same = same
        drop = () if same else ("PYTHONHOME", "__PYVENV_LAUNCHER__")
        try:
            return subprocess.Popen(
                [self._python, "-u", "-c", _BOOT],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                env={key: value for key, value in os.environ.items() if key not in drop},
                start_new_session=True,  # so that what it starts can be ended with it
            )
        except OSError as error:
            raise BackendError(
                f"python={self._python!r} cannot be started ({error.strerror}); wanted the path of "
                "a Python interpreter such as venv/bin/python"
            ) from None

    def _admit(self, door: Door) -> None:
        key = secrets.token_bytes(32)
        path = [entry for entry in sys.path if isinstance(entry, str)] if self._same else None
        boot = {"address": door.address, "key": key.hex(), "path": path}
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # what died is noticed at the door
                self._process.stdin.write(json.dumps(boot).encode() + b"\n")
                self._process.stdin.flush()
            self._channel = door.admit(key, self._timeout, self._alive)
            hello = wire.decode(self._channel.receive(self._timeout, alive=self._alive))
        except (ChannelClosed, TimeoutError) as error:
            death = self._died(error)
            if self._process.returncode >= 0:  # it ended by itself: another try will not help
                raise BackendError(self._no_worker(f"; it {death}")) from None
            raise WorkerDied(death) from None
        if hello.get("protocol") != wire.PROTOCOL:
            raise BackendError(
                self._no_worker(
                    f": its spikerl {hello.get('spikerl')} speaks version {hello.get('protocol')} "
                    f"of the protocol, this one {wire.PROTOCOL}"
                )
            )
        self.versions = {key: str(hello[key]) for key in ("spikerl", "python", "numpy")}

    def _no_worker(self, why: str) -> str:
        return (
            f"{self._python} cannot run a worker{why}\nIt needs numpy and the spikerl that runs "
            f"here: {self._python} -m pip install --no-deps spikerl"
        )

    @property
    def pid(self) -> int:
        """The process id of the worker."""
        return self._process.pid

    def call(self, message: bytes, told: Told) -> Any:
        """What the worker answers; its warnings are added to `told`.

        Raises the spikerl error the worker raised, or WorkerDied. A call that is interrupted, as by
        Ctrl-C, kills the worker: its answer would be taken for that of the next call.
        """
        if self._owner != os.getpid():
            raise BackendError("a session in a worker belongs to the process that opened it")
        if self._channel is None:
            raise WorkerDied("is closed")
        try:
            self._channel.send(message, self._timeout)
            reply = wire.decode(self._channel.receive(self._timeout, alive=self._alive))
        except (ChannelClosed, TimeoutError) as error:
            raise WorkerDied(self._died(error)) from None
        except BaseException:
            self.kill()
            raise
        told += [(text, _category(names)) for text, *names in reply["warnings"]]
        if os.fstat(self._log.fileno()).st_size > _LOG_BYTES:
            self._log.truncate(0)
        if "error" in reply:
            raise wire.error_from(reply["error"])
        return reply["value"]

    def output(self) -> str:
        """The last lines the worker printed, to standard output or standard error."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _TAIL_BYTES))
        lines = self._log.read().decode("utf-8", "replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    def close(self) -> None:
        """End the worker in good order, or kill it; raises what the back end raised in closing."""
        if self.dead:
            return
        if self._owner != os.getpid():  # a fork's copy: the worker is not its to end
            self._release()
            return
        self._timeout = min(self._timeout, CLOSE_S)
        raised: SpikerlError | None = None
        try:
            self.call(wire.encode({"op": "close"}), [])
            self._process.wait(self._timeout)
        except SpikerlError as error:
            raised = error
        except (WorkerDied, subprocess.TimeoutExpired):
            pass
        finally:
            self.kill()
        if raised is not None:
            raise raised

    def kill(self) -> None:
        """End the worker and all it started, at once; leaves neither zombie nor open file."""
        if self.dead:
            return
        if self._owner == os.getpid():
            self._end()
        self._release()

    def _end(self) -> None:
        if self._process.returncode is None:
            if hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
        self._process.wait()

    def _release(self) -> None:
        self.dead = True
        if self._channel is not None:
            self._channel.close()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._log.close()
        if self._process.returncode is None:
            self._process.returncode = 0  # a fork's copy: not its child, nothing to wait for

    def _died(self, error: Exception) -> str:
        """Clear away the dead and say what happened."""
        if isinstance(error, TimeoutError):
            text = f"did not answer within {self._timeout:g} s and was killed"
            self._end()
        else:
            deadline = time.monotonic() + CLOSE_S  # the connection ends before the process does
            while self._alive() and time.monotonic() < deadline:
                time.sleep(0.002)
            gone = not self._alive()
            self._end()
            code = self._process.returncode
            if not gone:
                text = "closed its connection and was killed"
            elif code < 0:
                text = f"was ended by signal {-code} ({_signal_name(-code)})"
            else:
                text = f"ended with exit code {code}"
        if printed := self.output():
            text += "; it printed last:\n" + "".join(f"    {x}\n" for x in printed.splitlines())
        self._release()
        return f"(process {self._process.pid}) {text.rstrip()}"

    def _alive(self) -> bool:
        """Whether the process runs; not yet waited for, so that its group keeps its number."""
        if self._process.returncode is not None:
            return False
        if not hasattr(os, "waitid"):
            return self._process.poll() is None
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _category(names: list[str]) -> type[Warning]:
    """The nearest class of a warning that is known here: spikerl's or Python's own."""
    import builtins

    for name in names:
        for home in (errors, builtins):
            found = getattr(home, name, None)
            if isinstance(found, type) and issubclass(found, Warning):
                return found
    return UserWarning
