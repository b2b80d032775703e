"""compiling(): numba's compiler with what every compiled loop here wants. Imports numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

Function = Callable[..., Any]


def compiling(**options: Any) -> Callable[[Function], Function]:
    """A decorator that compiles lazily, cached on disk where there is a place for it.

    No operations are fused or reordered unless the options say so (fastmath).
    """
    options = {"nogil": True, "error_model": "numpy", **options}

    def decorate(function: Function) -> Function:
        found: Function
        try:
            found = numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no writable directory for the cache: compile in each process
            found = numba.njit(**options)(function)
        return found

    return decorate
