"""Programs in processes of their own, without the seconds that importing torch and SB3 takes.

A server that has imported them is forked for every program. What is tested is imported anew;
arguments, directory, output and exit status are those of a new interpreter, and so is the
environment but for what Python reads as it starts (PYTHONWARNINGS and the like).
"""

from __future__ import annotations

import atexit
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(["stable_baselines3", "torch._dynamo"])


def run_python(
    *arguments: Any, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What `python SCRIPT ...` or `python -m MODULE ...` does; env is added to this one's."""
    words = [str(word) for word in arguments]
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        task = (words, cwd or Path.cwd(), {**os.environ, **(env or {})}, streams)
        process = SERVER.Process(target=_become, args=task)
        process.start()
        process.join(600)
        if process.exitcode is None:
            process.kill()
            process.join()
        return subprocess.CompletedProcess(
            words, process.exitcode, *(stream.read_text("utf-8") for stream in streams)
        )


def _become(words: list[str], cwd: Path, env: Mapping[str, str], streams: list[Path]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
    sys.path[:] = [path for path in sys.path if Path(path) != HERE]
    try:
        if words[0] == "-m":
            sys.path.insert(0, str(cwd))
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(words[0]).parent.absolute()))
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing ends without them
