"""Arguments of the wrappers: an environment's spec keeps them as JSON, bad ones are refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv

import spikerl.envs  # noqa: F401  # registers Catch
from spikerl import wrappers
from spikerl.errors import SpikerlError
from spikerl.wrappers import EncodeObservation, EventCamera, KeepEntries, VectorEventCamera


def drawn() -> gym.Env[Any, Any]:
    return gym.make("CartPole-v1", render_mode="rgb_array")


@pytest.mark.parametrize(
    ("wrapper", "options"),
    [
        (EncodeObservation, {}),
        (EncodeObservation, {"sim_steps": np.int64(8)}),
        (EncodeObservation, {"encoder": "equidistant", "encoder_kwargs": {"scale": np.ones(4)}}),
        (
            EncodeObservation,
            {
                "encoder": "population",
                "encoder_kwargs": {
                    "low": np.full(4, -3.0),
                    "high": np.array([3.0, 2.0, 3.0, 2.0], np.float32),
                    "sigma": np.float64(0.2),
                    "n_neurons": np.int32(3),
                },
            },
        ),
        (KeepEntries, {"entries": range(2)}),
        (KeepEntries, {"entries": (2, np.int64(0))}),
        (KeepEntries, {"entries": np.array([3, 1])}),
        (EventCamera, {}),
        (EventCamera, {"shape": np.array([20, 30]), "max_events": np.uint8(3)}),
        (EventCamera, {"shape": None, "threshold": np.float32(0.5)}),
    ],
)
def test_every_spec_becomes_json_and_an_equal_environment(
    wrapper: Any, options: dict[str, Any]
) -> None:
    if wrapper is EventCamera:
        pytest.importorskip("pygame", reason="CartPole draws with pygame")
    env = wrapper(drawn(), **options)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert type(again) is type(env)
    assert again.observation_space == env.observation_space
    assert again.spec == env.spec
    for one, other in zip(played(env), played(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_spec_of_a_camera_that_looks_at_observations_becomes_json() -> None:
    env = EventCamera(gym.make("spikerl/Catch-v0"), source="observation", shape=np.array([20, 20]))
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
    for one, other in zip(played(env), played(again), strict=True):
        np.testing.assert_array_equal(one, other)


def played(env: Any) -> list[Any]:
    return [env.reset(seed=3)[0], *(env.step(i % 2)[0] for i in range(5))]


def test_every_wrapper_of_single_environments_becomes_json() -> None:
    # A new one has to join the test above; RecordSpikes holds a policy, and says so.
    found = [getattr(wrappers, name) for name in wrappers.__all__]
    single = {kind for kind in found if isinstance(kind, type) and issubclass(kind, gym.Wrapper)}
    assert single == {EncodeObservation, EventCamera, KeepEntries, wrappers.RecordSpikes}


@pytest.mark.parametrize(
    "entries", ["ab", "", [], 1, None, [0.0], [True], ["0"], [4], [-1], np.ones((1, 1), int), {0}]
)
def test_entries_that_are_not_there_are_refused(entries: Any) -> None:
    with pytest.raises(SpikerlError, match="wanted some of 0 to 3, in a list") as caught:
        KeepEntries(gym.make("CartPole-v1"), entries)
    assert f"entries is {entries!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": "a"}, r"threshold must be > 0, a finite number, found 'a'"),
        ({"threshold": None}, r"threshold must be > 0, a finite number, found None"),
        ({"threshold": np.nan}, r"threshold must be > 0, a finite number, found nan"),
        ({"shape": 84}, r"shape is 84; wanted None or two whole numbers >= 1"),
        ({"shape": (0, 5)}, r"shape is \(0, 5\); wanted None or two whole numbers >= 1"),
        ({"shape": (5, 2.5)}, r"shape is \(5, 2.5\); wanted"),
        ({"shape": (5, 5, 1)}, r"shape is \(5, 5, 1\); wanted"),
        ({"shape": "84"}, r"shape is '84'; wanted"),
        ({"shape": 84, "threshold": "a"}, r"(?s)found 'a'.*shape is 84"),
    ],
)
def test_bad_arguments_of_an_event_camera_are_refused(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpikerlError, match=message):
        EventCamera(drawn(), **arguments)
    with pytest.raises(SpikerlError, match=message):
        VectorEventCamera(SyncVectorEnv([drawn]), **arguments)
