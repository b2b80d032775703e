"""SpikingRecurrentPolicy in RecurrentPPO: a memory that learns, is forgotten and is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import torch
from test_policies import SHORT, rows_of, undecided

import spikerl
from spikerl import HardwarePolicy
from spikerl.errors import SpikerlError
from spikerl.evaluation import evaluate
from spikerl.policies import SpikingRecurrentPolicy


def recurrent(steps: int = 300, **policy_kwargs: Any) -> Any:
    torch.set_num_threads(1)
    kwargs = {"sim_steps": 3, "memory_size": 24, **policy_kwargs}
    made = sb3_contrib.RecurrentPPO(
        SpikingRecurrentPolicy, "CartPole-v1", seed=0, device="cpu", policy_kwargs=kwargs, **SHORT
    )
    if steps:
        made.learn(steps)
        undecided(made, "action_net")
    return made


def test_a_recurrent_policy_trains_every_part_of_its_memory() -> None:
    before, after = (dict(recurrent(n).policy.lstm_actor.named_parameters()) for n in (0, 300))
    assert {"recurrent", "decay_logit", "synapses.weight", "synapses.bias"} == set(before)
    for name in before:
        assert not torch.equal(before[name], after[name]), name


def test_the_memory_reaches_across_decisions_and_is_forgotten_between_episodes() -> None:
    made = recurrent()
    row = np.full((1, 4), 0.4, np.float32)
    start, going = np.array([True]), np.array([False])
    _, fresh = made.predict(row, None, start, True)
    _, state = made.predict(row, fresh, going, True)
    assert not np.allclose(state[1], fresh[1])
    _, again = made.predict(row, state, start, True)
    np.testing.assert_array_equal(again[1], fresh[1])


def test_a_recurrent_policy_is_deployed_with_its_state() -> None:
    made = recurrent()
    agent = spikerl.convert(made, observations=rows_of(made))
    assert agent.stateful
    env = gym.make("CartPole-v1")
    same = []
    for backend in ("cpu", "reference"):
        with HardwarePolicy(agent, backend) as deployed:
            ours: Any = None
            theirs: Any = None
            for seed in range(8):
                observation, _ = env.reset(seed=seed)
                start, over = np.array([True]), False
                while not over:
                    row = observation[None]
                    action, theirs = made.predict(row, theirs, start, True)
                    mine, ours = deployed.predict(row, ours, start, True)
                    same.append(bool(action[0] == mine[0]))
                    observation, _, ended, cut, _ = env.step(int(action[0]))
                    start, over = np.array([False]), ended or cut
    # SB3 hands the state on in float32, the back ends in float64
    assert len(same) > 100
    assert np.mean(same) > 0.99


def test_a_recurrent_model_comes_back_from_its_file(tmp_path: Path) -> None:
    made = recurrent()
    made.save(tmp_path / "model.zip")
    again = sb3_contrib.RecurrentPPO.load(tmp_path / "model.zip", device="cpu")
    rows = rows_of(made, 20)
    first, second = (m.predict(rows, deterministic=True)[0] for m in (made, again))
    np.testing.assert_array_equal(first, second)
    agents = [spikerl.convert(m, observations=rows_of(made)) for m in (made, again)]
    assert agents[0].network.fingerprint() == agents[1].network.fingerprint()
    own = spikerl.convert(tmp_path / "model.zip", observations=rows_of(made))
    assert own.network.fingerprint() == agents[0].network.fingerprint()
    agents[0].save(tmp_path / "agent.spk")
    assert spikerl.SpikingAgent.load(tmp_path / "agent.spk").stateful


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sim_steps": 0}, "sim_steps must be a whole number >= 1"),
        ({"surrogate": "spline"}, "there is no surrogate 'spline'"),
        ({"net_arch": [8]}, "the action is read from the memory itself"),
        ({"shared_lstm": True}, "only the actor spikes"),
    ],
)
def test_a_memory_that_cannot_be_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(SpikerlError, match=message):
        recurrent(0, **kwargs)


def test_an_original_with_a_memory_is_evaluated_with_it() -> None:
    made = recurrent()
    agent = spikerl.convert(made, observations=rows_of(made))
    with HardwarePolicy(agent) as deployed:
        result = evaluate(deployed, lambda: gym.make("CartPole-v1"), original=made, episodes=5)
    assert result.original is not None
    assert result.agreement is not None
    assert result.agreement.value > 0.99
    assert result.original.returns == result.spiking.returns
