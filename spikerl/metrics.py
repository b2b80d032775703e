"""Measures of a spiking policy against the policy it came from. Imports numpy and statistics."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from spikerl.errors import ShapeError, SpikerlError
from spikerl.hardware import HardwarePolicy
from spikerl.network import Recording
from spikerl.preprocessing import Observation
from spikerl.statistics import Estimate, mean, share


class Predictor(Protocol):
    """Anything with SB3's predict()."""

    def predict(self, observation: Any, *, deterministic: bool = ...) -> tuple[Any, Any]:
        """Actions and the next state."""
        ...


def agreement(
    policy: HardwarePolicy,
    model: Predictor,
    observations: Observation,
    episodes: ArrayLike | None = None,
) -> Estimate:
    """Share of observations on which policy and model take the same action, with a 95 % interval.

    The literature calls it conversion accuracy. For several choices at once all must be equal.
    observations: [B, ...] as the environment returns them; they are normalised for the model with
                  the statistics the agent carries.
    episodes:     [B], the episode of each observation: the interval then allows for decisions of
                  one episode being alike.
    Raises SpikerlError for continuous actions: action_error() is their measure.
    """
    if isinstance(policy.agent.action_space, spaces.Box):
        raise SpikerlError("agreement is for discrete actions; use metrics.action_error")
    ours, theirs = _actions(policy, model, observations)
    return share((ours == theirs).reshape(len(ours), -1).all(axis=1), episodes)


def action_error(
    policy: HardwarePolicy,
    model: Predictor,
    observations: Observation,
    episodes: ArrayLike | None = None,
) -> Estimate:
    """Mean absolute difference of the actions, in % of the action range, with a 95 % interval.

    Arguments as for agreement(). Raises SpikerlError for discrete actions.
    """
    space = policy.agent.action_space
    if not isinstance(space, spaces.Box):
        raise SpikerlError("action_error is for continuous actions; use metrics.agreement")
    ours, theirs = _actions(policy, model, observations)
    return mean(percent_of_range(ours - theirs, space), episodes)


def percent_of_range(difference: NDArray[Any], space: spaces.Box) -> NDArray[np.float64]:
    """Mean |difference| per row in % of the action range; [B, *shape] -> [B].

    Raises SpikerlError where a range is infinite or empty: it has no percent.
    """
    width = space.high.astype(np.float64) - space.low  # in float32 it may overflow
    if not (np.isfinite(width) & (width > 0)).all():
        raise SpikerlError(
            f"wanted an action space bounded on both sides and not empty, found {space}"
        )
    share_of_range = np.abs(difference).astype(np.float64) / width
    rows: NDArray[np.float64] = 100.0 * share_of_range.reshape(len(difference), -1).mean(axis=1)
    return rows


def firing_rates(recording: Recording) -> tuple[float, ...]:
    """Spikes per neuron and step of every spiking layer, averaged over the batch."""
    return tuple(float(counts.mean()) / recording.sim_steps for counts in recording.counts)


def _actions(
    policy: HardwarePolicy, model: Predictor, observations: Observation
) -> tuple[NDArray[Any], NDArray[Any]]:
    _, vectorised = policy.agent.preprocessing.batched(observations)
    if not vectorised:
        raise ShapeError("the observations are a single one; wanted a batch [B, ...]")
    if policy.agent.stateful:
        raise SpikerlError(
            "a stateful agent's action depends on the observations before: compare it in a closed "
            "loop instead"
        )
    ours, _ = policy.predict(observations, deterministic=True)
    source = policy.agent.preprocessing.normalized(observations)
    theirs, _ = model.predict(source, deterministic=True)
    return ours, np.asarray(theirs)
