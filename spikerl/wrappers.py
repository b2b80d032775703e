"""Gymnasium wrappers: observations as spike trains, rendered frames as events.

Imports gymnasium and the numpy core; no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from spikerl.agent import checked_whole
from spikerl.encoding import ENCODERS, ConstantCurrent, Encoder
from spikerl.errors import SpikerlError, listed
from spikerl.network import FloatArray
from spikerl.preprocessing import Preprocessing, from_space

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
_OWN_CHANCE = 0x5B1C  # beside the environment's own stream of the same seed


class _Encoding:
    """Observations of one space to trains [T, channels], by an encoder of spikerl.encoding."""

    def __init__(
        self, space: spaces.Space[Any], encoder: str, sim_steps: int, options: Mapping[str, Any]
    ) -> None:
        problems = checked_whole("sim_steps", sim_steps)
        if encoder not in ENCODERS:
            problems.append(f"encoder is {encoder!r}; there are {', '.join(ENCODERS)}")
        if problems:
            raise SpikerlError(listed("observations cannot be encoded like this", problems))
        self.sim_steps = int(sim_steps)
        try:
            self.encoder: Encoder = ENCODERS[encoder](**options)
        except TypeError as error:
            raise SpikerlError(f"encoder_kwargs of {encoder!r}: {error}") from None
        self.preprocessing: Preprocessing = from_space(space)
        n = self.preprocessing.n_outputs()
        shape = (self.sim_steps, self.encoder.n_channels(n))
        low, high = np.zeros(shape[1]), np.ones(shape[1])
        if isinstance(self.encoder, ConstantCurrent):
            low, high = _bounds(space, n)
        bounds = (np.broadcast_to(part.astype(np.float32), shape) for part in (low, high))
        lows, highs = bounds
        self.space = spaces.Box(lows, highs, dtype=np.float32)
        self.rng = np.random.default_rng()

    def seed(self, seed: int | None) -> None:
        """Start the encoder's chance anew; None lets it go on."""
        if seed is not None:
            self.rng = np.random.default_rng([int(seed), _OWN_CHANCE])

    def batch(self, observations: Any) -> NDArray[np.float32]:
        """Trains [B, T, channels] of a batch, or of one observation (B = 1)."""
        rows = self.preprocessing(observations)
        trains: FloatArray = self.encoder.encode(rows, self.sim_steps, self.rng)
        return np.ascontiguousarray(np.swapaxes(trains, 0, 1), dtype=np.float32)


class EncodeObservation(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Observations become spike trains, or currents, [T, channels] of float32.

    encoder:        "constant", "poisson", "equidistant", "latency" or "population".
    sim_steps:      T.
    encoder_kwargs: of the encoder, see spikerl.encoding: scale, signed, n_neurons, ...

    Images are divided by 255, whole numbers become one-hot, Dict entries lie side by side, as
    spikerl.preprocessing has it. reset(seed=...) seeds the encoder's chance as well.
    Raises SpikerlError for an encoder that does not exist, T < 1 or another observation space.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        encoder: str = "poisson",
        sim_steps: int = 16,
        encoder_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, encoder=encoder, sim_steps=sim_steps, encoder_kwargs=encoder_kwargs
        )
        gym.ObservationWrapper.__init__(self, env)
        self._encoding = _Encoding(env.observation_space, encoder, sim_steps, encoder_kwargs or {})
        self.observation_space = self._encoding.space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._encoding.seed(seed)
        return super().reset(seed=seed, options=options)

    def observation(self, observation: Any) -> NDArray[np.float32]:
        """The train [T, channels] of one observation."""
        train: NDArray[np.float32] = self._encoding.batch(observation)[0]
        return train


class VectorEncodeObservation(VectorWrapper[Any, Any, Any, Any, Any], RecordConstructorArgs):
    """EncodeObservation for vector environments, in each of their autoreset modes.

    Encoders keep nothing from step to step, so an environment that was reset needs nothing; where
    it was reset within the step, the last observation in info["final_obs"] is encoded too.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        encoder: str = "poisson",
        sim_steps: int = 16,
        encoder_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, encoder=encoder, sim_steps=sim_steps, encoder_kwargs=encoder_kwargs
        )
        VectorWrapper.__init__(self, env)
        space = env.single_observation_space
        self._encoding = _Encoding(space, encoder, sim_steps, encoder_kwargs or {})
        self.single_observation_space = self._encoding.space
        self.observation_space = batch_space(self._encoding.space, self.num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        first = seed if seed is None or isinstance(seed, (int, np.integer)) else seed[0]
        self._encoding.seed(None if first is None else int(first))
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._encoding.batch(observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        if "final_obs" in infos:
            last = infos["final_obs"].copy()
            for i in np.flatnonzero([one is not None for one in last]):
                last[i] = self._encoding.batch(last[i])[0]
            infos = {**infos, "final_obs": last}
        return self._encoding.batch(observations), rewards, terminations, truncations, infos


class EventCamera(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """What an event camera sees: changes of log intensity, [2, H, W] of float32.

    A pixel emits an event for every `threshold` by which its log intensity has moved away from
    where its last event left it (Lichtsteiner et al. 2008); channel 0 counts those upwards, channel
    1 those downwards, since the observation before. The first observation of an episode is empty.

    source:     "render" for frames of render(), which needs render_mode="rgb_array", or
                "observation" for images [H, W], [H, W, 1] or [H, W, 3] of 0..255.
    threshold:  in natural log units; the log is of 1 + intensity.
    shape:      (H, W), frames are averaged down to it; None keeps their size.
    max_events: per pixel and observation; what is left comes with the next one.
    Raises SpikerlError for an environment that does not render so, or other observations.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        threshold: float = 0.2,
        shape: tuple[int, int] | None = (84, 84),
        source: str = "render",
        max_events: int = 8,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, threshold=threshold, shape=shape, source=source, max_events=max_events
        )
        gym.ObservationWrapper.__init__(self, env)
        problems = checked_whole("max_events", max_events)
        if isinstance(threshold, bool) or not (np.isfinite(threshold) and threshold > 0):
            problems.append(f"threshold must be > 0, found {threshold!r}")
        if source not in ("render", "observation"):
            problems.append(f"source is {source!r}; wanted 'render' or 'observation'")
        elif source == "render" and env.render_mode != "rgb_array":
            problems.append(
                f"render_mode is {env.render_mode!r}: make the environment with "
                "render_mode='rgb_array', or pass source='observation'"
            )
        elif source == "observation" and not _is_picture(env.observation_space):
            problems.append(
                f"the observations {env.observation_space} are no images [H, W], [H, W, 1] or "
                "[H, W, 3]; pass source='render'"
            )
        if problems:
            raise SpikerlError(listed("there is nothing for an event camera to see", problems))
        self._threshold, self._source, self._most = float(threshold), source, int(max_events)
        self._shape = None if shape is None else (int(shape[0]), int(shape[1]))
        self._level: FloatArray | None = None
        if self._shape is None:
            self._shape = self._frame_size()
        self.observation_space = spaces.Box(0.0, float(max_events), (2, *self._shape), np.float32)

    def _frame_size(self) -> tuple[int, int]:
        if self._source == "observation":
            height, width = (self.env.observation_space.shape or ())[:2]
        else:
            self.env.reset(seed=0)
            height, width = np.shape(self.env.render())[:2]  # type: ignore[arg-type]
        return int(height), int(width)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._level = None
        return super().reset(seed=seed, options=options)

    def observation(self, observation: Any) -> NDArray[np.float32]:
        """Events [2, H, W] since the observation before."""
        picture = observation if self._source == "observation" else self.env.render()
        now = np.log1p(self._averaged(np.asarray(picture, dtype=np.float64)))
        if self._level is None:
            self._level = now
        # A level reached to within rounding counts as reached.
        crossed = np.floor(np.abs(now - self._level) / self._threshold + 1e-9)
        events = np.copysign(np.minimum(crossed, self._most), now - self._level)
        self._level = self._level + events * self._threshold
        return np.stack([np.maximum(events, 0), np.maximum(-events, 0)]).astype(np.float32)

    def _averaged(self, picture: FloatArray) -> FloatArray:
        if picture.ndim == 3:
            picture = picture @ np.array(LUMINANCE) if picture.shape[2] == 3 else picture[..., 0]
        assert self._shape is not None
        for axis, n in enumerate(self._shape):
            size = picture.shape[axis]
            if size < n:
                raise SpikerlError(f"frames of {picture.shape} cannot be averaged to {self._shape}")
            if size > n:
                edges = np.linspace(0, size, n + 1).astype(int)
                sums = np.add.reduceat(picture, edges[:-1], axis=axis)
                widths = np.diff(edges).astype(np.float64)
                picture = sums / (widths[:, None] if axis == 0 else widths)
        return picture


def _bounds(space: spaces.Space[Any], n: int) -> tuple[FloatArray, FloatArray]:
    """Bounds of the preprocessed rows: a Box's own, 0 and 1 for all else."""
    if isinstance(space, spaces.Box):
        scale = 1 / 255 if from_space(space).inputs[0].steps else 1.0
        return space.low.reshape(-1) * scale, space.high.reshape(-1) * scale
    if isinstance(space, spaces.Dict):
        lows, highs = zip(*(_bounds(s, -1) for s in space.spaces.values()), strict=True)
        return np.concatenate(lows), np.concatenate(highs)
    n = from_space(space).n_outputs()
    return np.zeros(n), np.ones(n)


def _is_picture(space: spaces.Space[Any]) -> bool:
    shape = space.shape or ()
    flat = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))
    return isinstance(space, spaces.Box) and flat and bool((space.low >= 0).all())
