"""What a spiking memory may see: vectors and Dict observations; the rest is refused when made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from policies import Spaces, box
from sb3_contrib import RecurrentPPO
from small_agents import observations_of
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
)

import spikerl
from spikerl import HardwarePolicy
from spikerl.errors import SpikerlError
from spikerl.policies import SpikingRecurrentPolicy
from spikerl.policies.images import SpikingNatureCNN

IMAGE = spaces.Box(0, 255, (1, 12, 12), np.uint8)
ENTRIES = spaces.Dict(
    {
        "push": box(2),
        "mode": spaces.Discrete(3),
        "lamps": spaces.MultiBinary(2),
        "doors": spaces.MultiDiscrete([2, 3]),
    }
)


def model(seen: spaces.Space[Any], steps: int = 64, **policy_kwargs: Any) -> Any:
    torch.set_num_threads(1)
    kwargs = {"sim_steps": 3, "memory_size": 16, **policy_kwargs}
    made = RecurrentPPO(
        SpikingRecurrentPolicy, Spaces(seen, box(2)), n_steps=32, batch_size=32, seed=0,
        device="cpu", policy_kwargs=kwargs,
    )  # fmt: skip
    return made.learn(steps) if steps else made


def one_of(rows: Any, k: int) -> Any:
    """The k-th observation as a batch of one."""
    if isinstance(rows, dict):
        return {key: part[k : k + 1] for key, part in rows.items()}
    return rows[k : k + 1]


@pytest.mark.parametrize(
    ("seen", "keywords"),
    [
        (ENTRIES, {}),
        (ENTRIES, {"share_features_extractor": False, "enable_critic_lstm": False}),
        (spaces.MultiDiscrete([3, 4]), {}),
        (spaces.Box(-1, 1, (1, 2, 3), np.float32), {}),
        (IMAGE, {"features_extractor_class": FlattenExtractor}),
    ],
    ids=["dict", "dict and an ordinary critic", "choices", "three axes", "pixels as a vector"],
)
def test_what_a_memory_sees_is_deployed_with_its_state(
    seen: spaces.Space[Any], keywords: dict[str, Any], tmp_path: Path
) -> None:
    trained, rows = model(seen, **keywords), observations_of(seen, 200, seed=0)
    joined = isinstance(trained.policy.features_extractor, CombinedExtractor)
    assert joined == isinstance(seen, spaces.Dict)
    agent = spikerl.convert(trained, observations=rows)
    trained.save(tmp_path / "model.zip")
    again = RecurrentPPO.load(tmp_path / "model.zip", device="cpu")
    other = spikerl.convert(again, observations=rows)
    assert other.network.fingerprint() == agent.network.fingerprint()
    theirs: Any = None
    ours: Any = None
    actions = []
    with HardwarePolicy(agent, "reference") as deployed:
        for k in range(60):
            row, start = one_of(rows, k), np.array([k % 15 == 0])
            wanted, theirs = trained.predict(row, theirs, start, True)
            found, ours = deployed.predict(row, ours, start, True)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)
            actions.append(wanted)
    assert len(np.unique(np.concatenate(actions).round(4), axis=0)) > 5


class Learned(BaseFeaturesExtractor):
    """A layer in front of the memory."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space, 6)
        self.layer = torch.nn.Linear(3, 6)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layer(rows)


@pytest.mark.parametrize(
    ("seen", "keywords", "message"),
    [
        (IMAGE, {}, r"images of shape \(1, 12, 12\).*a memory takes vectors and Dict observations"),
        (
            spaces.Box(0, 1, (1, 12, 12), np.float32),
            {"normalize_images": False},
            "the observations are images",
        ),
        (
            spaces.Dict({"eye": IMAGE, "joint": box(2)}),
            {},
            "the entries eye of the observation are images",
        ),
        (box(3), {"n_lstm_layers": 2}, "n_lstm_layers is 2: the memory is one layer of neurons"),
        (
            box(3),
            {"features_extractor_class": Learned},
            "Learned has 24 weights of its own in front of .*use FlattenExtractor, a memory is for",
        ),
        (
            spaces.Box(0, 255, (1, 36, 36), np.uint8),
            {"features_extractor_class": SpikingNatureCNN},
            "SpikingNatureCNN has .* weights of its own",
        ),
    ],
    ids=["image", "image of floats", "image in a dict", "two layers", "learned", "convolutions"],
)
def test_what_a_memory_does_not_see_is_refused_when_it_is_made(
    seen: spaces.Space[Any], keywords: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpikerlError, match=message):
        model(seen, 0, **keywords)
