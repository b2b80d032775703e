"""Which policy serves which algorithm. Imports SB3.

SB3 takes any policy class: one that was written for another algorithm fails within SB3, or trains
something else. A policy finds the algorithm that makes it among its callers, for SB3 hands it no
reference; one that is made by hand, loaded alone or copied has no algorithm, and nothing to check.
"""

from __future__ import annotations

import sys
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from spikerl.errors import SpikerlError

SERVES = {
    "SpikingActorCriticPolicy": ("PPO", "A2C", "TRPO"),
    "SpikingDQNPolicy": ("DQN",),
    "CommonModeDQNPolicy": ("DQN",),
    "SpikingQRDQNPolicy": ("QRDQN",),
    "SpikingSACPolicy": ("SAC",),
    "SpikingTQCPolicy": ("TQC",),
    "SpikingTD3Policy": ("TD3", "DDPG"),
    "ProxyTD3Policy": ("ProxyTD3",),
    "SpikingRecurrentPolicy": ("RecurrentPPO",),
}
LIBRARIES = ("stable_baselines3", "sb3_contrib", "spikerl")
FRAMES = ("BaseAlgorithm", "OnPolicyAlgorithm", "OffPolicyAlgorithm")  # no algorithms themselves


def check_serves(policy: Any) -> None:
    """Raise SpikerlError if the algorithm that is making this policy is none that it serves.

    To be called first, as SB3's algorithms pass keywords that other policies do not have. A
    subclass of an algorithm counts as what it derives from; one that somebody derives from SB3's
    OnPolicyAlgorithm or OffPolicyAlgorithm themselves is taken at its word.
    """
    algorithm = _maker(policy)
    if algorithm is None:
        return
    found = _known(type(algorithm))
    name = next((c.__name__ for c in type(policy).__mro__ if _ours(c)), "")
    if found is None or name not in SERVES or found in SERVES[name]:
        return
    own = type(algorithm).__name__
    others = [policy for policy, served in SERVES.items() if found in served]
    raise SpikerlError(
        f"{type(policy).__name__} serves {', '.join(SERVES[name])}; found "
        + (found if own == found else f"{own}, which is a {found}")
        + f"; {found} is served by {' and '.join(others) or 'no policy of spikerl'}"
    )


def algorithm_of(policy: Any) -> str | None:
    """The library's algorithm that is making this policy, or None where there is none."""
    algorithm = _maker(policy)
    return None if algorithm is None else _known(type(algorithm))


def _maker(policy: Any) -> BaseAlgorithm | None:
    """The algorithm whose method is making the policy."""
    frame = sys._getframe(1)
    while frame := frame.f_back:  # type: ignore[assignment]
        maker = frame.f_locals.get("self")
        if isinstance(maker, BaseAlgorithm):
            made = getattr(maker, "policy_class", None) is type(policy)
            return maker if made else None
    return None


def _known(algorithm: type[Any]) -> str | None:
    """The nearest algorithm of a library among the bases; None where there is only a frame."""
    for kind in algorithm.__mro__:
        if kind.__module__.partition(".")[0] in LIBRARIES:
            return None if kind.__name__ in FRAMES else kind.__name__
    return None


def _ours(policy: type[Any]) -> bool:
    return policy.__name__ in SERVES and policy.__module__.startswith("spikerl.")
