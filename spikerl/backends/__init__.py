"""The registry: which back ends exist, which can run here, and what to install for the rest.

Two sources: the table below, and entry points of the group "spikerl.backends" from other packages.
Nothing is imported until a back end is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any

from spikerl.backends.base import Backend, Capabilities, rules_of
from spikerl.errors import BackendError


@dataclass(frozen=True)
class Known:
    """Where a back end lives, the modules it needs, and the extra that installs them.

    page:  in place of an extra, where to read how to install what no package index has.
    unmet: "module:function" that is asked once the modules are there, and returns None or what is
           still wrong and what to do, (reason, remedy).
    missing: "module:function" that says what a machine lacks besides, such as a board; "" if
             nothing. The back end can be had all the same, and its compile() says more.
    """

    target: str
    needs: tuple[str, ...] = ()
    extra: str | None = None
    unmet: str | None = None
    missing: str | None = None
    page: str | None = None


TABLE = {
    "cpu": Known("spikerl.backends.cpu:CpuBackend", ("numba",)),
    "genn": Known(
        "spikerl.backends.genn:GennBackend",
        ("pygenn",),
        unmet="spikerl.backends.genn_model:unmet",
        missing="spikerl.backends.genn_model:missing",
        page="https://github.com/genn-team/genn#readme",
    ),
    "loihi": Known(
        "spikerl.backends.loihi:BoardBackend",
        ("nengo", "nengo_loihi"),
        "loihi",
        missing="spikerl.backends.loihi_board:missing",
    ),
    "loihi:emulator": Known(
        "spikerl.backends.loihi:EmulatorBackend", ("nengo", "nengo_loihi"), "loihi"
    ),
    "loihi:float": Known("spikerl.backends.loihi:FloatBackend", ("nengo", "nengo_loihi"), "loihi"),
    "nengo": Known("spikerl.backends.nengo:NengoBackend", ("nengo", "scipy"), "nengo"),
    "nest": Known("spikerl.backends.nest:NestBackend", ("nest", "threadpoolctl"), "nest"),
    "nest:iaf_psc_delta": Known(
        "spikerl.backends.nest_models:DeltaBackend", ("nest", "threadpoolctl"), "nest"
    ),
    "nest:pp_psc_delta": Known(
        "spikerl.backends.nest_models:PointProcessBackend", ("nest", "threadpoolctl"), "nest"
    ),
    "pynn:brian2": Known(
        "spikerl.backends.pynn_brian2:PynnBrian2Backend",
        ("brian2", "pyNN"),
        "pynn-brian2",
        "spikerl.backends.pynn:brian2_unmet",
    ),
    "pynn:nest": Known(
        "spikerl.backends.pynn_nest:PynnNestBackend", ("nest", "pyNN", "threadpoolctl"), "pynn"
    ),
    "pynn:neuron": Known(
        "spikerl.backends.pynn_neuron:PynnNeuronBackend",
        ("neuron", "pyNN"),
        "pynn-neuron",
        "spikerl.backends.pynn:neuron_unmet",
    ),
    "reference": Known("spikerl.backends.reference:ReferenceBackend"),
    "rockpool": Known(
        "spikerl.backends.rockpool:RockpoolBackend",
        ("rockpool", "torch"),
        "rockpool",
        "spikerl.backends.rockpool_imports:unmet",
    ),
    "spikingjelly": Known(
        "spikerl.backends.spikingjelly:SpikingJellyBackend",
        ("loguru", "spikingjelly", "torch"),
        "spikingjelly",
        "spikerl.backends.spikingjelly:unmet",
    ),
    "spinnaker": Known(
        "spikerl.backends.spinnaker:SpinnakerBackend",
        ("spynnaker", "pyNN"),
        "spinnaker",
        missing="spikerl.backends.spinnaker_config:missing",
    ),
    "torch": Known("spikerl.backends.torch:TorchBackend", ("torch",), "torch"),
    "xylo": Known("spikerl.backends.xylo:XyloBackend", ("xylosim",), "xylo"),
    "xylo:audio3": Known("spikerl.backends.xylo:XyloAudio3Backend", ("xylosim",), "xylo"),
}

# what one may look for here and finds elsewhere
ELSEWHERE = {
    "dynapse": "Dynap-SE2's analogue neuron is no SpikingNetwork's, so it is no back end: train a "
    "net for it with spikerl.dynapse",
}


@dataclass(frozen=True)
class BackendState:
    """Whether a back end can be used here; prints as one line.

    install: the command that would make it usable, if one is known.
    """

    name: str
    usable: bool
    reason: str = ""
    install: str | None = None

    def __str__(self) -> str:
        if self.usable:
            return "ready"
        return self.reason + (f"; {self.install}" if self.install else "")


def available() -> dict[str, BackendState]:
    """Every known back end by name and whether it can be used on this machine."""
    states = {name: _state(name, known) for name, known in TABLE.items()}
    for name, point in _entry_points().items():
        states.setdefault(name, _plugin_state(name, point))
    return states


def get(name: str) -> Backend:
    """The back end of this name; raises BackendError that lists what exists and what to install."""
    target = _target(name)
    if name in TABLE and not (state := _installed(name, TABLE[name])).usable:
        raise BackendError(f"back end {name!r} cannot be used here: {state}")
    return load(name, target)


def ready(name: str) -> Backend:
    """The back end of this name, if a network can run on it here: a board it needs is there too.

    Raises BackendError as get() does, and for what the machine lacks besides. Whoever passes the
    back end options that may name a board calls get(), and compile() says what is wrong.
    """
    backend = get(name)
    if name in TABLE and not (state := _state(name, TABLE[name])).usable:
        raise BackendError(f"back end {name!r} cannot be used here: {state}")
    return backend


def capabilities(name: str) -> Capabilities | None:
    """What a back end declares; None where its code cannot even be loaded here."""
    target = _target(name)
    try:
        return load(name, target).capabilities
    except BackendError:
        return None


def rules(name: str) -> dict[str, Any]:
    """What a network must be like to run there: reset, delay_steps, weight_bits.

    Raises BackendError for a name nobody knows, or code that cannot be loaded here.
    """
    return rules_of(load(name, _target(name)).capabilities)


def _target(name: str) -> str:
    if name in TABLE:
        return TABLE[name].target
    points = _entry_points()
    if name in points:
        return points[name].value
    if name in ELSEWHERE:
        raise BackendError(ELSEWHERE[name])
    lines = "".join(f"\n  - {known}: {state}" for known, state in available().items())
    raise BackendError(f"there is no back end {name!r}; these are known:{lines}")


def _state(name: str, known: Known) -> BackendState:
    state = _installed(name, known)
    if not state.usable or known.missing is None:
        return state
    module, _, function = known.missing.partition(":")
    lacking = getattr(import_module(module), function)()
    return BackendState(name, not lacking, lacking)


def _installed(name: str, known: Known) -> BackendState:
    missing = [module for module in known.needs if find_spec(module) is None]
    if not missing:
        wrong = _unmet(known.unmet)
        return BackendState(name, True) if wrong is None else BackendState(name, False, *wrong)
    target = f"'spikerl[{known.extra}]'" if known.extra else "--force-reinstall spikerl"
    how = f"install it: pip install {target}"
    if known.page:
        how = f"no package index has it; how to install it: {known.page}"
    return BackendState(name, False, f"needs {', '.join(missing)}", how)


def _unmet(target: str | None) -> tuple[str, str] | None:
    if target is None:
        return None
    module, _, function = target.partition(":")
    found: tuple[str, str] | None = getattr(import_module(module), function)()
    return found


def _plugin_state(name: str, point: EntryPoint) -> BackendState:
    try:
        load(name, point.value)
    except BackendError as error:
        return BackendState(name, False, str(error))
    return BackendState(name, True)


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="spikerl.backends")}


def load(name: str, target: str) -> Backend:
    """The back end at "module:Class"; raises BackendError that names it and says what is wrong."""
    module, _, attribute = target.partition(":")
    try:
        backend = getattr(import_module(module), attribute)()
    except Exception as error:  # whatever a plug-in raises must not take the others with it
        raise BackendError(
            f"back end {name!r} ({target}) could not be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(backend, Backend):
        raise BackendError(
            f"{target} is no back end: it lacks name, capabilities, problems or compile"
        )
    return backend
