"""Environments for agents that spike; importing this module registers them with Gymnasium.

Imports gymnasium and the wrappers. All names begin with spikerl/, so that none meets another's.
"""

from typing import Any

from gymnasium.envs.registration import WrapperSpec, register

from spikerl.envs.catch import Catch
from spikerl.wrappers import EncodeObservation, EventCamera, KeepEntries

__all__ = ["IDS", "Catch"]

_CART_POLE = ("gymnasium.envs.classic_control.cartpole:CartPoleEnv", 500, 475.0)
_PENDULUM = ("gymnasium.envs.classic_control.pendulum:PendulumEnv", 200, None)
_CATCH = ("spikerl.envs.catch:Catch", None, 0.95)


def _spikes(scale: list[float]) -> WrapperSpec:
    """16 steps of spikes; `scale` is where an entry has one at every step."""
    spikes: dict[str, Any] = {"encoder": "equidistant", "sim_steps": 16}
    return EncodeObservation.wrapper_spec(**spikes, encoder_kwargs={"scale": scale})


# Pixels are black or white: an event is a pixel that was switched on or off.
_EVENTS = EventCamera.wrapper_spec(threshold=5.0, shape=None, source="observation", max_events=1)

# Entry point, time limit, threshold of reward; and what is around it.
_TABLE: dict[str, tuple[tuple[str, int | None, float | None], tuple[WrapperSpec, ...]]] = {
    "spikerl/CartPoleNoVel-v1": (_CART_POLE, (KeepEntries.wrapper_spec(entries=[0, 2]),)),
    "spikerl/PendulumNoVel-v1": (_PENDULUM, (KeepEntries.wrapper_spec(entries=[0, 1]),)),
    "spikerl/CartPoleSpikes-v1": (_CART_POLE, (_spikes([2.4, 3.0, 0.21, 3.0]),)),
    "spikerl/PendulumSpikes-v1": (_PENDULUM, (_spikes([1.0, 1.0, 8.0]),)),
    "spikerl/Catch-v0": (_CATCH, ()),
    "spikerl/CatchEvents-v0": (_CATCH, (_EVENTS,)),
}
IDS = tuple(_TABLE)

for _id, ((_entry_point, _limit, _threshold), _wrappers) in _TABLE.items():
    register(
        _id,
        entry_point=_entry_point,
        max_episode_steps=_limit,
        reward_threshold=_threshold,
        additional_wrappers=_wrappers,
    )
