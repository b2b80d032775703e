"""Measures of a spiking policy: against the policy it came from, and what it costs.

Imports numpy, hardware and statistics; what is counted of a network is in operations.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from spikerl.errors import ShapeError, SpikerlError
from spikerl.hardware import HardwarePolicy
from spikerl.operations import (
    Operations,
    activation_sparsity,
    connection_sparsity,
    fan_outs,
    firing_rates,
    footprint,
    operations,
    synaptic_operations,
)
from spikerl.preprocessing import Observation
from spikerl.statistics import Estimate, mean, share

__all__ = [
    "Operations",
    "Predictor",
    "action_error",
    "activation_sparsity",
    "agreement",
    "connection_sparsity",
    "error_unit",
    "fan_outs",
    "firing_rates",
    "footprint",
    "operations",
    "percent_error",
    "synaptic_operations",
]


class Predictor(Protocol):
    """Anything with SB3's predict()."""

    def predict(
        self,
        observation: Any,
        state: Any = ...,
        episode_start: Any = ...,
        deterministic: bool = ...,
    ) -> tuple[Any, Any]:
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

    Arguments and, where a range is infinite, the unit: as for agreement() and percent_error().
    Raises SpikerlError for discrete actions.
    """
    space = policy.agent.action_space
    if not isinstance(space, spaces.Box):
        raise SpikerlError("action_error is for continuous actions; use metrics.agreement")
    return mean(percent_error(*_actions(policy, model, observations), space), episodes)


def percent_error(
    ours: NDArray[Any], theirs: NDArray[Any], space: spaces.Box
) -> NDArray[np.float64]:
    """Mean |ours - theirs| per row in % of the action range; [B, *shape] -> [B].

    An action without bounds on both sides has no range: its error is in % of the standard deviation
    of theirs (of 1 where they are all equal).
    """
    wanted = theirs.astype(np.float64)
    width = space.high.astype(np.float64) - space.low  # in float32 it may overflow
    unit = np.where(np.isfinite(width), width, wanted.std(axis=0))
    error = np.abs(ours.astype(np.float64) - wanted) / np.where(unit > 0, unit, 1.0)
    rows: NDArray[np.float64] = 100.0 * error.reshape(len(error), -1).mean(axis=1)
    return rows


def error_unit(space: spaces.Space[Any]) -> str:
    """What percent_error() is in per cent of."""
    if isinstance(space, spaces.Box) and not space.is_bounded("both"):
        return "the range (of the original's standard deviation where there is none)"
    return "the range"


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
    source = policy.preprocessing.normalized(observations)
    theirs, _ = model.predict(source, deterministic=True)
    return ours, np.asarray(theirs)
