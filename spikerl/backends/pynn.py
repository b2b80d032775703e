"""What the PyNN back ends share: their import, and layers as lists of PyNN connections.

Imports numpy, connections, the table of units and errors; PyNN only in functions.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from spikerl.backends.pynn_units import Units
from spikerl.connections import IntArray, synapses
from spikerl.errors import BackendError
from spikerl.network import FloatArray, Layer, NeuronLayer, SpikingNetwork

# What PyNN says on purpose and nobody here can change: extensions of NEST are not needed, and its
# own calls of NEST are of the old kind. NEST says the latter once per process.
NUMPY_OF_BRIAN2 = "2.4"  # the first that Brian2 2.9 cannot be imported with
_EXPECTED = (
    r"Cannot find nest-config",
    r"\s*(Set|Get)Status\(\) is deprecated",
    r"\s*Provided for backward compatibility only",
    r"Ignoring default NEST parameter",
    r"mpi4py not available",
)


def simulator(name: str) -> Any:
    """The module pyNN.<name>, ready for setup(); raises BackendError saying what it lacks.

    Where nest-config or nrnivmodl are on the PATH, PyNN would compile extensions in its own folder
    among the installed packages while it is imported: those of NEST at every import, without
    success, though nobody needs them. So it does not find the programs.
    """
    path = os.environ.get("PATH", "")
    folders = [
        folder
        for folder in path.split(os.pathsep)
        if not any(os.path.exists(os.path.join(folder, p)) for p in ("nest-config", "nrnivmodl"))
    ]
    options = os.environ.get("NEURON_MODULE_OPTIONS")
    if options is None:
        os.environ["NEURON_MODULE_OPTIONS"] = "-nogui"  # else it complains of a missing display
    os.environ["PATH"] = os.pathsep.join(folders) or os.devnull  # nothing would mean this folder
    try:
        with expected_warnings():
            return import_module(f"pyNN.{name}")
    except Exception as error:  # a simulator may raise anything while it is loaded
        raise BackendError(
            f"pyNN.{name} cannot be imported here: {type(error).__name__}: {error}"
        ) from error
    finally:
        os.environ["PATH"] = path
        if options is None:
            del os.environ["NEURON_MODULE_OPTIONS"]


def brian2_unmet() -> tuple[str, str] | None:
    """What is wrong with numpy for Brian2 and what to do, if anything is."""
    first = tuple(map(int, NUMPY_OF_BRIAN2.split(".")))
    if tuple(int(part) for part in np.__version__.split(".")[:2]) < first:
        return None
    return (
        f"needs numpy < {NUMPY_OF_BRIAN2}, found {np.__version__}",
        "give it an interpreter of its own: HardwarePolicy(..., python='venv/bin/python')",
    )


def neuron_unmet() -> tuple[str, str] | None:
    """What PyNN's part for NEURON lacks and what to do, if anything."""
    package = find_spec("pyNN")
    if package is None or package.submodule_search_locations is None:
        return None
    folder = Path(package.submodule_search_locations[0]) / "neuron" / "nmodl"
    if any(folder.glob("*/libnrnmech*")):
        return None
    return "PyNN's mechanisms for NEURON are not compiled", f"run nrnivmodl in {folder}"


@contextmanager
def expected_warnings() -> Iterator[None]:
    """Within it, what PyNN and the packages below it say to each other is not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for message in _EXPECTED:
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        yield


def release(population: Any) -> None:
    """Let a PyNN population go: it and its cells form circles in arrays, where Python sees none."""
    for cell in population.all_cells:
        vars(cell).clear()


def stacks(network: SpikingNetwork) -> list[tuple[NeuronLayer, list[Layer]]]:
    """Every layer of neurons with the linear maps that lead to it, itself the last of them."""
    found: list[tuple[NeuronLayer, list[Layer]]] = []
    pending: list[Layer] = []
    for layer in network.layers:
        pending.append(layer)
        if isinstance(layer, NeuronLayer):
            found.append((layer, pending))
            pending = []
    return found


def drive_currents(stack: Sequence[Layer], x: FloatArray, batch_size: int) -> FloatArray:
    """W x + b of the first layer for one step of the drive, zero for copies without a row.

    x: [B, n_in]. Returns [batch_size, n].
    """
    for layer in stack:
        x = layer.apply(x)
    if len(x) == batch_size:
        return x
    copies = np.zeros((batch_size, x.shape[1]))
    copies[: len(x)] = x
    return copies


def connection_lists(
    stack: Sequence[Layer], n_in: int, n_out: int, batch_size: int, delay_steps: int, units: Units
) -> Iterator[tuple[str, FloatArray]]:
    """(receptor type, rows [sender, target, weight, delay]) of a stack of linear maps.

    All copies of a batch are in one list, the copies of a neuron n_in or n_out apart. PyNN wants
    weights of one sign per projection; it takes negative ones as they are.
    """
    found = synapses(stack)
    senders = np.repeat(np.arange(len(found.starts) - 1), np.diff(found.starts))
    return _lists(
        (senders, found.targets, found.weights), n_in, n_out, batch_size, delay_steps, units
    )


def recurrent_lists(
    weight: FloatArray, batch_size: int, delay_steps: int, units: Units
) -> Iterator[tuple[str, FloatArray]]:
    """The same of recurrent weights [n, n]."""
    targets, senders = np.nonzero(weight)
    found = (senders, targets, weight[targets, senders])
    return _lists(found, len(weight), len(weight), batch_size, delay_steps, units)


def _lists(
    found: tuple[IntArray, IntArray, FloatArray],
    n_in: int,
    n_out: int,
    batch_size: int,
    delay_steps: int,
    units: Units,
) -> Iterator[tuple[str, FloatArray]]:
    senders, targets, weights = _merged(*found, n_out)
    copies = np.repeat(np.arange(batch_size), len(weights))
    rows = np.column_stack(
        [
            np.tile(senders, batch_size) + copies * n_in,
            np.tile(targets, batch_size) + copies * n_out,
            units.weight.to_pynn(np.tile(weights, batch_size)),
            np.full(len(copies), units.delay.to_pynn(float(delay_steps))),
        ]
    )
    for receptor, chosen in (("excitatory", rows[:, 2] > 0), ("inhibitory", rows[:, 2] < 0)):
        if chosen.any():
            yield receptor, rows[chosen]


def _merged(
    senders: IntArray, targets: IntArray, weights: FloatArray, n_out: int
) -> tuple[IntArray, IntArray, FloatArray]:
    """One synapse per pair of neurons, with the sum of the weights: PyNN's lists need it."""
    pairs, which = np.unique(senders * n_out + targets, return_inverse=True)
    summed: FloatArray = np.zeros(len(pairs))
    np.add.at(summed, which, weights)
    return pairs // n_out, pairs % n_out, summed
