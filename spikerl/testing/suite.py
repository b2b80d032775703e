"""Running the checks: which apply to a back end, one report, one error, and the pytest adapter."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spikerl.backends import get
from spikerl.backends.base import Backend
from spikerl.errors import SpikerlError
from spikerl.testing import decisions, lifecycle, networks, neuron, state
from spikerl.testing.check import Check, ConformanceError, Failure

if TYPE_CHECKING:
    import pytest

__all__ = [
    "CHECKS",
    "Check",
    "ConformanceError",
    "Failure",
    "Report",
    "check_backend",
    "checks_for",
    "parametrize_with_checks",
]

CHECKS: tuple[Check, ...] = (
    *neuron.CHECKS,
    *networks.CHECKS,
    *state.CHECKS,
    *lifecycle.CHECKS,
    *decisions.CHECKS,
)


@dataclass(frozen=True)
class Report:
    """What check_backend found; prints as one line per check.

    passed: names of the checks that hold.
    known:  name and reason of every declared failure, each of which did fail.
    left_out: names of checks whose capability the back end does not declare.
    """

    backend: str
    passed: tuple[str, ...]
    known: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [
            f"back end {self.backend!r} keeps the neuron contract: {len(self.passed)} checks "
            f"in {self.seconds:.1f} s"
        ]
        lines += [f"  holds           {name}" for name in self.passed]
        lines += [f"  known failure   {name}: {reason}" for name, reason in self.known.items()]
        lines += [f"  not declared    {name}" for name in self.left_out]
        return "\n".join(lines)


def checks_for(backend: Backend | str) -> list[Check]:
    """The checks that follow from what a back end declares, in the order they should be read."""
    capabilities = _resolve(backend).capabilities
    return [check for check in CHECKS if check.applies(capabilities)]


def check_backend(backend: Backend | str, *, known_failures: Mapping[str, str] = {}) -> Report:
    """Run every check that applies and return what holds.

    backend:        a name, or a Backend.
    known_failures: {check name: reason}; strict: one that passes, or does not exist, is an error.
    Raises ConformanceError that lists every failed check with its sentence, found and wanted.
    """
    backend = _resolve(backend)
    started = time.perf_counter()
    applicable = checks_for(backend)
    passed: list[str] = []
    known: dict[str, str] = {}
    failures = [
        Failure(name, "known_failures names no check of this back end", reason)
        for name, reason in known_failures.items()
        if name not in {check.name for check in applicable}
    ]
    for check in applicable:
        try:
            check(backend)
        except ConformanceError as error:
            if check.name in known_failures:
                known[check.name] = known_failures[check.name]
            else:
                failures += error.failures
            continue
        passed.append(check.name)
        if check.name in known_failures:
            text = f"it holds, but is listed in known_failures: {known_failures[check.name]!r}"
            failures.append(Failure(check.name, check.sentence, text))
    if failures:
        raise ConformanceError(backend.name, failures)
    names = {check.name for check in applicable}
    left_out = tuple(check.name for check in CHECKS if check.name not in names)
    return Report(backend.name, tuple(passed), known, left_out, time.perf_counter() - started)


def parametrize_with_checks(
    backends: Iterable[Backend | str],
    known_failures: Mapping[tuple[str, str], str] | None = None,
) -> pytest.MarkDecorator:
    """A pytest decorator for a test(backend, check): one test per back end and check.

    known_failures: {(back end, check): reason}; these become strict xfails.
    Raises SpikerlError if no back end is given or a known failure names no test.
    """
    import pytest

    known = dict(known_failures or {})
    params = []
    for backend in map(_resolve, backends):
        for check in checks_for(backend):
            reason = known.pop((backend.name, check.name), None)
            marks = []
            if reason is not None:
                marks = [pytest.mark.xfail(strict=True, raises=ConformanceError, reason=reason)]
            name = f"{backend.name}-{check.name}"
            params.append(pytest.param(backend, check, id=name, marks=marks))
    if not params:
        raise SpikerlError("parametrize_with_checks was given no back end, so it would test none")
    if known:
        raise SpikerlError(f"known_failures names no test of this suite: {sorted(known)}")
    return pytest.mark.parametrize(("backend", "check"), params)


def _resolve(backend: Backend | str) -> Backend:
    return get(backend) if isinstance(backend, str) else backend
