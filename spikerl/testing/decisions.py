"""The check of the whole way: a policy that decides on the back end inside a Gymnasium loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spikerl.backends.base import Backend, Capabilities, capability_problems
from spikerl.network import Dense, SpikingNetwork
from spikerl.testing.check import Catalogue, exact, fail
from spikerl.testing.neuron import neurons

if TYPE_CHECKING:
    from spikerl.agent import SpikingAgent

_catalogue = Catalogue()
check = _catalogue.add
CHECKS = _catalogue.checks

SIM_STEPS = 8
DECISIONS = 24


def _network(c: Capabilities) -> SpikingNetwork:
    weight = np.array([[2, 0], [-2, 0], [0, 2], [0, -2], [2, 2], [-2, -1]]) / 4
    if (
        not {"current", "constant"} & c.drive
    ):  # two channels per number: positive part, negative part
        weight = np.concatenate([weight, -weight], axis=1)
    hidden = neurons(c, weight, bias=[0.125] * 6 if c.bias else None)
    values = np.array([[4, -2, 1, 0, 3, -1], [1, 1, 2, 2, -2, 1], [-2, 4, 0, 2, -1, 3]]) / 4
    if not c.can_read_out:
        return SpikingNetwork((hidden, neurons(c, values)))
    # Small biases of their own: a potential within the tolerance must not decide between equals.
    apart = [0.0, 2.0**-9, 2.0**-8] if c.bias else None
    last = Dense(weight=values, bias=apart, spiking=False)
    return SpikingNetwork((hidden, last))


def _agent(c: Capabilities, network: SpikingNetwork, stateful: bool) -> SpikingAgent:
    from spikerl.agent import SpikingAgent
    from spikerl.decoding import Categorical, Decoder, FinalPotential, SpikeCount
    from spikerl.encoding import ConstantCurrent, EquidistantSpikes
    from spikerl.preprocessing import from_space
    from spikerl.testing.line import SCALE, Line

    read = SpikeCount() if network.readout.spiking else FinalPotential()
    return SpikingAgent(
        network=network,
        preprocessing=from_space(Line.observation_space),
        encoder=ConstantCurrent()
        if {"current", "constant"} & c.drive
        else EquidistantSpikes(scale=SCALE),
        decoder=Decoder(read, Categorical((3,))),
        sim_steps=SIM_STEPS,
        observation_space=Line.observation_space,
        action_space=Line.action_space,
        stateful=stateful,
    )


@check(lambda c: not capability_problems(c, _network(c)))
def evaluate_policy_runs(backend: Backend) -> None:
    """A HardwarePolicy on the back end closes the loop with Gymnasium environments, and takes the
    actions it takes on the reference."""
    c = backend.capabilities
    for stateful in (False, True) if c.keeps_state and c.partial_reset else (False,):
        agent = _agent(c, _network(c), stateful)
        found = _actions(agent, backend)
        if not exact(c) or c.weight_bits is not None:
            continue  # single decisions are not promised, or hang on ties between rounded numbers
        wanted = _actions(agent, "reference")
        if not np.array_equal(found, wanted):
            t = int(np.argmax((found != wanted).any(axis=1)))
            kind = "stateful" if stateful else "stateless"
            fail(f"{kind} agent: actions {found[t]} in decision {t}", f"{wanted[t]}")


def _actions(agent: SpikingAgent, backend: Backend | str) -> NDArray[np.int64]:
    """Actions [decisions, 2] in two environments side by side, as evaluate_policy drives them."""
    import gymnasium

    from spikerl.hardware import HardwarePolicy
    from spikerl.testing.line import Line

    taken = []
    envs = gymnasium.vector.SyncVectorEnv([lambda: Line(-1.0), lambda: Line(0.5)])
    with HardwarePolicy(agent, backend, n_envs=2, seed=0) as policy:
        observation, _ = envs.reset(seed=0)
        state, starts = None, np.ones(2, dtype=np.bool_)
        for _ in range(DECISIONS):
            action, state = policy.predict(observation, state, starts)
            if action.shape != (2,) or not all(agent.action_space.contains(a) for a in action):
                fail(f"actions {action!r}", f"two of {agent.action_space}")
            taken.append(action)
            observation, _, terminated, truncated, _ = envs.step(action)
            starts = terminated | truncated
    envs.close()
    return np.array(taken)
