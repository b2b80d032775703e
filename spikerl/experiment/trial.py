"""A back end is tried as a file has it, before the first cell: its options and its interpreter.

Imports grid and the back ends' worker. Only a back end itself knows its options, so a network of
two neurons is built with them, in a process of its own: simulators are global to a process.
"""

from __future__ import annotations

import warnings

from spikerl.backends.base import Capabilities, under_rules
from spikerl.backends.worker import WorkerBackend
from spikerl.errors import SpikerlError, UnsupportedNetwork, one_line
from spikerl.experiment.grid import BackendEntry
from spikerl.network import Dense, SpikingNetwork

_TAKEN = ("network", "batch_size", "seed")  # arguments of compile(), which are no options
_OF_WORKERS = ("worker_timeout", "worker_journal_bytes")


def trial_problems(backend: BackendEntry) -> list[str]:
    """What goes wrong where an entry is used as it stands; nothing to try without such settings.

    A back end whose neurons are none of these two's is not judged.
    """
    if backend.python is None and not backend.options:
        return []
    where = f"back end {backend.label!r}"
    problems = [
        f"{where}: {name} is no option, a cell has its own"
        for name in _TAKEN
        if name in backend.options
    ]
    if backend.python is None and backend.isolation is None:
        problems += [
            f"{where}: {name} is of workers; give it `isolation: process`, or leave it out"
            for name in _OF_WORKERS
            if name in backend.options
        ]
    rest = {name: value for name, value in backend.options.items() if name not in _TAKEN}
    try:
        with warnings.catch_warnings(action="ignore"):  # the cells' rows have them
            worker = WorkerBackend(backend.name, backend.python)
            worker.compile(two_neurons(worker.capabilities), seed=0, **rest).close()
    except UnsupportedNetwork:
        pass
    except SpikerlError as error:
        problems.append(f"{where} cannot be used like this: {one_line(error)}")
    return problems


def two_neurons(capabilities: Capabilities) -> SpikingNetwork:
    """A network a back end can run: one neuron, and one that fires, or is read out, after it."""
    last = Dense([[1.0]], spiking=not capabilities.can_read_out)
    return under_rules(SpikingNetwork((Dense([[1.0]]), last)), capabilities)
