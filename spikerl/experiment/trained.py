"""What an agent's files say, and whether they belong together: checkpoint, environment, statistics.

Imports grid and preprocessing; SB3 and torch late.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium import spaces

from spikerl.errors import SpikerlError, one_line, problems_of
from spikerl.experiment.grid import AgentEntry
from spikerl.network import SpikingNetwork
from spikerl.preprocessing import from_space, is_image


@dataclass(frozen=True)
class Trained:
    """A checkpoint that was looked into.

    origin: see Cell; steps, network: of one that spikes already, else None.
    """

    origin: dict[str, Any]
    steps: int | None
    network: SpikingNetwork | None


def trained_agent(agent: AgentEntry, problems: list[str]) -> Trained | None:
    """What a checkpoint's files say; every problem where they cannot be used."""
    with warnings.catch_warnings(action="ignore"):  # convert() gives them, cell by cell
        found = _opened(agent)
    if isinstance(found, Trained):
        return found
    problems += [f"agent {agent.name}: {problem}" for problem in found]
    return None


def _opened(agent: AgentEntry) -> Trained | list[str]:
    from spikerl.conversion.algorithms import plain_stack
    from spikerl.conversion.checkpoints import load_checkpoint
    from spikerl.conversion.environments import todays_id
    from spikerl.conversion.export import exported
    from spikerl.conversion.vecnormalize import statistics as normalisation

    try:
        checkpoint = load_checkpoint(agent.source)
    except (SpikerlError, OSError) as error:
        return [one_line(error)]
    model = checkpoint.model
    seen, acted = model.observation_space, model.action_space
    name = agent.env or checkpoint.env_id
    kwargs: Mapping[str, Any] = {} if agent.env else dict(checkpoint.env_kwargs)
    wrappers = () if agent.env else checkpoint.wrappers
    problems = []
    if name is None:
        problems.append(f"{agent.source} does not say which environment it is for; give it env")
    else:
        try:
            problems += _environment_problems(agent, name, kwargs, wrappers, model)
        except (SpikerlError, OSError) as error:
            problems.append(one_line(error))
    statistics = agent.vecnormalize or checkpoint.vecnormalize
    if statistics is not None:
        problems += problems_of(lambda: from_space(seen, normalize=normalisation(statistics)))
    try:
        stack = plain_stack(model.policy, seen, acted, 0.0)
        spikes = stack.layers[0].spikes
        network = None if spikes is None else exported(stack).network
    except SpikerlError as error:
        return [*problems, one_line(error)]
    if problems:
        return problems
    origin = {
        "sha256": checkpoint.details["sha256"],
        "vecnormalize": None if statistics is None else _sum(statistics),
        "algorithm": checkpoint.details["algorithm"],
        "environment": todays_id(str(name)),
        "env_kwargs": {key: repr(value) for key, value in kwargs.items()},
        "wrappers": [repr(wrapper) for wrapper in wrappers],
        "spiking": spikes is not None,
    }
    return Trained(origin, None if spikes is None else spikes.sim_steps, network)


def _environment_problems(
    agent: AgentEntry,
    name: str,
    kwargs: Mapping[str, Any],
    wrappers: tuple[Any, ...],
    model: Any,
) -> list[str]:
    """Spaces of an environment that are not those of training."""
    from spikerl.conversion.environments import maker, todays_id

    with maker(todays_id(name), kwargs, wrappers)() as env:
        seen, acted = env.observation_space, env.action_space
    problems = []
    if acted != model.action_space:
        problems.append(
            f"{name} has the actions {acted}, {agent.source} was trained for {model.action_space}"
        )
    if not _alike(seen, model.observation_space):
        problems.append(
            f"{name} has the observations {_shown(seen)}, {agent.source} was trained on "
            f"{_shown(model.observation_space)}"
        )
    return problems


def _alike(found: spaces.Space[Any], trained: spaces.Space[Any]) -> bool:
    """Whether a policy can read what an environment gives: the bounds of numbers may differ."""
    if isinstance(found, spaces.Dict) and isinstance(trained, spaces.Dict):
        return set(found) == set(trained) and all(_alike(found[k], trained[k]) for k in found)
    if isinstance(trained, spaces.Box):
        shape = found.shape
        # SB3 puts the channels of images first
        first = (*shape[-1:], *shape[:-1]) if shape and is_image(trained) else shape
        return isinstance(found, spaces.Box) and trained.shape in (shape, first)
    return found == trained


def _sum(path: Any) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _shown(space: spaces.Space[Any]) -> str:
    """A space in a line, without the bounds of its numbers."""
    if isinstance(space, spaces.Dict):
        return "{" + ", ".join(f"{key}: {_shown(space[key])}" for key in space) + "}"
    return f"Box{space.shape}" if isinstance(space, spaces.Box) else " ".join(str(space).split())
