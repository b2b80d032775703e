"""convert(): what it refuses, and how it says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch
from policies import RELU, model

import spikerl
from spikerl.errors import ConversionError, ShapeError

FEW = 400  # calibration observations


def test_layers_that_cannot_be_converted_are_refused_by_name_all_at_once() -> None:
    source = sb3.PPO(
        "MlpPolicy",
        "CartPole-v1",
        n_steps=64,
        batch_size=64,
        device="cpu",
        policy_kwargs={"activation_fn": torch.nn.LogSigmoid},
    )
    with pytest.raises(ConversionError) as caught:
        spikerl.convert(source)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "mlp_extractor.policy_net.1",
        "mlp_extractor.policy_net.3",
    ]


def test_recurrent_and_maskable_policies_are_refused_by_name() -> None:
    for algorithm, policy in (
        (sb3_contrib.RecurrentPPO, "MlpLstmPolicy"),
        (sb3_contrib.MaskablePPO, "MlpPolicy"),
    ):
        source = algorithm(
            policy, "CartPole-v1", n_steps=128, policy_kwargs=dict(RELU), device="cpu"
        )
        with pytest.raises(ConversionError, match="is not a policy spikerl can convert"):
            spikerl.convert(source)


class Doubling(sb3.common.torch_layers.FlattenExtractor):
    """An extractor whose layers do not show what it does."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return -2.0 * super().forward(observations)


class Sorting(sb3.common.torch_layers.FlattenExtractor):
    """An extractor with an operation that no layer of neurons can do."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return super().forward(observations).cumsum(dim=1)


class Asking(sb3.common.torch_layers.FlattenExtractor):
    """An extractor that does one thing or another."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return -observations if observations.sum() > 0 else observations


def test_what_an_extractor_does_beyond_its_layers_is_seen() -> None:
    spikerl.convert(
        model("dqn", policy_kwargs={"features_extractor_class": Doubling}), n_calibration=FEW
    )
    for extractor, message in (
        (Sorting, "features_extractor.cumsum: the operation cumsum is not supported"),
        (Asking, r"features_extractor: Asking.forward\(\) cannot be traced"),
    ):
        source = model("dqn", policy_kwargs={"features_extractor_class": extractor})
        with pytest.raises(ConversionError, match=message):
            spikerl.convert(source, n_calibration=FEW)


def test_all_bad_arguments_are_named_at_once() -> None:
    with pytest.raises(ConversionError) as caught:
        spikerl.convert(
            model("dqn"),
            sim_steps=0,
            reset="soft",  # type: ignore[arg-type]
            threshold="best",
            percentile=0,
            n_calibration=0,
            seed=-1,
            v_init=2,
            encoder="morse",
            colour="red",
        )
    text = str(caught.value)
    for word in (
        "sim_steps",
        "soft",
        "best",
        "percentile",
        "n_calibration",
        "seed",
        "v_init",
        "morse",
        "colour",
    ):
        assert word in text


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        (np.zeros((0, 4), np.float32), "the calibration set is empty"),
        (np.zeros((5, 4), np.float32), "too few"),
        (np.zeros((50, 3), np.float32), "has shape"),
        (np.full((50, 4), np.nan, np.float32), "NaN"),
    ],
)
def test_observations_that_cannot_be_used_are_refused(observations: Any, message: str) -> None:
    with pytest.raises((ConversionError, ShapeError), match=message):
        spikerl.convert(model("dqn"), observations=observations)


def test_a_rollout_buffer_is_refused() -> None:
    source = model("ppo")
    with pytest.raises(ConversionError, match="RolloutBuffer, which holds what the policy saw"):
        spikerl.convert(source, observations=source.rollout_buffer)  # type: ignore[attr-defined]


def test_masked_observations_are_refused() -> None:
    seen = np.ma.masked_less(np.random.default_rng(0).standard_normal((50, 4)), -1)
    with pytest.raises(ShapeError, match="is a masked array"):
        spikerl.convert(model("dqn"), observations=seen)


def test_delays_as_long_as_the_decision_are_refused() -> None:
    with pytest.raises(ConversionError, match="16 in all: none arrives within sim_steps=16"):
        spikerl.convert(model("dqn"), n_calibration=FEW, sim_steps=16, delay_steps=8)


@pytest.mark.parametrize("name", ["n_calibration", "percentile", "delay_steps", "v_init"])
def test_a_truth_value_is_no_number(name: str) -> None:
    with pytest.raises(ConversionError, match=rf"{name} .*found True"):
        spikerl.convert(model("dqn"), **{name: True})


def test_numbers_of_numpy_are_numbers() -> None:
    agent = spikerl.convert(
        model("dqn"),
        n_calibration=np.int64(FEW),  # type: ignore[arg-type]
        percentile=np.float32(99.0),  # type: ignore[arg-type]
        delay_steps=np.int32(1),
    )
    assert agent.report is not None
    assert agent.report.calibration == FEW


def test_weights_that_are_nan_are_refused() -> None:
    source = model("dqn")
    source.policy.q_net.q_net[2].weight.data[0, 0] = np.nan
    with pytest.raises(spikerl.SpikerlError, match=r"q_net\.q_net\.2.*NaN"):
        spikerl.convert(source, n_calibration=FEW)


def test_a_dead_layer_is_refused_by_name() -> None:
    source = model("dqn")
    source.policy.q_net.q_net[2].bias.data[:] = -1000.0
    with pytest.raises(ConversionError, match=r"q_net\.q_net\.2: no neuron is active"):
        spikerl.convert(source, n_calibration=FEW)


def test_without_anything_to_calibrate_on_it_says_what_to_pass() -> None:
    with pytest.raises(ConversionError, match=r"pass observations= .* or env="):
        spikerl.convert(model("dqn").policy)


def test_an_environment_of_other_observations_is_refused() -> None:
    with pytest.raises(ConversionError, match="have shape"):
        spikerl.convert(model("dqn"), env="Pendulum-v1")
