"""Gymnasium wrappers: frames as the events of a camera, for one environment and for many.

Imports gymnasium, agent, errors, arguments and endings.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from spikerl.errors import SpikerlError, checked_whole, listed
from spikerl.network import FloatArray
from spikerl.wrappers.arguments import plain
from spikerl.wrappers.endings import last_observations

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
_SOURCES = ("render", "observation")


class _Sensor:
    """The pixels of a few cameras: what each of them last reported, and what it reports next.

    threshold, max_events: as EventCamera has them.
    level: log intensity [B, H, W] that the events so far add up to, None before the first picture.
    """

    def __init__(self, threshold: float, max_events: int, shape: tuple[int, int]) -> None:
        self.threshold, self.most, self.shape = float(threshold), int(max_events), shape
        self.level: FloatArray | None = None
        self.space = spaces.Box(0.0, float(max_events), (2, *shape), np.float32)

    def events(self, pictures: Any, rows: NDArray[np.bool_] | slice) -> NDArray[np.float32]:
        """Events [b, 2, H, W] of the rows that see these pictures [b, h, w] or [b, h, w, C]."""
        assert self.level is not None
        now = self.seen(pictures)
        # A level reached to within rounding counts as reached.
        crossed = np.floor(np.abs(now - self.level[rows]) / self.threshold + 1e-9)
        change = np.copysign(np.minimum(crossed, self.most), now - self.level[rows])
        self.level[rows] += change * self.threshold
        return np.stack([np.maximum(change, 0), np.maximum(-change, 0)], axis=1).astype(np.float32)

    def start(self, pictures: Any, rows: NDArray[np.bool_] | None = None) -> None:
        """Episodes begin with these pictures, in every row or in some."""
        now = self.seen(pictures)
        if rows is None:
            self.level = now
            return
        if self.level is None:
            self.level = np.zeros((len(rows), *self.shape))
        self.level[rows] = now

    def seen(self, pictures: Any) -> FloatArray:
        """Log intensity [b, H, W] of pictures."""
        light = np.asarray(pictures, dtype=np.float64)
        if light.ndim == 4:
            light = light @ np.array(LUMINANCE) if light.shape[3] == 3 else light[..., 0]
        return np.log1p(averaged(light, self.shape))


class EventCamera(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """What an event camera sees: changes of log intensity, [2, H, W] of float32.

    A pixel emits an event for every `threshold` by which its log intensity has moved away from
    where its last event left it (Lichtsteiner et al. 2008); channel 0 counts those upwards, channel
    1 those downwards, since the observation before. The first observation of an episode is empty.

    source:     "render" for frames of render(), which needs render_mode="rgb_array", or
                "observation" for images [H, W], [H, W, 1] or [H, W, 3] of 0..255.
    threshold:  in natural log units; the log is of 1 + intensity.
    shape:      (H, W), frames are averaged down to it; None keeps their size, for which a camera
                that looks at frames resets the environment once, without a seed.
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
            self,
            threshold=plain(threshold),
            shape=plain(shape),
            source=source,
            max_events=plain(max_events),
        )
        gym.ObservationWrapper.__init__(self, env)
        problems = _problems(env, env.observation_space, threshold, shape, source, max_events)
        if problems:
            raise SpikerlError(listed("there is nothing for an event camera to see", problems))
        self._source = source
        if shape is None:
            shape = _size(self, env.observation_space)
        self._sensor = _Sensor(threshold, max_events, (int(shape[0]), int(shape[1])))
        self._begins = True
        self.observation_space = self._sensor.space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._begins = True
        return super().reset(seed=seed, options=options)

    def observation(self, observation: Any) -> NDArray[np.float32]:
        """Events [2, H, W] since the observation before."""
        picture = observation if self._source == "observation" else self.env.render()
        pictures = np.asarray(picture)[None]
        if self._begins:
            self._sensor.start(pictures)
            self._begins = False
        found: NDArray[np.float32] = self._sensor.events(pictures, slice(None))[0]
        return found


class VectorEventCamera(VectorWrapper[Any, Any, Any, Any, Any], RecordConstructorArgs):
    """EventCamera for vector environments: [N, 2, H, W]; the arguments are EventCamera's.

    Autoreset: an episode begins with empty events in every mode. SAME_STEP returns the last
    observation of an episode in info["final_obs"], which becomes events too; with source="render"
    that mode is refused, since its last frame is never drawn. A reset(options={"reset_mask": ...})
    returns the events of the other environments as they were.
    Raises SpikerlError as EventCamera does, and for SAME_STEP with source="render".
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        threshold: float = 0.2,
        shape: tuple[int, int] | None = (84, 84),
        source: str = "render",
        max_events: int = 8,
    ) -> None:
        RecordConstructorArgs.__init__(
            self,
            threshold=plain(threshold),
            shape=plain(shape),
            source=source,
            max_events=plain(max_events),
        )
        VectorWrapper.__init__(self, env)
        problems = _problems(
            env, env.single_observation_space, threshold, shape, source, max_events
        )
        # An environment without the entry is of gymnasium 1.0, where all reset in the next step.
        self._mode = getattr(self.metadata.get("autoreset_mode"), "name", "NEXT_STEP")
        if self._mode == "SAME_STEP" and source == "render":
            problems.append(
                "autoreset_mode is SAME_STEP: the last frame of an episode is gone when the "
                "environment has been reset; make it with AutoresetMode.NEXT_STEP, or put "
                "EventCamera around each environment: make_vec(..., wrappers=[EventCamera])"
            )
        if problems:
            raise SpikerlError(listed("there is nothing for an event camera to see", problems))
        self._source = source
        if shape is None:
            shape = _size(self, env.single_observation_space)
        self._sensor = _Sensor(threshold, max_events, (int(shape[0]), int(shape[1])))
        self._over = np.zeros(self.num_envs, dtype=np.bool_)
        self._events = np.zeros((self.num_envs, *self._sensor.space.shape), dtype=np.float32)
        self.single_observation_space = self._sensor.space
        self.observation_space = batch_space(self._sensor.space, self.num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        begins = np.ones(self.num_envs, dtype=np.bool_)
        if options is not None and "reset_mask" in options:
            begins = np.array(options["reset_mask"], dtype=np.bool_)  # the environment takes it out
        observations, infos = self.env.reset(seed=seed, options=options)
        self._sensor.start(self._pictures(observations)[begins], begins)
        self._events[begins] = 0
        self._over &= ~begins
        return self._events.copy(), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        pictures = self._pictures(observations)
        over = np.logical_or(terminations, truncations)
        begins = self._over  # NEXT_STEP: this step was the reset
        if self._mode == "SAME_STEP":
            begins = over
            if "final_obs" in infos:
                last = last_observations(infos, over)
                for i in np.flatnonzero(over):
                    row = np.arange(self.num_envs) == i
                    last[i] = self._sensor.events(np.asarray(last[i])[None], row)[0]
                infos = {**infos, "final_obs": last}
        if begins.any():
            self._sensor.start(pictures[begins], begins)
        self._events = self._sensor.events(pictures, slice(None))
        self._over = over if self._mode == "NEXT_STEP" else np.zeros_like(over)
        return self._events.copy(), rewards, terminations, truncations, infos

    def _pictures(self, observations: Any) -> NDArray[Any]:
        frames = observations if self._source == "observation" else self.env.render()
        return np.asarray(frames)


def averaged(light: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Pictures [b, h, w] as [b, H, W], each pixel the mean of those it stands for.

    Raises SpikerlError for pictures smaller than that.
    """
    for axis, n in enumerate(shape, start=1):
        size = light.shape[axis]
        if size < n:
            raise SpikerlError(f"frames of {light.shape[1:]} cannot be averaged to {shape}")
        if size > n:
            edges = np.linspace(0, size, n + 1).astype(int)
            sums = np.add.reduceat(light, edges[:-1], axis=axis)
            widths = np.diff(edges).astype(np.float64)
            light = sums / (widths[:, None] if axis == 1 else widths)
    return light


def _problems(
    env: Any, space: spaces.Space[Any], threshold: Any, shape: Any, source: Any, max_events: Any
) -> list[str]:
    problems = checked_whole("max_events", max_events)
    number = isinstance(threshold, (int, float, np.number)) and not isinstance(threshold, bool)
    if not (number and np.isfinite(threshold) and threshold > 0):
        problems.append(f"threshold must be > 0, a finite number, found {threshold!r}")
    pair = isinstance(shape, (tuple, list, np.ndarray)) and len(shape) == 2
    if shape is not None and not (pair and not any(checked_whole("", n) for n in shape)):
        problems.append(f"shape is {shape!r}; wanted None or two whole numbers >= 1, (H, W)")
    if source not in _SOURCES:
        problems.append(f"source is {source!r}; wanted 'render' or 'observation'")
    elif source == "render" and env.render_mode != "rgb_array":
        problems.append(
            f"render_mode is {env.render_mode!r}: make the environment with "
            "render_mode='rgb_array', or pass source='observation'"
        )
    elif source == "observation" and not _is_picture(space):
        problems.append(
            f"the observations {space} are no images [H, W], [H, W, 1] or [H, W, 3]; pass "
            "source='render'"
        )
    return problems


def _size(camera: EventCamera | VectorEventCamera, space: spaces.Space[Any]) -> tuple[int, int]:
    """Height and width of what the camera will see.

    A frame can only be drawn after a reset. That has no seed, or every unseeded reset after it
    would be the same; a chance that was seeded before goes on as if it had not been.
    """
    shape: tuple[int, ...] = space.shape or ()
    if camera._source == "render":
        inner: Any = camera.env.unwrapped
        owners = [inner, *(env.unwrapped for env in getattr(inner, "envs", ()))]
        chances = [getattr(owner, "_np_random", None) for owner in owners]
        states = [
            (chance, chance.bit_generator.state)
            for chance in chances
            if isinstance(chance, np.random.Generator)
        ]
        camera.env.reset()
        frames: Any = camera.env.render()
        for chance, state in states:
            chance.bit_generator.state = state
        shape = np.shape(frames if isinstance(camera, EventCamera) else frames[0])
    return int(shape[0]), int(shape[1])


def _is_picture(space: spaces.Space[Any]) -> bool:
    shape = space.shape or ()
    flat = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))
    return isinstance(space, spaces.Box) and flat and bool((space.low >= 0).all())
