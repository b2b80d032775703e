"""Checks of sessions as things: opening, refusing, closing, records and memory."""

from __future__ import annotations

import gc
import time
import tracemalloc
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spikerl.backends.base import Backend, Capabilities, Session, capability_problems
from spikerl.errors import BackendError, SessionClosed, ShapeError, SpikerlError, UnsupportedNetwork
from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, Layer, SpikingNetwork
from spikerl.testing import dyadic
from spikerl.testing.check import Catalogue, compare, exact, fail, matches, opened, readable, run
from spikerl.testing.networks import everything
from spikerl.testing.neuron import neurons

_catalogue = Catalogue()
check = _catalogue.add
CHECKS = _catalogue.checks

DECISIONS = 800  # per way of deciding; fewer where one takes longer than a millisecond
SECONDS = 1.0
TRACED = 400  # of them at most are traced: each takes several times as long then
WARM_UP = 40  # decisions after which caches are full and what was there before is replaced
PYTHON_BYTES = 16  # growth per decision that is still noise: a list of numbers grows by 32
ATTEMPTS = 4  # a leak grows every time, a cache of the interpreter fills once
PYTHON_NOISE = 4096  # growth that is still noise however few the decisions
PROCESS_BYTES = 6 << 20  # growth of the whole process that is still noise of the allocator
HUGE = 100_000  # declared limits above this are not tried: the network alone would fill the memory


def _tiny(c: Capabilities) -> SpikingNetwork:
    return SpikingNetwork((neurons(c, [[0.5], [0.75]]), neurons(c, [[1.0, 0.5]])))


@check()
def lifecycle(backend: Backend) -> None:
    """close() is final and may be repeated, 'with' closes, and a forgotten session warns."""
    network, drive = _tiny(backend.capabilities), np.ones((2, 1, 1))
    session = backend.compile(network, batch_size=1, seed=0)
    session.run(drive)
    session.close()
    session.close()
    uses: dict[str, Callable[[], Any]] = {
        "run": lambda: session.run(drive),
        "reset": session.reset,
        "with": session.__enter__,
    }
    for name, use in uses.items():
        _raises(SessionClosed, use, f"{name} after close")

    with backend.compile(network, batch_size=1, seed=0) as inner:
        inner.run(drive)
    _raises(SessionClosed, lambda: inner.run(drive), "run after 'with'")

    forgotten: Any = backend.compile(network, batch_size=1, seed=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del forgotten
        gc.collect()
    if not any(issubclass(warning.category, ResourceWarning) for warning in caught):
        fail("no warning when a session was forgotten", "a ResourceWarning")


@check()
def sessions_do_not_disturb_each_other(backend: Backend) -> None:
    """Two open sessions run side by side, or the second is refused and the first goes on."""
    c = backend.capabilities
    one, two = everything(c, seed=300), everything(c, seed=301)
    drive = dyadic.drive(np.random.default_rng(302), c, one, dyadic.steps(c, 0.5) // 2)
    with opened(backend, one, 3) as first:
        run(first, backend, drive)
        if c.max_sessions == 1:
            _raises(SpikerlError, lambda: backend.compile(two, seed=0), "a second session")
            first.reset()
        else:
            with opened(backend, two, 3) as second:
                run(second, backend, drive)
                first.reset()
                second.reset()
                matches(backend, second, drive, "the second session")
        matches(backend, first, drive, "the first session")
    with opened(backend, two, 3) as after:
        matches(backend, after, drive, "a session after the others were closed")


@check(lambda c: not c.hardware or exact(c))
def same_seed_same_result(backend: Backend) -> None:
    """Two sessions with the same seed give the same counts, potentials and spikes."""
    c = backend.capabilities
    network = everything(c, seed=310)
    drive = dyadic.drive(np.random.default_rng(311), c, network, dyadic.steps(c, 0.5))
    results = []
    for _ in range(2):
        with opened(backend, network, 3, seed=7) as session:
            results.append(run(session, backend, drive))
    compare(c, results[1], results[0], "second session against the first", slack=0)


@check()
def records(backend: Backend) -> None:
    """A Recording has what is declared: spikes only when asked for, whose sum is the counts."""
    c = backend.capabilities
    network = everything(c, seed=320)
    rows, sim_steps = 3, dyadic.steps(c, 0.5)
    drive = dyadic.drive(np.random.default_rng(321), c, network, sim_steps, rows)
    with opened(backend, network, rows) as session:
        silent = session.run(drive)
        if silent.spikes is not None:
            fail("spikes though they were not asked for", "None: they cost time and memory")
        session.reset()
        got = run(session, backend, drive)
    if got.sim_steps != sim_steps:
        fail(f"sim_steps {got.sim_steps}", sim_steps)
    if len(got.potentials) != len(network.neuron_layers):
        fail(f"{len(got.potentials)} potentials", f"{len(network.neuron_layers)}, or None for some")
    for k in readable(c, len(network.neuron_layers)):
        shape = (rows, network.neuron_layers[k].n_out)
        _is_array(got.potentials[k], shape, np.float64, f"potential of neuron layer {k}")
    for k, layer in enumerate(network.spiking_layers):
        if "counts" in c.records:
            _is_array(got.counts[k], (rows, layer.n_out), np.int64, f"counts of layer {k}")
        if "spikes" in c.records:
            shape3 = (sim_steps, rows, layer.n_out)
            spikes = None if got.spikes is None else got.spikes[k]
            _is_array(spikes, shape3, np.bool_, f"spikes of layer {k}")
        if {"counts", "spikes"} <= c.records and got.spikes is not None:
            summed = got.spikes[k].sum(axis=0)
            if not np.array_equal(got.counts[k], summed):
                fail(f"counts of layer {k} {got.counts[k].tolist()}", summed.tolist())
    if not np.array_equal(got.counts[0], silent.counts[0]) and exact(c):
        fail("other counts when spikes are recorded", "the same")


@check()
def wrong_drive_is_refused(backend: Backend) -> None:
    """A drive that does not fit raises ShapeError and leaves the session as it was."""
    c = backend.capabilities
    network = everything(c, seed=330)
    drive = dyadic.drive(np.random.default_rng(331), c, network, dyadic.steps(c, 0.5) // 2)
    n = network.n_in
    wrong = {
        "one input too many": np.zeros((2, 3, n + 1)),
        "one row too many": np.zeros((2, 4, n)),
        "no time axis": np.zeros((3, n)),
        "no steps": np.zeros((0, 3, n)),
        "NaN": np.full((2, 3, n), np.nan),
    }
    with opened(backend, network, 3) as session:
        for name, bad in wrong.items():
            _raises(ShapeError, partial(session.run, bad), f"a drive with {name}")
        _raises(ShapeError, lambda: session.reset([3]), "reset of a row that is not there")
        matches(backend, session, drive, "after the refusals")


@check()
def nonsense_is_refused(backend: Backend) -> None:
    """compile() refuses an impossible batch_size and an option it does not have."""
    network = _tiny(backend.capabilities)
    sizes: tuple[Any, ...] = (0, -1, 1.5, True)
    for size in sizes:
        _raises(
            SpikerlError,
            partial(backend.compile, network, batch_size=size),
            f"batch_size={size}",
        )
    _raises(
        BackendError, lambda: backend.compile(network, no_such_option=1), "option no_such_option"
    )


def _refusals(c: Capabilities) -> dict[str, SpikingNetwork]:
    """One network per capability that is left out, and one, "all", without any of them."""
    lacking: dict[str, dict[str, Any]] = {}
    for reset in {"subtract", "zero"} - c.resets:
        lacking[f"reset={reset!r}"] = {"reset": reset}
    if not c.decay:
        lacking["decay"] = {"decay": 0.5}
    if not c.current:
        lacking["current"] = {"current_decay": 0.5}
    if not c.adaptation:
        lacking["adaptation"] = {"adaptation": 0.5}
    if not c.recurrent:
        lacking["recurrent"] = {"recurrent": [[0.5, 0.0], [0.0, 0.5]]}
    if not c.bias:
        lacking["bias"] = {"bias": [0.5, 0.5]}
    if not c.refractory:
        lacking["refractory_steps"] = {"refractory_steps": 2}
    if not c.v_min:
        lacking["v_min"] = {"v_min": -1.0}
    if c.max_delay_steps is not None:
        lacking["max_delay_steps"] = {"delay_steps": c.max_delay_steps + 1}
    if c.min_delay_steps:
        lacking["min_delay_steps"] = {"delay_steps": c.min_delay_steps - 1}
    if c.min_refractory_steps:
        lacking["min_refractory_steps"] = {"refractory_steps": c.min_refractory_steps - 1}
    fronts: dict[str, Layer] = {
        "AvgPool2d": AvgPool2d((2, 1, 1), (1, 1)),
        "Conv2d": Conv2d(weight=np.ones((2, 2, 1, 1)), input_shape=(2, 1, 1), **_plain(c)),
        "Flatten": Flatten((2, 1, 1)),
    }

    def net(fields: dict[str, Any], front: list[Layer], width: int = 2) -> SpikingNetwork:
        # in two layers, so that a back end which stops at the first reason is caught
        hidden = [Dense(weight=np.ones((2, n)) / 2, **{**_plain(c), **fields}) for n in (width, 2)]
        return SpikingNetwork((*front, *hidden, neurons(c, np.ones((1, 2)))))

    made = {name: net(fields, []) for name, fields in lacking.items()}
    missing = [name for name in fronts if name not in c.layers]
    made |= {name: net({}, [fronts[name]]) for name in missing}
    for name in ("fan_in", "inputs"):
        if c.limits.get(name, HUGE) < HUGE:
            made[f"limit of {name}"] = net({}, [], c.limits[name] + 1)
    for name in ("neurons", "neurons_per_layer"):
        if c.limits.get(name, HUGE) < HUGE:
            wide = neurons(c, np.ones((c.limits[name] + 1, 1)))
            made[f"limit of {name}"] = SpikingNetwork((wide,))
    if len(lacking) + len(missing) > 1:
        joined = {key: value for fields in lacking.values() for key, value in fields.items()}
        made["all"] = net(joined, [fronts[name] for name in missing])
    return made


def _plain(c: Capabilities) -> dict[str, Any]:
    return {
        "reset": "subtract" if "subtract" in c.resets else "zero",
        "delay_steps": c.min_delay_steps,
        "refractory_steps": c.min_refractory_steps,
    }


@check(lambda c: bool(_refusals(c)))
def problems_is_complete(backend: Backend) -> None:
    """problems() names every undeclared thing at once and compile() refuses with all of them."""
    c = backend.capabilities
    for name, network in _refusals(c).items():
        found = list(backend.problems(network))
        wanted = capability_problems(c, network)
        if len(found) < len(wanted):
            fail(f"{name}: problems() = {found}", f"at least {len(wanted)} reasons: {wanted}")
        try:
            session = backend.compile(network, batch_size=1)
        except UnsupportedNetwork as error:
            if not set(found) <= set(error.problems):
                fail(f"{name}: compile() gave the reasons {error.problems}", found)
        else:
            session.close()
            fail(f"{name}: compile() went through", f"UnsupportedNetwork with {found}")


@check()
def memory_stays_flat(backend: Backend) -> None:
    """Thousands of decisions, with and without a reset between them, need no more memory."""
    c = backend.capabilities
    network = _tiny(c)
    drive = np.ones((2, 2, 1))
    with opened(backend, network, 2) as session:
        # the quickest: pauses of a busy machine would leave too few decisions to see a leak in
        pace = min(_seconds(session, drive) for _ in range(20))
        n = int(np.clip(SECONDS / (4 * max(pace, 1e-9)), 20, DECISIONS))
        for reset in (True, False):
            _decide(session, drive, n // 4, reset)
            before = _process_bytes()
            _decide(session, drive, n, reset)
            grown = _process_bytes() - before
            if grown > PROCESS_BYTES:
                fail(f"{grown >> 10} KiB more in the process after {n} decisions", "no growth")
        if not tracemalloc.is_tracing():  # else the caller measures, and may not want a stop
            n = min(n, TRACED)
            tracemalloc.start()
            try:
                for reset in (True, False):
                    _decide(session, drive, max(WARM_UP, n // 4), reset)
                    for _ in range(ATTEMPTS):
                        gc.collect()
                        held = tracemalloc.get_traced_memory()[0]
                        _decide(session, drive, n, reset)
                        gc.collect()
                        grown = tracemalloc.get_traced_memory()[0] - held
                        if grown <= PYTHON_NOISE + PYTHON_BYTES * n:
                            break
                    else:
                        fail(f"{grown} bytes more after {n} decisions", "no growth")
            finally:
                tracemalloc.stop()


def _decide(session: Session, drive: Any, times: int, reset: bool) -> None:
    for _ in range(times):
        if reset:
            session.reset()
        session.run(drive)


def _seconds(session: Session, drive: Any) -> float:
    started = time.perf_counter()
    session.run(drive)
    return time.perf_counter() - started


def _process_bytes() -> int:
    """Memory the process holds now, where the system tells it; 0 elsewhere."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


def _is_array(value: Any, shape: tuple[int, ...], dtype: Any, what: str) -> None:
    if not isinstance(value, np.ndarray):
        fail(f"{what}: {value!r}", f"an array of shape {shape}")
    if value.shape != shape or value.dtype != dtype:
        fail(f"{what}: {value.dtype} {value.shape}", f"{np.dtype(dtype)} {shape}")


def _raises(kind: type[Exception], use: Callable[[], Any], what: str) -> None:
    try:
        result = use()
    except kind:
        return
    except Exception as error:
        fail(f"{what} raised {type(error).__name__}: {error}", kind.__name__)
    if isinstance(result, Session):
        result.close()
    fail(f"{what} went through", kind.__name__)
