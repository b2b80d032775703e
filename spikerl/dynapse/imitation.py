"""Learning what a trained policy does: DAgger (Ross et al. 2011) for nets on Dynap-SE2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spikerl.dynapse.circuit import Chip
from spikerl.dynapse.policy import DynapsePolicy
from spikerl.dynapse.training import train
from spikerl.errors import SpikerlError
from spikerl.network import FloatArray

N_ENVS = 16


class Teacher(Protocol):
    """Anything with SB3's predict(): a model of SB3, a HardwarePolicy."""

    def predict(self, observation: Any, *, deterministic: bool) -> tuple[Any, Any]: ...


def imitate(
    policy: DynapsePolicy,
    teacher: Teacher,
    make_env: Callable[[], Any],
    *,
    rounds: int = 3,
    observations: int = 2_000,
    updates: int = 200,
    seed: int = 0,
    **training: Any,
) -> DynapsePolicy:
    """A policy like this one whose net does what the teacher does, on chips that differ.

    rounds: in the first the teacher acts, in the others the net so far, each row on another chip;
            a tenth of the actions are random. The labels are the teacher's throughout.
    observations, updates: per round. Further keywords go to train(), such as
    batch_size (128) and gain (0.3: few spikes have to decide here).
    """
    if rounds < 1:
        raise SpikerlError(f"rounds must be >= 1, found {rounds}")
    settings: dict[str, Any] = {"batch_size": 128, "gain": 0.3, **training}
    rng = np.random.default_rng(seed)
    seen: list[FloatArray] = []
    actor: Any = teacher
    for i in range(rounds):
        seen.append(visited(actor, make_env, observations, seed=int(rng.integers(2**31))))
        x = np.concatenate(seen)
        labels = np.asarray(teacher.predict(x.astype(np.float32), deterministic=True)[0])
        raster = policy.raster(x)
        fitted = train(policy.net, raster, labels, updates=updates, seed=seed + i, **settings)
        policy = policy.with_net(fitted.net)
        chips = [
            Chip.drawn(policy.net.n_in, policy.net.n, int(rng.integers(2**63)))
            for _ in range(N_ENVS)
        ]
        actor = policy.on(chips)
    return policy


def visited(
    actor: Teacher, make_env: Callable[[], Any], number: int, *, seed: int = 0
) -> FloatArray:
    """Observations [number, n] that an actor meets, a tenth of its actions being random."""
    rng = np.random.default_rng(seed)
    envs = [make_env() for _ in range(N_ENVS)]
    now = np.stack([env.reset(seed=int(rng.integers(2**31)))[0] for env in envs])
    found: list[NDArray[Any]] = []
    while len(found) * N_ENVS < number:
        found.append(now.copy())
        actions = np.asarray(actor.predict(now, deterministic=True)[0])
        wild = rng.random(N_ENVS) < 0.1
        actions = np.where(wild, rng.integers(envs[0].action_space.n, size=N_ENVS), actions)
        for k, env in enumerate(envs):
            now[k], _, terminated, truncated, _ = env.step(int(actions[k]))
            if terminated or truncated:
                now[k] = env.reset()[0]
    for env in envs:
        env.close()
    return np.concatenate(found)[:number].astype(np.float64)


def returns_by_chip(
    policy: DynapsePolicy,
    make_env: Callable[[], Any],
    chips: Sequence[Chip],
    *,
    episodes: int = 5,
    seed: int = 0,
) -> FloatArray:
    """Returns [chips, episodes]; episode k starts from seed + k on every chip."""
    envs = [make_env() for _ in range(len(chips) * episodes)]
    rows = policy.on([chip for chip in chips for _ in range(episodes)])
    now = np.stack([env.reset(seed=seed + i % episodes)[0] for i, env in enumerate(envs)])
    total, running = np.zeros(len(envs)), np.ones(len(envs), np.bool_)
    while running.any():
        actions, _ = rows.predict(now)
        for i in np.flatnonzero(running):
            now[i], reward, terminated, truncated, _ = envs[i].step(int(actions[i]))
            total[i] += float(reward)
            running[i] = not (terminated or truncated)
    for env in envs:
        env.close()
    return total.reshape(len(chips), episodes)
