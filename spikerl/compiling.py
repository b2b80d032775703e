"""compiling(): numba's compiler with what every compiled loop here wants. Imports numba."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba

Function = Callable[..., Any]


def compiling(*sources: str, **options: Any) -> Callable[[Function], Function]:
    """A decorator that compiles lazily, cached on disk where there is a place for it.

    No operations are fused or reordered unless the options say so (fastmath).

    sources: files, besides its own, that a function takes compiled code from. numba's cache looks
             at its own file only; here it is kept by the contents of these as well.
    """
    options = {"nogil": True, "error_model": "numpy", **options}
    digest = sha256(b"".join(map(_content, (__file__, *sources)))).hexdigest()[:16]

    def decorate(function: Function) -> Function:
        function.__qualname__ += f"-{digest}"  # which names its file in the cache
        found: Function
        try:
            found = numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no writable directory for the cache: compile in each process
            found = numba.njit(**options)(function)
        return found

    return decorate


def _content(source: str) -> bytes:
    try:
        return Path(source).read_bytes()
    except OSError:  # within an archive, beside which numba keeps nothing
        return b""
