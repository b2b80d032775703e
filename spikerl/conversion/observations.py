"""Observations to calibrate and to measure on: given, from a replay buffer, or collected on-policy.

Imports SB3's vectorised environments and buffers. Observations are raw: as the environment returns
them, before VecNormalize.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer, DictReplayBuffer, ReplayBuffer

from spikerl.conversion.environments import vectorised
from spikerl.conversion.sequences import LENGTH
from spikerl.conversion.stack import PlainStack
from spikerl.decoding import Head
from spikerl.errors import ConversionError
from spikerl.network import FloatArray
from spikerl.preprocessing import Observation, Preprocessing, is_image
from spikerl.statistics import BLOCKS

HELD_OUT = 2_000  # observations a conversion is measured on, where there are enough
WATCHED = 5 * HELD_OUT  # on-policy steps they are drawn from
ROOM = 30_000_000  # numbers a set of observations may have: 240 MB
FEWEST = 10  # below this nothing can be split off to measure on
N_ENVS = 8


@dataclass(frozen=True, eq=False)
class ObservationSets:
    """Two sets of observations that share no episode (or no block of time, where given).

    calibration, held_out: observations as the environment returns them.
    groups: the episode or the block of time of each held-out observation.
    unit:   which of the two: "episodes" or "blocks of time".
    origin: where they come from, in words.
    """

    calibration: Observation
    held_out: Observation
    groups: NDArray[np.int64]
    unit: str
    origin: str


def given(
    observations: Any, preprocessing: Preprocessing, n_calibration: int, seed: int
) -> ObservationSets:
    """Split given observations: a fifth of 50 blocks of time is held out.

    Blocks and not single observations, because neighbours in time are nearly equal. observations
    may be an array, a Dict of arrays, or an SB3 replay buffer.
    Raises ConversionError for fewer than 10, ShapeError for ones that do not fit the space.
    """
    origin = "given by the user"
    if isinstance(observations, ReplayBuffer):
        observations = _buffered(observations, preprocessing)
        origin = "from the replay buffer"
    if isinstance(observations, BaseBuffer):
        raise ConversionError(
            f"observations is a {type(observations).__name__}, which holds what the policy saw, "
            "perhaps normalised; wanted raw observations: an array, a dict, or a replay buffer"
        )
    if _length(observations) == 0:
        raise ConversionError(
            "the calibration set is empty; pass observations as the environment returns them"
        )
    batch, is_batch = preprocessing.batched(observations)
    n = len(next(iter(batch.values())))
    if not is_batch or n < FEWEST:
        raise ConversionError(
            f"{n if is_batch else 1} observations are too few to calibrate on some and measure on "
            f"others; wanted a batch of at least {FEWEST}, better {HELD_OUT} and more"
        )
    rng = np.random.default_rng(seed)
    blocks = np.array_split(np.arange(n), min(BLOCKS, n))
    chosen = rng.permutation(len(blocks))
    n_held = max(1, len(blocks) // 5)
    held_out = np.concatenate([blocks[i] for i in np.sort(chosen[:n_held])])
    most = _most(preprocessing)
    held_out = _at_most(held_out, min(HELD_OUT, most), rng)
    calibration = np.concatenate([blocks[i] for i in np.sort(chosen[n_held:])])
    return ObservationSets(
        calibration=_take(observations, _at_most(calibration, min(n_calibration, most), rng)),
        held_out=_take(observations, held_out),
        groups=np.searchsorted([block[0] for block in blocks], held_out, side="right"),
        unit="blocks of time",
        origin=origin,
    )


def collected(
    stack: PlainStack, preprocessing: Preprocessing, env: Any, n_calibration: int, seed: int
) -> ObservationSets:
    """Let the source policy act (deterministically) and keep what it sees.

    The held-out observations are from further runs, so the sets share no episode.
    Raises ConversionError if the environment's observations do not fit the policy's.
    """
    venv, ours = vectorised(env, N_ENVS)
    try:
        _check_spaces(venv.observation_space, preprocessing)
        most = _most(preprocessing)
        calibration, _ = _run(stack, preprocessing, venv, min(n_calibration, most), seed)
        watched = WATCHED * min(HELD_OUT, most) // HELD_OUT
        seen, episodes = _run(stack, preprocessing, venv, watched, seed + 1_000_003)
    finally:
        if ours:
            venv.close()
    # Long runs, thinned: the whole course of episodes, not only their beginnings.
    # One that remembers is judged on stretches of them.
    blocks = np.arange(watched)[: watched - watched % LENGTH].reshape(-1, LENGTH)
    stretches = blocks if stack.stateful and len(blocks) else np.arange(watched)[:, None]
    wanted = max(1, min(HELD_OUT, most) // stretches.shape[1])
    rows = _at_most(np.arange(len(stretches)), wanted, np.random.default_rng(seed))
    rows = stretches[rows].reshape(-1)
    return ObservationSets(
        calibration, _take(seen, rows), episodes[rows], "episodes", "collected on-policy"
    )


@dataclass(frozen=True, eq=False)
class Acting:
    """Anything that gives values [B, n] for rows [B, n_in], and the head that acts on them."""

    values: Callable[[FloatArray], FloatArray]
    head: Head


def watched(
    acting: Acting | PlainStack, preprocessing: Preprocessing, env: Any, n: int, seed: int
) -> Observation:
    """n observations that something sees when it acts, greedily, in an environment of N_ENVS."""
    venv, ours = vectorised(env, N_ENVS)
    try:
        return _run(acting, preprocessing, venv, min(n, _most(preprocessing)), seed)[0]
    finally:
        if ours:
            venv.close()


def _run(
    acting: Acting | PlainStack, preprocessing: Preprocessing, venv: Any, n: int, seed: int
) -> tuple[Observation, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    venv.seed(int(seed) % 2**31)
    observation = venv.reset()
    current = np.arange(venv.num_envs)
    seen, episodes = [], []
    next_episode, starts = venv.num_envs, np.ones(venv.num_envs, dtype=np.bool_)
    walk = acting.walk() if isinstance(acting, PlainStack) else None
    for _ in range(-(-n // venv.num_envs)):
        seen.append(_copied(observation))
        episodes.append(current.copy())
        given = preprocessing(observation)
        values = acting.values(given) if walk is None else walk(given, starts)
        action = acting.head.action(values, True, rng).astype(venv.action_space.dtype)
        observation, _, dones, _ = venv.step(action)
        starts = np.asarray(dones, dtype=np.bool_)
        for i in np.flatnonzero(dones):
            current[i] = next_episode
            next_episode += 1
    # Whole episodes stay in order: [env, step], so that a block of rows is a stretch of time.
    return _joined(seen, n), np.stack(episodes, axis=1).reshape(-1)[:n]


def _most(preprocessing: Preprocessing) -> int:
    """Rows that fit into ROOM: of images not as many as of vectors."""
    return max(FEWEST, ROOM // preprocessing.n_outputs())


def _check_spaces(found: Any, preprocessing: Preprocessing) -> None:
    wanted = {part.key: part.space.shape for part in preprocessing.inputs}
    images = {part.key for part in preprocessing.inputs if is_image(part.space)}
    entries = found.spaces if hasattr(found, "spaces") else {None: found}
    shapes = {key: space.shape for key, space in entries.items()}
    # Channels may come last: the preprocessing puts them first.
    first = {k: (*s[-1:], *s[:-1]) if k in images and s else s for k, s in shapes.items()}
    if any(wanted.get(key) not in (shapes[key], first[key]) for key in {*shapes, *wanted}):
        raise ConversionError(
            f"the environment's observations have shape {_shown(shapes)}, the policy was trained "
            f"on {_shown(wanted)}: pass env= as it was trained (wrappers included) or observations="
        )


def _shown(shapes: Mapping[Any, Any]) -> str:
    return str(shapes.get(None, shapes))


def _buffered(buffer: ReplayBuffer, preprocessing: Preprocessing) -> Any:
    """Observations as the environment returned them: SB3 keeps a Discrete one as a row of one."""
    end = buffer.buffer_size if buffer.full else buffer.pos
    shapes = {part.key: part.space.shape for part in preprocessing.inputs}

    def rows(array: NDArray[Any], key: str | None) -> NDArray[Any]:
        found = array[:end].reshape(-1, *array.shape[2:])
        return found[:, 0] if shapes.get(key) == () and found.shape[1:] == (1,) else found

    if isinstance(buffer, DictReplayBuffer):
        return {key: rows(array, key) for key, array in buffer.observations.items()}
    return rows(buffer.observations, None)


def _length(observations: Any) -> int:
    first = next(iter(observations.values())) if isinstance(observations, Mapping) else observations
    return len(np.atleast_1d(np.asarray(first)))


def _take(observations: Any, rows: NDArray[np.int64]) -> Observation:
    if isinstance(observations, Mapping):
        return {key: np.asarray(array)[rows] for key, array in observations.items()}
    return np.asarray(observations)[rows]


def _at_most(rows: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return rows if len(rows) <= n else np.sort(rng.choice(rows, n, replace=False))


def _copied(observation: Any) -> Any:
    if isinstance(observation, Mapping):
        return {key: np.array(array) for key, array in observation.items()}
    return np.array(observation)


def _joined(seen: list[Any], n: int) -> Observation:
    def together(arrays: list[NDArray[Any]]) -> NDArray[Any]:
        stacked = np.stack(arrays, axis=1)
        return stacked.reshape(-1, *stacked.shape[2:])[:n]

    if isinstance(seen[0], Mapping):
        return {key: together([entry[key] for entry in seen]) for key in seen[0]}
    return together(seen)
