"""evaluate(): the original and the spiking policy side by side, on the same seeds.

Imports gymnasium and the numpy core; the original is anything with SB3's predict().
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from spikerl.energy import Cost, cost
from spikerl.errors import SpikerlError
from spikerl.hardware import HardwarePolicy
from spikerl.metrics import Predictor, percent_error
from spikerl.operations import Tally
from spikerl.statistics import Estimate, Paired, mean, paired, share


@dataclass(frozen=True)
class Side:
    """One policy's episodes. std is over episodes; speed and latencies are of predict() only.

    latency_ms: the median of a decision here; slow_ms: what 99 % of them stay within.
    """

    name: str
    returns: tuple[float, ...]
    mean_return: Estimate
    std: float
    mean_length: float
    decisions_per_second: float
    latency_ms: float
    slow_ms: float


@dataclass(frozen=True)
class Evaluation:
    """What two policies did on the same seeds.

    agreement:    share of equal actions on the states the spiking policy visited (discrete).
    action_error: mean absolute error there in % of the action range (continuous); see
                  metrics.percent_error for a range without end.
    rates:        spikes per neuron and step of each spiking layer.
    synaptic_operations: additions of a weight that spikes cause, per decision; see metrics.
    paired:       the spiking policy's returns less the original's, seed by seed.
    cost:         footprint, sparsity, operations and estimates of energy per decision.
    """

    environment: str
    backend: str
    sim_steps: int
    seeds: tuple[int, ...]
    original: Side | None
    spiking: Side
    agreement: Estimate | None
    action_error: Estimate | None
    rates: tuple[float, ...]
    synaptic_operations: float
    paired: Paired | None
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def evaluate(
    policy: HardwarePolicy,
    make_env: Callable[[], gym.Env[Any, Any]],
    *,
    original: Predictor | None = None,
    episodes: int = 20,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Run episodes with seeds seed, seed + 1, ... for each policy, acting deterministically.

    progress: called after every episode with the number done so far.
    Raises SpikerlError for fewer than one episode.
    """
    if episodes < 1:
        raise SpikerlError(f"episodes must be at least 1, found {episodes}")
    seeds = tuple(range(seed, seed + episodes))
    steps = iter(range(1, 1 + 2 * episodes))
    tally = Tally()
    state: Any = None  # of the spiking policy
    memory: Any = None  # of the original

    def tick() -> None:
        if progress is not None:
            progress(next(steps))

    def decide_originally(observation: Any, start: bool) -> Any:
        assert original is not None
        nonlocal memory
        rows = policy.preprocessing.normalized(observation)
        begin, kept = np.array([start]), None if start else memory
        actions, memory = original.predict(rows, kept, begin, deterministic=True)
        return np.asarray(actions)[0]

    def decide_spiking(observation: Any, start: bool) -> Any:
        nonlocal state
        action, state = policy.predict(observation, None if start else state)
        return action

    def count() -> None:  # after the clock has stopped
        assert policy.recording is not None
        tally.add(policy.recording, policy.drive)

    env = make_env()
    try:
        environment = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        theirs = None if original is None else _play(decide_originally, env, seeds, tick)
        ours = _play(decide_spiking, env, seeds, tick, count)
    finally:
        env.close()
    likeness = None if original is None else _likeness(policy, original, ours)
    before, after = None if theirs is None else _side("original", theirs), _side("spiking", ours)
    continuous = isinstance(policy.agent.action_space, gym.spaces.Box)
    return Evaluation(
        environment=environment,
        backend=policy.backend.name,
        sim_steps=policy.sim_steps,
        seeds=seeds,
        original=before,
        spiking=after,
        agreement=None if continuous else likeness,
        action_error=likeness if continuous else None,
        rates=tally.rates,
        synaptic_operations=tally.synaptic_operations(policy.agent.network),
        paired=None if before is None else paired(after.returns, before.returns),
        cost=cost(policy.agent, tally),
    )


@dataclass
class _Episode:
    observations: list[Any]
    actions: list[Any]
    total: float
    seconds: list[float]


def _play(
    decide: Callable[[Any, bool], Any],
    env: gym.Env[Any, Any],
    seeds: tuple[int, ...],
    tick: Callable[[], None],
    count: Callable[[], None] | None = None,
) -> list[_Episode]:
    episodes = []
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        episode = _Episode([], [], 0.0, [])
        over = False
        while not over:
            begin = time.perf_counter()
            action = decide(observation, not episode.actions)
            episode.seconds.append(time.perf_counter() - begin)
            if count is not None:
                count()
            episode.observations.append(observation)
            episode.actions.append(action)
            observation, reward, terminated, truncated, _ = env.step(action)
            episode.total += float(reward)
            over = terminated or truncated
        episodes.append(episode)
        tick()
    return episodes


def _side(name: str, episodes: list[_Episode]) -> Side:
    returns = tuple(episode.total for episode in episodes)
    decisions = sum(len(episode.actions) for episode in episodes)
    seconds = np.concatenate([episode.seconds for episode in episodes])
    median, slow = np.quantile(seconds, [0.5, 0.99]) * 1000
    return Side(
        name=name,
        returns=returns,
        mean_return=mean(returns),
        std=float(np.std(returns)),
        mean_length=decisions / len(episodes),
        decisions_per_second=decisions / float(seconds.sum()),
        latency_ms=float(median),
        slow_ms=float(slow),
    )


def _decided(original: Predictor, rows: list[Any]) -> NDArray[Any]:
    """What the original does in the states of an episode: all at once, or with its own memory."""
    first, memory = original.predict(rows[0], None, np.array([True]), deterministic=True)
    if memory is None:
        if isinstance(rows[0], dict):
            batch: Any = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
        else:
            batch = np.concatenate(rows)
        return np.asarray(original.predict(batch, deterministic=True)[0])
    found = [np.asarray(first)]
    for row in rows[1:]:
        actions, memory = original.predict(row, memory, np.array([False]), deterministic=True)
        found.append(np.asarray(actions))
    return np.concatenate(found)


def _likeness(policy: HardwarePolicy, original: Predictor, episodes: list[_Episode]) -> Estimate:
    """Agreement or action error on the states the spiking policy visited."""
    space = policy.agent.action_space
    theirs, ours, labels = [], [], []
    for i, episode in enumerate(episodes):
        rows = [policy.preprocessing.normalized(o) for o in episode.observations]
        theirs.append(_decided(original, rows))
        ours.append(np.stack(episode.actions))
        labels.append(np.full(len(rows), i))
    wanted, found, groups = (np.concatenate(parts) for parts in (theirs, ours, labels))
    if isinstance(space, gym.spaces.Box):
        return mean(percent_error(found, wanted, space), groups)
    return share((found == wanted).reshape(len(found), -1).all(axis=1), groups)
