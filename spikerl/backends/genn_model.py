"""A plan in GeNN: compiled once per shape, filled with a network's numbers, and stepped.

PyGeNN is imported when a model is made. What the compiler makes is kept in the user's cache
directory under a hash of everything it was made from, so that other weights of the same shape need
neither compiler nor make; the directory may be emptied at any time.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from itertools import repeat, starmap
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from spikerl.backends.genn_plan import Code, Plan
from spikerl.errors import BackendError

INSTALL_PAGE = "https://github.com/genn-team/genn#readme"
DEVICES = {"cpu": "single_threaded_cpu", "cuda": "cuda"}
NAME = "spikerl"
LIBRARY = "librunner.so"
FLAGS = "-O2"  # GeNN's own choices are no optimisation at all, or -ffast-math, which rounds anew


class Model:
    """A plan in GeNN's memory, for `block` rows at once.

    view: per population, what its neurons keep, by name: arrays [block, n] of this process.
    """

    def __init__(self, plan: Plan, device: str, block: int) -> None:
        pygenn = imported()
        if DEVICES[device] not in pygenn.genn_model.backend_modules:
            found = ", ".join(d for d, b in DEVICES.items() if b in _backends(pygenn))
            raise BackendError(
                f"device is {device!r}, but this PyGeNN was built for {found or 'no known device'} "
                "only; use that, or build PyGeNN where CUDA is installed and CUDA_PATH is set: "
                + INSTALL_PAGE
            )
        model = pygenn.GeNNModel("double", NAME, backend=DEVICES[device])
        model.dt = 1.0
        model.batch_size = block
        self._model = model
        self._groups = _filled(pygenn, model, plan)
        _build(model, _key(pygenn, plan.code, device, block))
        self._steps = 0
        self._on_device = device != "cpu"
        # the same step without the wrapper around it, which takes half as long again
        self._step = getattr(getattr(model, "_runtime", None), "step_time", model.step_time)
        self.view: list[dict[str, NDArray[Any]]] = [
            {name: group.vars[name].view.reshape(block, -1) for name, _ in population.states}
            for group, population in zip(self._groups, plan.code.populations, strict=True)
        ]

    def begin(self, steps: int) -> None:
        """Let the layers take this many of their steps from here on."""
        if steps != self._steps:
            for group in self._groups:
                group.set_dynamic_param_value("steps", float(steps))
            self._steps = steps
        self._model.timestep = 0

    def take(self, steps: int) -> None:
        """Let GeNN take this many steps."""
        deque(starmap(self._step, repeat((), steps)), maxlen=0)  # a loop without byte code

    def stand_still(self) -> None:
        """One step of GeNN in which no layer moves: what is on the synapses arrives unheard."""
        self.begin(0)
        self.take(1)

    def push(self, k: int, name: str) -> None:
        """Copy a view to the device, where that has memory of its own."""
        if self._on_device:
            self._groups[k].vars[name].push_to_device()

    def pull(self, k: int, name: str) -> None:
        """Copy a view from the device, where that has memory of its own."""
        if self._on_device:
            self._groups[k].vars[name].pull_from_device()

    def close(self) -> None:
        """Free GeNN's memory; the views must not be used any more."""
        self.view = []
        self._groups = []
        del self._step
        self._model.unload()


def imported() -> Any:
    """The pygenn module; raises BackendError that says where to get it."""
    try:
        import pygenn
    except ImportError as error:
        raise BackendError(f"PyGeNN cannot be imported ({error}); see {INSTALL_PAGE}") from error
    return pygenn


def unmet() -> tuple[str, str] | None:
    """What is wrong with the PyGeNN that is installed, and what to do; None if nothing."""
    try:
        found = version("pygenn")
    except PackageNotFoundError:
        return "needs PyGeNN 5, found one that was not installed", f"see {INSTALL_PAGE}"
    if int(found.split(".")[0]) == 5:
        return None
    return f"needs PyGeNN 5, found {found}", f"how to install it: {INSTALL_PAGE}"


def missing() -> str:
    """What this machine lacks to compile a network; "" if nothing."""
    tools = ("make", _compiler().split()[0])
    lacking = [tool for tool in tools if shutil.which(tool) is None]
    if not lacking:
        return ""
    return f"{' and '.join(lacking)} not found: PyGeNN compiles each new shape of a network"


def cache_directory() -> Path:
    """Where compiled code is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "spikerl" / "genn"


def _backends(pygenn: Any) -> Any:
    return pygenn.genn_model.backend_modules


def _filled(pygenn: Any, model: Any, plan: Plan) -> list[Any]:
    """The populations and synapses of a plan in a model; returns the populations."""
    groups = []
    for k, (population, values) in enumerate(zip(plan.code.populations, plan.values, strict=True)):
        constants = [(name, "scalar", pygenn.VarAccess.READ_ONLY) for name in population.constants]
        neurons = pygenn.create_neuron_model(
            f"Neurons{k}",
            params=["steps"],
            vars=[*constants, *population.states],
            additional_input_vars=[("Loop", "scalar", 0.0)] if population.hears_itself else None,
            sim_code=population.sim_code,
            threshold_condition_code="fired != 0" if population.spiking else None,
        )
        group = model.add_neuron_population(
            f"layer{k}", population.size, neurons, {"steps": 0.0}, values
        )
        group.set_param_dynamic("steps")
        groups.append(group)
    for i, projection in enumerate(plan.code.projections):
        source, target = groups[projection.source], groups[projection.target]
        event = projection.event
        pulse = _pulse(pygenn, event) if event else "StaticPulse"  # held until it is added, by us
        sender = {event: pygenn.create_var_ref(source, event)} if event else {}
        group = model.add_synapse_population(
            f"projection{i}",
            "DENSE" if projection.longest_row is None else "SPARSE",
            source,
            target,
            pygenn.init_weight_update(pulse, {}, {"g": plan.weights[i]}, pre_var_refs=sender),
            pygenn.init_postsynaptic("DeltaCurr"),
        )
        indices = plan.indices[i]
        if indices is not None:
            group.set_sparse_connections(*indices)
        if source is target:
            group.post_target_var = "Loop"
    return groups


def _pulse(pygenn: Any, event: str) -> Any:
    """Synapses that add their weight when the sender's state `event` is set, not when it fires."""
    return pygenn.create_weight_update_model(
        f"Pulse_{event}",
        vars=[("g", "scalar", pygenn.VarAccess.READ_ONLY)],
        pre_neuron_var_refs=[(event, "uint8_t", pygenn.VarAccessMode.READ_ONLY)],
        pre_event_threshold_condition_code=f"{event} != 0",
        pre_event_syn_code="addToPost(g);",
    )


def _key(pygenn: Any, code: Code, device: str, block: int) -> str:
    """A name for all that the compiled code depends on, this file and the machine included."""
    made_of = (
        *(pygenn.__version__, platform.node(), platform.machine(), _compiler()),
        *(Path(__file__).read_bytes(), code, device, block),
    )
    return hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]


def _compiler() -> str:
    return f"{os.environ.get('CXX', 'g++')} {FLAGS}"


def _build(model: Any, key: str) -> None:
    """Compile the model, unless that was done before, and load it.

    Every model is loaded from a file of its own: two from one file would share their memory.
    """
    kept = cache_directory() / f"{key}.so"
    with tempfile.TemporaryDirectory(prefix="spikerl-genn-") as place:
        library = Path(place) / f"{NAME}_CODE" / LIBRARY
        if kept.exists():
            library.parent.mkdir()
            shutil.copyfile(kept, library)
            model.build(place, never_rebuild=True)
        else:
            with _compiling():
                model.build(place)
            _keep(library, kept)
        try:
            model.load()
        except RuntimeError as error:
            raise BackendError(
                f"GeNN cannot load what was compiled before: {error}; delete {kept}"
            ) from error


@contextmanager
def _compiling() -> Iterator[None]:
    """make with our compiler flags and without a word; raises BackendError where it fails."""
    before = {name: os.environ.get(name) for name in ("CXX", "GNUMAKEFLAGS")}
    os.environ["CXX"] = _compiler()
    os.environ["GNUMAKEFLAGS"] = f"{before['GNUMAKEFLAGS'] or ''} -s"
    try:
        yield
    except (OSError, subprocess.CalledProcessError) as error:
        raise BackendError(
            f"the code that GeNN made could not be compiled: {missing() or error}; install make "
            "and a C++ compiler, and name the compiler in CXX if it is not g++"
        ) from error
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _keep(library: Path, kept: Path) -> None:
    """Put a compiled library into the cache, where that can be written; whole or not at all."""
    try:
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as file:
            file.write(library.read_bytes())
        os.replace(file.name, kept)
    except OSError:
        return  # the next session compiles again
