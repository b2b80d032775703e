"""SpikingAgent: the parts must fit, and every misfit is named at once."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from small_agents import AGENTS, pole, walker

from spikerl.agent import SpikingAgent
from spikerl.decoding import Binary, Categorical, Decoder, FinalPotential, Gaussian, SpikeCount
from spikerl.encoding import LatencySpike, PoissonSpikes
from spikerl.errors import SpikerlError, checked_whole
from spikerl.network import Dense, SpikingNetwork
from spikerl.preprocessing import Normalize, from_space


@pytest.mark.parametrize("name", AGENTS)
def test_agents_are_frozen(name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        AGENTS[name]().sim_steps = 3  # type: ignore[misc]


@pytest.mark.parametrize("sim_steps", [0, -1, 1.0, True, None, "3"])
def test_a_number_of_steps_is_whole_and_positive(sim_steps: Any) -> None:
    assert "must be a whole number >= 1" in checked_whole("sim_steps", sim_steps)[0]
    with pytest.raises(SpikerlError, match="sim_steps must be a whole number >= 1"):
        replace(pole(), sim_steps=sim_steps)


def test_a_number_of_steps_may_come_from_numpy() -> None:
    assert checked_whole("sim_steps", np.int32(4)) == []


def test_all_misfits_are_named_at_once() -> None:
    with pytest.raises(SpikerlError) as caught:
        replace(
            pole(),
            sim_steps=0,
            encoder=PoissonSpikes(),
            decoder=Decoder(SpikeCount(), Categorical((3,))),
        )
    text = str(caught.value)
    assert text.startswith("the parts of this agent do not fit:")
    assert text.count("\n  - ") == 4
    for reason in (
        "sim_steps must be a whole number >= 1, found 0",
        "the encoder has 8 channels, the network 4",
        "SpikeCount needs a last layer that spikes",
        "does not fit the action space Discrete(2)",
    ):
        assert reason in text


@pytest.mark.parametrize(
    ("head", "space", "fits"),
    [
        (Categorical((2,)), spaces.Discrete(2), True),
        (Categorical((2,)), spaces.Discrete(3), False),
        (Categorical((2,), multi=True), spaces.Discrete(2), False),
        (Categorical((2,), multi=True), spaces.MultiDiscrete([2]), True),
        (Categorical((2,)), spaces.MultiDiscrete([2]), False),
        (Categorical((1, 1), multi=True), spaces.MultiDiscrete([[1], [1]]), False),
        (Binary(2), spaces.MultiBinary(2), True),
        (Binary(2), spaces.MultiBinary([1, 2]), False),
        (Binary(2), spaces.Discrete(2), False),
        (Gaussian(np.zeros(2), np.ones(2)), spaces.Box(0, 1, (2,)), True),
        (Gaussian(np.zeros(2), np.ones(2)), spaces.Box(0, 1, (1, 2)), False),
        (Gaussian(np.zeros((1, 2)), np.ones((1, 2))), spaces.Box(0, 1, (1, 2)), True),
        (Categorical((2,)), spaces.Box(0, 1, (2,)), False),
    ],
    ids=str,
)
def test_the_head_must_fit_the_action_space(head: Any, space: Any, fits: bool) -> None:
    def make() -> SpikingAgent:
        return replace(pole(), decoder=Decoder(FinalPotential(), head), action_space=space)

    if fits:
        assert make().action_space == space
    else:
        with pytest.raises(SpikerlError, match="does not fit the action space"):
            make()


def test_action_spaces_sb3_does_not_know_are_refused() -> None:
    with pytest.raises(SpikerlError, match="is not supported; wanted Discrete, MultiDiscrete"):
        replace(pole(), action_space=spaces.Text(3))


def test_the_preprocessing_must_fit_the_observation_space() -> None:
    with pytest.raises(SpikerlError, match=r"preprocessing reads shape \(4,\), the observation"):
        replace(pole(), observation_space=spaces.Box(-1, 1, (3,)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoder": LatencySpike(scale=[1.0, 2.0])}, "the encoder has arrays of a length"),
        (
            {"decoder": Decoder(SpikeCount(scale=np.ones(3), signed=True), Binary(2))},
            "the decoder has arrays of a length",
        ),
        (
            {"decoder": Decoder(SpikeCount(offset=np.ones((5, 1)), signed=True), Binary(2))},
            r"the decoder gives shape \(5, 2\), wanted \(1, 2\)",
        ),
    ],
)
def test_arrays_of_another_length_are_found_when_the_agent_is_made(
    change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SpikerlError, match=reason):
        replace(walker(), **change)


def test_statistics_of_another_shape_are_found_when_the_agent_is_made() -> None:
    space = spaces.Box(-1, 1, (4,))
    part = from_space(space, normalize={None: Normalize(np.zeros(4), np.ones(3))})
    with pytest.raises(SpikerlError, match="the normalisation statistics have shapes"):
        replace(pole(), preprocessing=part)


def test_saving_and_loading_are_methods(tmp_path: Any) -> None:
    network = SpikingNetwork((Dense(np.eye(4)[:2], spiking=False),))
    agent = replace(pole(), network=network)
    agent.save(str(tmp_path / "agent.spk"))
    assert SpikingAgent.load(tmp_path / "agent.spk").network.fingerprint() == network.fingerprint()


@pytest.mark.parametrize(
    "space", [spaces.Discrete(2, start=1), spaces.MultiDiscrete([2], start=[3])]
)
def test_actions_that_do_not_start_at_zero_are_refused(space: Any) -> None:
    with pytest.raises(SpikerlError, match="does not start at 0"):
        replace(pole(), action_space=space)
