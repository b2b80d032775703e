"""What a check is, how it fails, and the two comparisons all of them are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spikerl.backends.base import Backend, Capabilities, Session, tie_free
from spikerl.errors import SpikerlError, listed
from spikerl.network import FloatArray, Recording, SpikingNetwork
from spikerl.reference import simulate

Body = Callable[[Backend], None]
Applies = Callable[[Capabilities], bool]
FLOAT_NOISE = 2.0**-14  # largest error of potentials near 1 that float32 can account for


@dataclass(frozen=True)
class Failure:
    """One failed check: its name, its sentence, and what was found and wanted."""

    check: str
    sentence: str
    text: str

    def __str__(self) -> str:
        return f"{self.check}: {self.sentence}\n    {self.text}"


class ConformanceError(SpikerlError, AssertionError):
    """A back end breaks its promises; `failures` holds every one that was found."""

    def __init__(self, backend: str, failures: Sequence[Failure]) -> None:
        self.backend = backend
        self.failures = tuple(failures)
        headline = f"back end {backend!r} breaks the neuron contract in {len(failures)} checks"
        super().__init__(listed(headline, [str(failure) for failure in failures]))


@dataclass(frozen=True)
class Check:
    """One named statement about a back end; calling it with one raises ConformanceError."""

    name: str
    sentence: str
    body: Body
    applies: Applies

    def __call__(self, backend: Backend) -> None:
        try:
            self.body(backend)
        except Deviation as error:
            failure = Failure(self.name, self.sentence, str(error))
            raise ConformanceError(backend.name, [failure]) from None
        except Exception as error:
            failure = Failure(self.name, self.sentence, f"{type(error).__name__}: {error}")
            raise ConformanceError(backend.name, [failure]) from error

    def __repr__(self) -> str:
        return f"<check {self.name}>"


class Deviation(Exception):
    """Raised inside a check: what was found and what was wanted."""


class Catalogue:
    """Collects the checks of one module in the order they are written."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def add(self, applies: Applies = lambda c: True) -> Callable[[Body], Body]:
        """Make a check of a function: its name, and the first line of its docstring."""

        def register(body: Body) -> Body:
            sentence = (body.__doc__ or "").strip().split("\n\n")[0]
            sentence = " ".join(sentence.split())
            self.checks.append(Check(body.__name__, sentence, body, applies))
            return body

        return register


def exact(c: Capabilities) -> bool:
    """Whether single spikes can be told apart, so that rules can be tested one by one."""
    if c.exactness == "unverified":
        return False
    return c.exactness in ("potentials", "spikes") or c.tolerance == 0


def fail(found: object, wanted: object) -> NoReturn:
    """Fail the check."""
    raise Deviation(f"found {found}, wanted {wanted}")


@contextmanager
def opened(
    backend: Backend, network: SpikingNetwork, batch_size: int = 1, **options: Any
) -> Iterator[Session]:
    """A session on a network the capabilities allow; problems() must agree with them."""
    problems = list(backend.problems(network))
    if problems:
        fail(f"problems() = {problems}", "none: the declared capabilities allow this network")
    options.setdefault("seed", 0)
    with backend.compile(network, batch_size=batch_size, **options) as session:
        yield session


def run(session: Session, backend: Backend, drive: ArrayLike) -> Recording:
    """Run with the spikes recorded where the back end has them."""
    return session.run(drive, record_spikes="spikes" in backend.capabilities.records)


def compare(
    c: Capabilities,
    got: Recording,
    want: Recording,
    where: str = "",
    rows: NDArray[np.bool_] | None = None,
    slack: float = 1.0,
) -> None:
    """Fail unless two recordings agree as far as the declared exactness and records say.

    rows:  bool [B], the rows to compare; None: all.
    slack: tolerances are multiplied by it; 2 where both sides come from the device.
    """
    chosen: Any = slice(None) if rows is None else rows
    prefix = f"{where}: " if where else ""
    if got.sim_steps != want.sim_steps:
        fail(f"{prefix}sim_steps {got.sim_steps}", want.sim_steps)
    strict = c.exactness in ("potentials", "spikes")
    noise = 0.0 if c.weight_bits is None else FLOAT_NOISE  # effective weights need not be dyadic
    if "spikes" in c.records and strict and want.spikes is not None:
        if got.spikes is None:
            fail(f"{prefix}no spikes though they were asked for", "spikes")
        for k, (a, b) in enumerate(zip(got.spikes, want.spikes, strict=True)):
            _same_trains(a[:, chosen], b[:, chosen], f"{prefix}spiking layer {k}")
    if "counts" in c.records and c.exactness != "unverified":
        allowed = 0.0 if strict else c.tolerance * slack
        if c.exactness == "rates":
            allowed *= want.sim_steps
        for k, (n, m) in enumerate(zip(got.counts, want.counts, strict=True)):
            _close(n[chosen], m[chosen], allowed, f"{prefix}spike counts of spiking layer {k}")
    if c.exactness == "potentials":
        for k in readable(c, len(want.potentials)):
            v, w = got.potentials[k], want.potentials[k]
            if v is None or w is None:
                fail(f"{prefix}no potential of neuron layer {k}", "one: it is among the records")
            allowed = max(c.tolerance * slack, noise)
            _close(v[chosen], w[chosen], allowed, f"{prefix}potential of neuron layer {k}")


def readable(c: Capabilities, layers: int) -> list[int]:
    """The neuron layers whose final potential the back end gives back."""
    if "potentials" in c.records:
        return list(range(layers))
    return [layers - 1] if "potential" in c.records else []


def matches(
    backend: Backend, session: Session, drive: FloatArray, where: str = "", rows: int | None = None
) -> None:
    """Fail unless a session in its start state does to a drive what the reference does.

    rows: only the first rows are run.
    """
    c, drive = backend.capabilities, drive[:, :rows]
    want = simulate(session.network, drive)
    got = run(session, backend, drive)
    compare(c, got, want, where, comparable(c, session.network, drive))


def comparable(c: Capabilities, network: SpikingNetwork, *drives: FloatArray) -> NDArray[np.bool_]:
    """Bool [B]: rows that must agree in every spike when these drives follow each other.

    All rows of a dyadic network. Effective weights of few bits need not be dyadic: a sum that meets
    a threshold may fall on either side of it, and rows with such a tie are left out if others stay.
    """
    drive = np.concatenate(drives)
    every = np.ones(drive.shape[1], dtype=np.bool_)
    if c.weight_bits is None:
        return every
    free = tie_free(network, drive)
    return free if free.any() else every


def cut_rows(recording: Recording, start: int, stop: int) -> Recording:
    """The recording of rows start to stop alone."""
    rows = slice(start, stop)
    return Recording(
        counts=tuple(n[rows] for n in recording.counts),
        potentials=tuple(None if v is None else v[rows] for v in recording.potentials),
        sim_steps=recording.sim_steps,
        spikes=None if recording.spikes is None else tuple(s[:, rows] for s in recording.spikes),
    )


def _same_trains(got: NDArray[np.bool_], want: NDArray[np.bool_], what: str) -> None:
    if got.shape != want.shape:
        fail(f"{what}: spikes of shape {got.shape}", want.shape)
    wrong = np.argwhere(got != want)
    if len(wrong):
        t, row, n = (int(i) for i in wrong[0])
        fail(
            f"{what}: {len(wrong)} of {want.size} entries differ, first at step {t}, row {row}, "
            f"neuron {n}, whose train is {train(got[:, row, n])}",
            train(want[:, row, n]),
        )


def _close(got: NDArray[Any], want: NDArray[Any], allowed: float, what: str) -> None:
    if got.shape != want.shape:
        fail(f"{what}: shape {got.shape}", want.shape)
    gap = np.abs(got - want)
    if not (gap <= allowed).all():  # a NaN is not close
        i = np.unravel_index(int(np.argmax(np.nan_to_num(gap, nan=np.inf))), gap.shape)
        bound = f" within {allowed:g}" if allowed else ""
        fail(f"{what}: {got[i]!s} at {tuple(map(int, i))}", f"{want[i]!s}{bound}")


def train(spikes: NDArray[Any]) -> str:
    """One neuron's spikes as text: 0010, the last 40 steps at most."""
    text = "".join("1" if s else "0" for s in spikes[-40:])
    return text if len(spikes) <= 40 else "..." + text
