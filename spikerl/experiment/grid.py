"""The file of an experiment: agents x conversions x back ends x steps x seeds.

Imports errors and agent; PyYAML late. Here the form of the file is checked; what it names is
checked in `checks`, also before the first cell runs.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from spikerl.errors import SpikerlError, checked_seed, checked_whole, listed

_TOP = ("agents", "conversions", "backends", "sim_steps", "seeds", "episodes")
_AGENT = ("source", "name", "env", "vecnormalize")
_BACKEND = ("name", "label", "isolation", "python", "options")
# what convert() takes, but the grid says elsewhere
_ELSEWHERE = (
    *("sim_steps", "max_sim_steps", "seed", "vecnormalize", "algo"),
    *("observation_space", "action_space"),
)
Entry = TypeVar("Entry")
_DISTILL = ("n_observations", "rounds", "updates", "learning_rate", "batch_size")


@dataclass(frozen=True)
class AgentEntry:
    """A trained agent: its checkpoint, and where the files do not tell, its environment."""

    name: str
    source: str
    env: str | None = None
    vecnormalize: str | None = None


@dataclass(frozen=True)
class ConversionEntry:
    """Keywords of convert(), and of distill() if the result is to be trained further.

    A `target` of "backend" stands for the cell's own back end.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    distill: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class BackendEntry:
    """A back end by name, and how it is to run; see HardwarePolicy."""

    label: str
    name: str
    isolation: str | None = None
    python: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """What a file asks for; every combination is one cell.

    sim_steps: None takes convert()'s usual steps, and those an agent that spikes was trained with.
    """

    agents: tuple[AgentEntry, ...]
    conversions: tuple[ConversionEntry, ...] = (ConversionEntry("default"),)
    backends: tuple[BackendEntry, ...] = (BackendEntry("cpu", "cpu"),)
    sim_steps: tuple[int, ...] | None = None
    seeds: tuple[int, ...] = (0,)
    episodes: int = 20


def read_grid(path: str | os.PathLike[str]) -> Grid:
    """The grid in a YAML file; paths in it are relative to the file.

    Raises SpikerlError with everything that is wrong with the file, and the nearest name for each
    key it does not know.
    """
    return make_grid(read_data(path), Path(path).parent, os.fspath(path))


def read_data(path: str | os.PathLike[str]) -> Mapping[Any, Any]:
    """What a YAML file holds; raises SpikerlError where it is none, or holds no keys."""
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpikerlError(f"{os.fspath(path)} cannot be read: {reason}") from None
    return _with_keys(_parsed(text, path), os.fspath(path))


def make_grid(data: Any, folder: Path, where: str = "this experiment") -> Grid:
    """The grid in plain data; raises SpikerlError with all that is wrong."""
    grid, problems = understood(_with_keys(data, where), folder)
    if problems:
        raise SpikerlError(listed(f"{where} cannot be used", problems))
    return grid


def understood(data: Mapping[Any, Any], folder: Path) -> tuple[Grid, list[str]]:
    """The grid as far as plain data are understood, and what is wrong with the rest.

    Where something is wrong, the grid is only good for looking at what it names.
    """
    from spikerl.conversion import usual_arguments

    known = [name for name in usual_arguments() if name not in _ELSEWHERE]
    problems = unknown_keys(data, _TOP, "the file")
    if not _several(data.get("agents")):
        problems.append("agents is missing: a list of checkpoints, at least one")
    given: dict[str, list[Any]] = {
        "agents": _several(data.get("agents")),
        "conversions": _several(data.get("conversions", [{}])),
        "backends": _several(data.get("backends", "cpu")),
        "seeds": _several(data.get("seeds", 0)),
    }
    agents = _those(_agent(entry, folder, problems) for entry in given["agents"])
    conversions = _those(_conversion(e, known, problems) for e in given["conversions"])
    backends = _those(_backend(entry, folder, problems) for entry in given["backends"])
    seeds, steps = given["seeds"], None
    if "sim_steps" in data:
        steps = given["sim_steps"] = _several(data["sim_steps"])
    episodes = data.get("episodes", 20)
    for value in steps or ():
        problems += checked_whole("sim_steps", value)
    for value in seeds:
        problems += checked_seed(value) or checked_whole("seeds", value, least=0)
    problems += checked_whole("episodes", episodes)
    names = {
        **given,
        "agents": [entry.name for entry in agents],
        "conversions": [entry.name for entry in conversions],
        "backends": [entry.label for entry in backends],
    }
    for key, values in names.items():
        if not given[key] and key != "agents":
            problems.append(f"{key} is empty: there would be no cell")
        twice = sorted({str(value) for value in values if values.count(value) > 1})
        problems += [f"{key} has {value!r} twice: give each its own name" for value in twice]
    whole = None if steps is None else tuple(n for n in steps if not checked_whole("", n))
    grid = Grid(tuple(agents), tuple(conversions), tuple(backends), whole, tuple(seeds), episodes)
    return grid, problems


def unknown_keys(data: Mapping[Any, Any], known: Collection[str], where: str) -> list[str]:
    """A sentence for each key that is not known, with the nearest that is."""
    found = []
    for key in data:
        if key not in known:
            near = get_close_matches(str(key), known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            found.append(f"{where} has the key {str(key)!r}; {hint}")
    return found


def _agent(entry: Any, folder: Path, problems: list[str]) -> AgentEntry | None:
    data = {"source": entry} if isinstance(entry, str) else entry
    if not isinstance(data, Mapping) or not isinstance(data.get("source"), str):
        problems.append(f"an agent is {_shown(entry)}, wanted a path or {{source: PATH, ...}}")
        return None
    problems += unknown_keys(data, _AGENT, f"agent {data['source']}")
    problems += _texts(data, _AGENT, f"agent {data['source']}")
    source = data["source"]
    if source.endswith(".spk"):
        problems.append(
            f"agent {source} is converted already, for one setting; name the checkpoint it is of"
        )
        return None
    parts = Path(source).with_suffix("") if source.endswith(".zip") else Path(source)
    env, statistics = (_text(data.get(key)) for key in ("env", "vecnormalize"))
    return AgentEntry(
        name=str(data.get("name") or "/".join(parts.parts[-2:])),
        source=_path(source, folder),
        env=env,
        vecnormalize=None if statistics is None else _path(statistics, folder),
    )


def _conversion(entry: Any, known: list[str], problems: list[str]) -> ConversionEntry | None:
    if entry is None:
        entry = {}
    if not isinstance(entry, Mapping):
        problems.append(f"a conversion is {_shown(entry)}, wanted {{name: ..., reset: zero, ...}}")
        return None
    settings = {key: value for key, value in entry.items() if key not in ("name", "distill")}
    told = ", ".join(f"{key}={value}" for key, value in settings.items())
    distill = entry.get("distill")
    if distill:
        told += ", distilled" if told else "distilled"
    name = str(entry.get("name") or told or "default")
    for key in sorted(set(settings) & set(_ELSEWHERE)):
        home = {"sim_steps": "sim_steps of the file", "seed": "seeds of the file"}
        told = home.get(key, "agents" if key == "vecnormalize" else "nothing here")
        problems.append(f"conversion {name!r} sets {key}, which belongs to {told}")
    rest = {key: value for key, value in settings.items() if key not in _ELSEWHERE}
    problems += unknown_keys(rest, ("name", "distill", *known), f"conversion {name!r}")
    settings = {key: value for key, value in rest.items() if key in known}
    if distill is not None and not isinstance(distill, (bool, Mapping)):
        problems.append(f"conversion {name!r}: distill is {_shown(distill)}, wanted true or keys")
    if isinstance(distill, Mapping):
        problems += unknown_keys(distill, _DISTILL, f"distill of conversion {name!r}")
        distill = {key: value for key, value in distill.items() if key in _DISTILL}
        return ConversionEntry(name, settings, distill)
    return ConversionEntry(name, settings, {} if distill else None)


def _backend(entry: Any, folder: Path, problems: list[str]) -> BackendEntry | None:
    data = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        problems.append(f"a back end is {_shown(entry)}, wanted a name or {{name: ..., ...}}")
        return None
    where = f"back end {data['name']}"
    problems += unknown_keys(data, _BACKEND, where)
    problems += _texts(data, ("label", "isolation", "python"), where)
    options = data.get("options") or {}
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        problems.append(f"{where}: options is {_shown(options)}, wanted names and values")
        options = {}
    if data.get("isolation") not in (None, "process"):
        problems.append(f"{where}: isolation is {_shown(data['isolation'])}, wanted process")
    python = _text(data.get("python"))
    if python is not None and os.sep in python:  # else it is looked up on the path
        python = _path(python, folder)
    return BackendEntry(
        label=str(data.get("label") or data["name"]),
        name=data["name"],
        isolation=_text(data.get("isolation")),
        python=python,
        options=dict(options),
    )


def _texts(data: Mapping[str, Any], keys: Collection[str], where: str) -> list[str]:
    return [
        f"{where}: {key} is {_shown(data[key])}, wanted text"
        for key in keys
        if data.get(key) is not None and not isinstance(data[key], str)
    ]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _those(entries: Iterable[Entry | None]) -> list[Entry]:
    """The entries that were understood."""
    return [entry for entry in entries if entry is not None]


def _with_keys(data: Any, where: str) -> Mapping[Any, Any]:
    if not isinstance(data, Mapping):
        raise SpikerlError(f"{where} holds {_shown(data)}, wanted keys such as agents and backends")
    return data


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else ([] if value is None else [value])


def _path(text: str, folder: Path) -> str:
    return os.path.abspath(folder / os.path.expanduser(text))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _parsed(text: str, path: str | os.PathLike[str]) -> Any:
    try:
        import yaml
    except ImportError:
        raise SpikerlError(
            "an experiment is a YAML file; install PyYAML: pip install 'spikerl[experiment]'"
        ) from None

    class Strict(yaml.SafeLoader):
        """YAML without keys that are there twice, of which the first would be lost."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for key in keys:
                if keys.count(key) > 1 and key != "<<":
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} is there twice", node.start_mark
                    )
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader=Strict)
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
        raise SpikerlError(f"{os.fspath(path)} is not YAML: {told}") from None
