"""The errors spikerl raises on purpose; every one is a SpikerlError and says what to do next."""

from collections.abc import Callable
from numbers import Integral
from typing import Any


class SpikerlError(Exception):
    """Anything spikerl refuses to do, with the reason."""


class NetworkError(SpikerlError, ValueError):
    """A network breaks the neuron contract; `problems` holds every reason found."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(listed("this is not a valid spiking network", problems))


class ShapeError(SpikerlError, ValueError):
    """An array has another shape, dtype or range than the receiver can take."""


class BackendError(SpikerlError):
    """A back end is unknown, not installed or gave a wrong result in its self-test."""


class UnsupportedNetwork(BackendError):
    """A back end cannot run this network; `problems` holds every reason at once."""

    def __init__(self, backend: str, problems: list[str]) -> None:
        self.backend = backend
        self.problems = tuple(problems)
        super().__init__(listed(f"back end {backend!r} cannot run this network", problems))


class SessionClosed(SpikerlError, RuntimeError):
    """A session or policy was used after close()."""


class ConversionError(SpikerlError, ValueError):
    """A policy cannot be converted; `problems` holds every reason at once."""

    def __init__(self, message: str, problems: list[str] | None = None) -> None:
        self.problems = tuple(problems or [message])
        super().__init__(listed(message, problems) if problems else message)


class FileFormatError(SpikerlError, ValueError):
    """A saved agent is damaged, forged, or of a version this spikerl does not know."""


class WorkerWarning(RuntimeWarning):
    """A worker process died or hung and was replaced; nothing was lost."""


class ConversionWarning(UserWarning):
    """A conversion went through, but the user should know something about it."""


def listed(headline: str, problems: list[str]) -> str:
    """One headline and one line per problem."""
    return headline + ":" + "".join(f"\n  - {problem}" for problem in problems)


def reasons(error: SpikerlError) -> list[str]:
    """The problems of an error whose message is listed(); else the message."""
    headline, *problems = str(error).split("\n  - ")
    return problems or [headline]


def one_line(error: object) -> str:
    """The message of an error with its list of problems in a row."""
    return str(error).replace(":\n  - ", ": ").replace("\n  - ", "; ")


def problems_of(*checks: Callable[[], Any]) -> list[str]:
    """What the checks that raise a SpikerlError say, a line each: so that all is said at once."""
    problems = []
    for check in checks:
        try:
            check()
        except SpikerlError as error:
            problems.append(one_line(error))
    return problems


def refuse(headline: str, problems: list[str]) -> None:
    """Raise SpikerlError if there are problems; the headline is said where there are several."""
    if problems:
        raise SpikerlError(problems[0] if len(problems) == 1 else listed(headline, problems))


def checked_whole(name: str, value: Any, least: int = 1) -> list[str]:
    """The problem with a whole number such as sim_steps, if there is one."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if whole and value >= least:
        return []
    return [f"{name} must be a whole number >= {least}, found {value!r}"]


def checked_seed(seed: Any) -> list[str]:
    """The problem with a seed, if there is one; None lets chance decide."""
    if seed is None or not checked_whole("seed", seed, least=0):
        return []
    return [f"seed must be None or a whole number >= 0, found {seed!r}"]
