"""What this process may use and does use: threads of the mathematics, and memory.

Imports errors; torch only while limiting it, and only where installed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import product
from typing import Any

from spikerl.errors import SpikerlError


@contextmanager
def one_thread() -> Iterator[bool]:
    """torch and OpenBLAS on one thread, and as they were afterwards; False if OpenBLAS is not.

    An idle OpenBLAS thread spins for a while, and its CPU time would be charged to whoever is next.
    """
    with ExitStack() as stack:
        if find_spec("torch") is not None:
            import torch

            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
        found = _openblas()
        for get_threads, set_threads in found:
            stack.callback(set_threads, get_threads())
            set_threads(1)
        yield bool(found)


def _openblas() -> list[tuple[Any, Any]]:
    """How to read and to set the number of threads of every OpenBLAS in this process."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as file:
            paths = {line.split(maxsplit=5)[5].strip() for line in file if "openblas" in line}
    except OSError:
        return []
    found = []
    for library in map(ctypes.CDLL, sorted(paths)):
        for prefix, suffix in product(("", "scipy_"), ("", "64_")):
            names = [f"{prefix}openblas_{verb}_num_threads{suffix}" for verb in ("get", "set")]
            if all(hasattr(library, name) for name in names):
                found.append((getattr(library, names[0]), getattr(library, names[1])))
                break
    return found


def resident_bytes() -> int:
    """Resident memory of this process; raises SpikerlError where it cannot be read."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except OSError as error:
        raise SpikerlError(f"resident memory cannot be read on this system: {error}") from None
    import resource

    return pages * resource.getpagesize()
