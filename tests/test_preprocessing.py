"""Preprocessing: what SB3 does to observations before its network, and what is refused."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from spikerl.errors import ShapeError, SpikerlError
from spikerl.preprocessing import Normalize, OneHot, from_space, is_image

BOX = spaces.Box(-10, 10, (3,))
DICT = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})


class Noise(gymnasium.Env[Any, Any]):
    """Random observations of a space, of very different sizes."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space = space
        self.t = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self._observe(), 1.0, self.t == 20, False, {}

    def _observe(self) -> Any:
        def draw(space: Any) -> Any:
            if not isinstance(space, spaces.Box):
                return int(self.np_random.integers(space.n))
            scale = 10.0 ** np.arange(np.prod(space.shape)).reshape(space.shape)
            return (self.np_random.normal(1.0, 2.0, space.shape) * scale).astype(space.dtype)

        if isinstance(self.observation_space, spaces.Dict):
            return {key: draw(space) for key, space in self.observation_space.spaces.items()}
        return draw(self.observation_space)


def normalised(space: spaces.Space[Any], **options: Any) -> tuple[VecNormalize, Any]:
    """A VecNormalize with statistics from 100 steps, and a batch of raw observations."""
    env = VecNormalize(DummyVecEnv([lambda: Noise(space)] * 3), **options)
    env.seed(0)
    env.reset()
    for _ in range(100):
        env.step(np.zeros(3, int))
    env.training = False
    return env, env.get_original_obs()


def test_normalisation_is_vec_normalizes() -> None:
    env, raw = normalised(spaces.Box(-np.inf, np.inf, (4,)), clip_obs=1.5, epsilon=1e-3)
    assert not isinstance(env.obs_rms, dict)
    normal = Normalize(env.obs_rms.mean, env.obs_rms.var, env.epsilon, env.clip_obs)
    preprocessing = from_space(env.observation_space, normalize={None: normal})
    rng = np.random.default_rng(0)
    seen = np.concatenate([raw, rng.normal(size=(200, 4)) * 10.0 ** np.arange(4)])
    seen = seen.astype(np.float32)
    wanted = env.normalize_obs(seen)
    assert wanted.dtype == np.float32
    assert (np.abs(wanted) == np.float32(1.5)).any()  # something was clipped
    rows = preprocessing(seen)
    assert rows.dtype == np.float64
    assert np.array_equal(rows.astype(np.float32), wanted)
    assert np.array_equal(preprocessing.normalized(seen), wanted)
    env.close()


def test_normalisation_of_some_dict_entries_is_vec_normalizes() -> None:
    env, raw = normalised(
        spaces.Dict({"a": spaces.Box(-np.inf, np.inf, (2,)), "b": spaces.Discrete(3)}),
        norm_obs_keys=["a"],
    )
    assert isinstance(env.obs_rms, dict)
    normal = Normalize(env.obs_rms["a"].mean, env.obs_rms["a"].var, env.epsilon, env.clip_obs)
    preprocessing = from_space(env.observation_space, normalize={"a": normal})
    wanted: Any = env.normalize_obs(raw)
    found = preprocessing.normalized(raw)
    assert np.array_equal(found["a"], wanted["a"])
    assert np.array_equal(found["b"], wanted["b"])
    assert np.array_equal(preprocessing(raw)[:, :2].astype(np.float32), wanted["a"])
    env.close()


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2, 3)),
        spaces.Box(0, 255, (1, 4, 5), np.uint8),
        spaces.Discrete(4),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(3),
        spaces.MultiBinary([2, 2]),
        spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Box(-1, 1, (2,))}),
    ],
    ids=str,
)
def test_rows_are_what_sb3_gives_its_networks(space: spaces.Space[Any]) -> None:
    space.seed(0)
    drawn = [space.sample() for _ in range(5)]
    if isinstance(space, spaces.Dict):
        batch: Any = {key: np.stack([one[key] for one in drawn]) for key in space.spaces}
        tensors: Any = {key: torch.as_tensor(value) for key, value in batch.items()}
        wanted: Any = preprocess_obs(tensors, space)
        wanted = torch.cat([wanted[key].flatten(1) for key in space.spaces], dim=1)
    else:
        batch = np.stack(drawn)
        wanted = preprocess_obs(torch.as_tensor(batch), space)
    preprocessing = from_space(space)
    rows = preprocessing(batch)
    assert np.array_equal(rows.astype(np.float32), wanted.flatten(1).float().numpy())
    assert preprocessing.n_outputs() == rows.shape[1]
    one = {k: v[0] for k, v in batch.items()} if isinstance(batch, dict) else batch[0]
    assert np.array_equal(preprocessing(one), rows[:1])


def test_one_hot_by_hand() -> None:
    hot = OneHot((2, 3))
    assert hot(np.array([[1.0, 0.0], [0.0, 2.0]])).tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]
    assert OneHot((3,))(np.array([2.0, 0.0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    for wrong in (-1.0, 3.0):
        with pytest.raises(ShapeError, match=r"outside 0\.\.n-1 with n = \(3,\)"):
            OneHot((3,))(np.array([wrong]))


def test_images_are_divided_by_255_unless_told_otherwise() -> None:
    image = spaces.Box(0, 255, (3, 4, 4), np.uint8)
    assert is_image(image)
    assert not is_image(spaces.Box(0, 255, (3, 4, 4), np.float32))
    assert not is_image(spaces.Box(0, 1, (3, 4, 4), np.uint8))
    assert not is_image(spaces.Box(0, 255, (4, 4), np.uint8))
    white = np.full((3, 4, 4), 255, np.uint8)
    assert (from_space(image)(white) == 1.0).all()
    assert (from_space(image, scale_images=False)(white) == 255.0).all()


def test_rows_are_rounded_to_float32() -> None:
    space = spaces.Box(-10, 10, (1,), np.float64)
    assert from_space(space)(np.array([0.1]))[0, 0] == np.float64(np.float32(0.1))


def test_single_observations_and_batches_are_told_apart() -> None:
    preprocessing = from_space(BOX)
    assert preprocessing.batched(np.zeros(3))[1] is False
    assert preprocessing.batched(np.zeros((1, 3)))[1] is True
    assert from_space(spaces.Discrete(3)).batched(np.int64(2))[1] is False
    assert from_space(spaces.Discrete(3)).batched(np.array([2]))[1] is True
    assert from_space(DICT).batched({"a": np.zeros((2, 2)), "b": [0, 1]})[1] is True


@pytest.mark.parametrize(
    ("space", "observation", "reason"),
    [
        (BOX, np.zeros(2), r"has shape \(2,\), wanted \(3,\) for one or \(n, 3\) for a batch"),
        (BOX, np.zeros((2, 2, 3)), r"has shape \(2, 2, 3\), wanted"),
        (BOX, np.zeros((0, 3)), r"has shape \(0, 3\), wanted"),
        (BOX, np.zeros(3, complex), "has dtype complex128, wanted numbers"),
        (BOX, np.array(["a", "b", "c"]), "has dtype <U1, wanted numbers"),
        (BOX, [[1, 2, 3], [1, 2]], "is no array"),
        (BOX, None, "has dtype object, wanted numbers"),
        (BOX, np.array([0.0, np.nan, 0.0]), "holds NaN or infinite values"),
        (BOX, np.array([0.0, 0.0, -np.inf]), "holds NaN or infinite values"),
        (BOX, np.array([0.0, 0.0, 1e300]), "too large for float32"),
        (BOX, (np.zeros(3), {}), r"is a tuple: env\.reset\(\) of Gymnasium returns \(observation"),
        (BOX, {"a": np.zeros(3)}, "is dict, wanted an array"),
        (DICT, np.zeros(3), r"is ndarray, wanted a dict with \['a', 'b'\]"),
        (DICT, {"a": np.zeros(2)}, r"has keys \['a'\], wanted \['a', 'b'\]"),
        (DICT, {"a": np.zeros(2), "b": 0, 3: 0}, r"has keys \['3', 'a', 'b'\]"),
        (DICT, {"a": np.zeros((2, 2)), "b": [0]}, "different batch sizes"),
        (DICT, {"a": np.zeros(2), "b": [0]}, "different batch sizes"),
        (DICT, {"a": np.zeros(3), "b": 0}, r"observation 'a' has shape \(3,\)"),
        (spaces.Discrete(3), 1.5, "has fractions, wanted whole numbers for Discrete"),
        (spaces.Discrete(3), 3, "outside 0..n-1"),
        (spaces.MultiBinary(2), np.array([0.5, 1.0]), "has fractions"),
    ],
)
def test_observations_that_cannot_be_are_refused(space: Any, observation: Any, reason: str) -> None:
    with pytest.raises(ShapeError, match=reason):
        from_space(space)(observation)


@pytest.mark.parametrize(
    ("space", "key", "message"),
    [
        (spaces.Box(-1, 1, (2,)), "goal", "are of goal, wanted those of one array: they belong"),
        (spaces.Dict(a=spaces.Box(-1, 1, (2,))), None, "are of one array, wanted those of a: they"),
    ],
)
def test_statistics_of_other_entries_are_refused(space: Any, key: Any, message: str) -> None:
    statistics = Normalize(np.zeros(2), np.ones(2))
    with pytest.raises(ShapeError, match=message):
        from_space(space, normalize={key: statistics})


def test_statistics_of_another_environment_are_refused() -> None:
    with pytest.raises(ShapeError, match="belong to another environment"):
        from_space(BOX, normalize={None: Normalize(np.zeros(2), np.ones(2))})


@pytest.mark.parametrize(
    ("mean", "var", "clip", "reason"),
    [
        ([np.nan], [1.0], 10.0, "NaN or infinite"),
        ([0.0], [np.inf], 10.0, "NaN or infinite"),
        ([0.0], [-1.0], 10.0, r"var \+ epsilon .* must be > 0"),
        ([0.0], [1.0], 0.0, "clip must be > 0"),
        ([0.0], [1.0], np.nan, "clip must be > 0"),
    ],
)
def test_statistics_that_cannot_be_are_refused(
    mean: Any, var: Any, clip: float, reason: str
) -> None:
    with pytest.raises(SpikerlError, match=reason):
        Normalize(mean, var, clip=clip)


def test_spaces_sb3_cannot_preprocess_are_refused() -> None:
    with pytest.raises(SpikerlError, match="no preprocessing is known for the observation space"):
        from_space(spaces.Text(3))


def test_a_preprocessing_says_what_does_not_fit_a_space() -> None:
    assert from_space(DICT).problems(DICT) == []
    assert "reads ['a', 'b']" in from_space(DICT).problems(BOX)[0]
    assert "reads shape (3,)" in from_space(BOX).problems(spaces.Box(-1, 1, (2,)))[0]
    shifted = spaces.Discrete(3, start=1)
    assert "from 0 on" in from_space(shifted).problems(shifted)[0]


def test_large_discrete_spaces_need_no_square_matrix() -> None:
    space = spaces.Discrete(200_000)
    assert from_space(space).n_outputs() == 200_000
    assert from_space(space)(199_999).sum() == 1.0
