"""One cell: convert, or find the agent converted before, act on a back end, and say what came out.

Imports grid, columns, evaluation and hardware; SB3 and torch late. Runs in any process that has
spikerl and sees the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from spikerl import __version__, backends
from spikerl.agent import SpikingAgent
from spikerl.errors import FileFormatError, SpikerlError, one_line
from spikerl.evaluation import Evaluation, evaluate
from spikerl.experiment.columns import VERSION, Row, made_row
from spikerl.experiment.grid import AgentEntry, BackendEntry, ConversionEntry
from spikerl.experiment.locks import locked
from spikerl.hardware import HardwarePolicy
from spikerl.process import one_thread

_PACKAGES = {
    "numpy": "numpy",
    "gymnasium": "gymnasium",
    "torch": "torch",
    "stable_baselines3": "stable-baselines3",
}


@dataclass(frozen=True)
class Cell:
    """One combination of a grid.

    origin: what the agent's files say: algorithm, environment, SHA-256 sums; plain data.
    """

    agent: AgentEntry
    conversion: ConversionEntry
    backend: BackendEntry
    sim_steps: int
    seed: int
    episodes: int
    origin: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """Keywords of convert(); a target of "backend" is the cell's own."""
        found = dict(self.conversion.settings)
        if found.get("target") == "backend":
            found["target"] = self.backend.name
        return found

    @property
    def conversion_id(self) -> str:
        """SHA-256 of what decides on the converted agent, the versions of spikerl & co among it."""
        made = {**asdict(self.conversion), "settings": self.settings, "name": None}
        made |= {"sim_steps": self.sim_steps, "seed": self.seed, "origin": dict(self.origin)}
        return _digest({**made, "versions": versions()})

    @property
    def id(self) -> str:
        """SHA-256 of what the cell is; names given in the file do not matter, contents do."""
        made = {**asdict(self.conversion), "settings": self.settings, "name": None}
        made |= {"backend": {**asdict(self.backend), "label": None}, "origin": dict(self.origin)}
        return _digest(
            {**made, "sim_steps": self.sim_steps, "seed": self.seed, "episodes": self.episodes}
        )

    def __str__(self) -> str:
        return (
            f"{self.agent.name}, {self.conversion.name}, {self.backend.label}, "
            f"T={self.sim_steps}, seed {self.seed}"
        )


def run_cell(cell: Cell, folder: str, worker: str = "here") -> Row:
    """Convert and evaluate; folder: where converted agents are kept.

    Everything sums on one thread, so that every process has the same results. What goes wrong is a
    row with status "failed".
    """
    begin, started = time.perf_counter(), time.gmtime()
    row = described(cell)
    try:
        with warnings.catch_warnings(action="ignore"):  # the report has them
            row |= _measured(cell, Path(folder))
    except Exception as error:  # a simulator may raise anything; the other cells go on
        kind = "" if isinstance(error, SpikerlError) else f"{type(error).__name__}: "
        row |= {"status": "failed", "error": f"{kind}{one_line(error)}"}
    return made_row(
        {
            **row,
            "seconds": time.perf_counter() - begin,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", started),
            "host": socket.gethostname(),
            "worker": f"{worker}, pid {os.getpid()}",
        }
    )


def described(cell: Cell) -> Row:
    """What a row says of a cell before anything has run."""
    backend = cell.backend
    how = {key: value for key, value in asdict(backend).items() if key != "label" and value}
    settings: dict[str, Any] = cell.settings
    if cell.conversion.distill is not None:
        settings["distill"] = dict(cell.conversion.distill)
    return {
        "format": VERSION,
        "cell": cell.id,
        "status": "done",
        "agent": cell.agent.name,
        "algorithm": cell.origin["algorithm"],
        "environment": cell.origin["environment"],
        "conversion": cell.conversion.name,
        "settings": json.dumps(settings, sort_keys=True),
        "backend": backend.label,
        "backend_settings": json.dumps(how, sort_keys=True),
        "sim_steps": cell.sim_steps,
        "seed": cell.seed,
        "episodes": cell.episodes,
        "source_sha256": cell.origin["sha256"],
        "vecnormalize_sha256": cell.origin["vecnormalize"],
        **versions(),
        "simulator": None if backend.python else _simulator(backend.name) or None,
    }


def versions() -> dict[str, str | None]:
    """Versions of python, spikerl and what its results depend on."""
    found: dict[str, str | None] = {"spikerl": __version__, "python": platform.python_version()}
    for name, package in _PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = None
    return found


def _measured(cell: Cell, folder: Path) -> Row:
    from spikerl.conversion.checkpoints import load_checkpoint
    from spikerl.conversion.environments import maker, todays_id

    with one_thread():
        checkpoint = load_checkpoint(cell.agent.source)
        if checkpoint.details["sha256"] != cell.origin["sha256"]:
            raise SpikerlError(f"{cell.agent.source} is another file than when the run began")
        env_id = cell.agent.env or checkpoint.env_id
        plain = cell.agent.env is not None
        make_env = maker(
            todays_id(str(env_id)),
            {} if plain else checkpoint.env_kwargs,
            () if plain else checkpoint.wrappers,
        )
        begin = time.perf_counter()
        agent, digest = converted(cell, make_env, folder)
        seconds = time.perf_counter() - begin
        backend = cell.backend
        with HardwarePolicy(
            agent,
            backend.name,
            seed=cell.seed,
            isolation=backend.isolation,
            python=backend.python,
            **backend.options,
        ) as policy:
            result = evaluate(
                policy,
                make_env,
                original=checkpoint.model,
                episodes=cell.episodes,
                seed=cell.seed * cell.episodes,  # so that no two seeds share an episode
            )
    return {**_figures(agent, result), "agent_sha256": digest, "seconds_converting": seconds}


def converted(cell: Cell, make_env: Any, folder: Path) -> tuple[SpikingAgent, str]:
    """The cell's agent and the SHA-256 of its file, which is made once for all who share it.

    Raises SpikerlError where the folder cannot be written.
    """
    from spikerl.conversion import convert
    from spikerl.conversion.distillation import distill

    path = folder / f"{cell.conversion_id[:32]}.spk"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpikerlError(f"{folder} cannot be written: {error.strerror}") from None
    with locked(path.with_suffix(".lock")):  # of several processes one converts, the others wait
        if path.exists():
            with suppress(FileFormatError):  # a damaged one is made again
                return _loaded(path)
        origin = {"env": make_env, "vecnormalize": cell.agent.vecnormalize, "seed": cell.seed}
        source = cell.agent.source
        agent = convert(source, sim_steps=cell.sim_steps, **origin, **cell.settings)
        if cell.conversion.distill is not None:
            agent = distill(agent, source, **origin, **cell.conversion.distill)
        agent.save(path)
        return _loaded(path)


def _loaded(path: Path) -> tuple[SpikingAgent, str]:
    return SpikingAgent.load(path), hashlib.sha256(path.read_bytes()).hexdigest()


def _figures(agent: SpikingAgent, result: Evaluation) -> Row:
    ours, theirs, test = result.spiking, result.original, result.paired
    assert agent.report is not None  # of convert(), and evaluate() was given the original
    assert theirs is not None
    assert test is not None
    row = {
        "steps_used": result.sim_steps,
        "neurons": sum(layer.n_out for layer in agent.network.spiking_layers),
        "return": ours.mean_return.value,
        "return_low": ours.mean_return.low,
        "return_high": ours.mean_return.high,
        "returns": json.dumps(ours.returns),
        "original_return": theirs.mean_return.value,
        "original_returns": json.dumps(theirs.returns),
        "difference": test.difference.value,
        "p_value": test.p_value,
        "held_out": agent.report.faithfulness.value,
        "length": ours.mean_length,
        "rates": json.dumps(result.rates),
        "synaptic_operations": result.synaptic_operations,
        "warnings": json.dumps(agent.report.warnings),
        "network_sha256": agent.network.fingerprint(),
        "decisions_per_second": ours.decisions_per_second,
    }
    for name in ("agreement", "action_error"):
        estimate = getattr(result, name)
        if estimate is not None:
            row |= {name: estimate.value, f"{name}_low": estimate.low}
            row[f"{name}_high"] = estimate.high
    return row


@cache
def _simulator(name: str) -> str:
    """Versions of the packages a back end needs, where they are installed here."""
    known = backends.TABLE.get(name)
    if known is None:
        return ""
    homes = packages_distributions()
    packages = sorted({package for need in known.needs for package in homes.get(need, ())})
    return ", ".join(f"{package} {version(package)}" for package in packages)


def _digest(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
