"""What SB3 did to observations before the network, stored with the agent. Imports numpy, gymnasium.

Preprocessing turns observations as the environment returns them into rows [B, n]: VecNormalize's
statistics, one-hot for Discrete and MultiDiscrete, division by 255, flattening, concatenation of
Dict entries. It also checks what comes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from spikerl.errors import ShapeError, SpikerlError
from spikerl.network import FloatArray

Observation = NDArray[Any] | Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Normalize:
    """clip((x - mean) / sqrt(var + epsilon), -clip, clip): VecNormalize with frozen statistics."""

    mean: Any
    var: Any
    epsilon: float = 1e-8
    clip: float = 10.0

    def __post_init__(self) -> None:
        for name in ("mean", "var"):
            array = np.array(getattr(self, name), dtype=np.float64)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if not (np.isfinite(self.mean).all() and np.isfinite(self.var).all()):
            raise SpikerlError("the normalisation statistics hold NaN or infinite values")
        if not (self.var + self.epsilon > 0).all():
            raise SpikerlError("var + epsilon of the normalisation statistics must be > 0")
        if not self.clip > 0:
            raise SpikerlError(f"the normalisation's clip must be > 0, found {self.clip!r}")

    def __call__(self, x: FloatArray) -> FloatArray:
        """Normalise [B, *shape]."""
        scaled: FloatArray = (x - self.mean) / np.sqrt(self.var + self.epsilon)
        return np.clip(scaled, -self.clip, self.clip)


@dataclass(frozen=True, eq=False)
class OneHot:
    """Whole numbers to indicator vectors, one after the other for several."""

    nvec: tuple[int, ...]

    def __call__(self, x: FloatArray) -> FloatArray:
        """[B] or [B, len(nvec)] -> [B, sum(nvec)]; raises ShapeError for a number out of range."""
        columns = x.reshape(len(x), len(self.nvec)).astype(np.int64)
        if (columns < 0).any() or (columns >= np.array(self.nvec)).any():
            raise ShapeError(f"a discrete observation is outside 0..n-1 with n = {self.nvec}")
        hot = np.zeros((len(x), sum(self.nvec)))
        first = np.cumsum((0, *self.nvec[:-1]))
        hot[np.arange(len(x))[:, None], columns + first] = 1.0
        return hot


@dataclass(frozen=True, eq=False)
class Scale:
    """Multiplication by one factor, such as 1/255 for images."""

    factor: float

    def __call__(self, x: FloatArray) -> FloatArray:
        """Scale [B, *shape]."""
        return x * self.factor


Step = Normalize | OneHot | Scale


@dataclass(frozen=True, eq=False)
class Input:
    """One entry of the observation and what happens to it; key is None outside a Dict."""

    space: spaces.Space[Any]
    steps: tuple[Step, ...] = ()
    key: str | None = None

    def __call__(self, batch: NDArray[Any]) -> FloatArray:
        """[B, *shape] -> [B, n]."""
        x = np.asarray(batch, dtype=np.float64)
        for step in self.steps:
            x = step(x)
        return x.reshape(len(x), -1)


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """Observations as the environment returns them -> rows [B, n] of float64.

    Rows are rounded to float32 as SB3's networks see them, so source and spiking network start from
    the same numbers.
    """

    inputs: tuple[Input, ...]

    def __call__(self, observation: Observation) -> FloatArray:
        """Rows [B, n] of one observation or a batch; raises ShapeError for what cannot be."""
        batch, _ = self.batched(observation)
        return self.rows(batch)

    def problems(self, space: spaces.Space[Any]) -> list[str]:
        """Every reason it does not fit this observation space."""
        entries: Mapping[Any, spaces.Space[Any]] = (
            space.spaces if isinstance(space, spaces.Dict) else {None: space}
        )
        keys = [part.key for part in self.inputs]
        if len(set(keys)) != len(keys) or set(keys) != set(entries):
            return [f"the preprocessing reads {keys}, the observation space has {[*entries]}"]
        found = []
        for part in self.inputs:
            if part.space.shape != entries[part.key].shape:
                found.append(
                    f"the preprocessing reads shape {part.space.shape}, the observation space has "
                    f"{entries[part.key].shape}"
                )
            found += _step_problems(part)
        return found

    def rows(self, batch: Mapping[str | None, NDArray[Any]]) -> FloatArray:
        """Rows [B, n] of what batched() returned."""
        parts = [part(batch[part.key]) for part in self.inputs]
        rows = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        with np.errstate(over="ignore"):  # told below, with the reason
            rows = rows.astype(np.float32).astype(np.float64)
        if not np.isfinite(rows).all():
            raise ShapeError("the observation holds values too large for float32")
        return rows

    def n_outputs(self) -> int:
        """Numbers per row."""
        return sum(_width(part) for part in self.inputs)

    def batched(self, observation: Observation) -> tuple[dict[str | None, NDArray[Any]], bool]:
        """The observation as batches by key, and whether it came as a batch.

        Images with their channels last come out with channels first, as the policy has them.
        Raises ShapeError naming what was found and wanted: another shape, a dtype that is no
        number, NaN or infinite values, Dict entries that are missing or of different length.
        """
        if isinstance(observation, tuple):
            raise ShapeError(
                "the observation is a tuple: env.reset() of Gymnasium returns (observation, info); "
                "pass the observation alone"
            )
        keyed = self.inputs[0].key is not None
        if keyed != isinstance(observation, Mapping):
            raise ShapeError(
                f"the observation is {type(observation).__name__}, wanted "
                + (f"a dict with {self._keys()}" if keyed else "an array")
            )
        found: Mapping[Any, Any] = (
            observation if isinstance(observation, Mapping) else {None: observation}
        )
        if keyed and set(found) != set(self._keys()):
            raise ShapeError(
                f"the observation has keys {sorted(map(str, found))}, wanted {self._keys()}"
            )
        parts = {part.key: _batch(found[part.key], part) for part in self.inputs}
        kinds = {vectorised for _, vectorised in parts.values()}
        lengths = {len(array) for array, _ in parts.values()}
        if len(kinds) > 1 or len(lengths) > 1:
            raise ShapeError("the entries of the dict observation have different batch sizes")
        return {key: array for key, (array, _) in parts.items()}, kinds.pop()

    def normalized(self, observation: Observation) -> Any:
        """The observation as SB3's model.predict wants it: VecNormalize applied, nothing else."""
        batch, _ = self.batched(observation)
        out = {}
        for part in self.inputs:
            x = batch[part.key]
            for step in part.steps:
                if isinstance(step, Normalize):
                    x = step(x.astype(np.float64)).astype(np.float32)
            out[part.key] = x
        return out.get(None, out)

    def without_normalization(self) -> Preprocessing:
        """The same for observations that VecNormalize has been over already.

        Raises SpikerlError where there are no statistics to leave out.
        """
        inputs = tuple(
            replace(part, steps=tuple(s for s in part.steps if not isinstance(s, Normalize)))
            for part in self.inputs
        )
        if all(len(a.steps) == len(b.steps) for a, b in zip(inputs, self.inputs, strict=True)):
            raise SpikerlError(
                "this agent was trained on observations that were not normalised; pass them raw"
            )
        return Preprocessing(inputs)

    def _keys(self) -> list[str]:
        return sorted(str(part.key) for part in self.inputs)


def _width(part: Input) -> int:
    hot = [sum(step.nvec) for step in part.steps if isinstance(step, OneHot)]
    return hot[-1] if hot else prod(part.space.shape or ())


def _options(space: spaces.Space[Any]) -> tuple[int, ...]:
    """Options of each choice of a discrete space; none for another one."""
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(int(n) for n in space.nvec.ravel())
    return ()


def _step_problems(part: Input) -> list[str]:
    found = []
    for step in part.steps:
        if isinstance(step, Normalize):
            if step.mean.shape != part.space.shape or step.var.shape != part.space.shape:
                found.append(
                    f"the normalisation statistics have shapes {step.mean.shape} and "
                    f"{step.var.shape}, the observation space has {part.space.shape}"
                )
        elif isinstance(step, OneHot):
            if step.nvec != _options(part.space):
                found.append(
                    f"one-hot of {step.nvec} does not fit the observation space {part.space}"
                )
            if np.any(getattr(part.space, "start", 0)):
                found.append(f"SB3 reads discrete observations from 0 on, found {part.space}")
    if any(isinstance(step, OneHot) for step in part.steps[:-1]):
        found.append("one-hot must be the last step")
    return found


def _batch(value: Any, part: Input) -> tuple[NDArray[Any], bool]:
    where = f"observation {part.key!r}" if part.key is not None else "the observation"
    if np.ma.is_masked(value):
        raise ShapeError(f"{where} is a masked array: its masked entries have no value")
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different length
        raise ShapeError(f"{where} is no array: {error}") from None
    shape = part.space.shape or ()
    if is_image(part.space) and array.shape[-3:] != shape and array.ndim in (3, 4):
        # As the environment gives it: SB3 puts channels first for the policy (VecTransposeImage).
        first = np.moveaxis(array, -1, -3)
        array = first if first.shape[-3:] == shape else array
    if array.dtype.kind not in "fiub":
        raise ShapeError(f"{where} has dtype {array.dtype}, wanted numbers ({part.space.dtype})")
    if array.shape == shape:
        array, vectorised = array[None], False
    elif array.shape[1:] == shape and array.ndim == len(shape) + 1 and len(array):
        vectorised = True
    else:
        wanted = ", ".join(["n", *map(str, shape)])
        raise ShapeError(
            f"{where} has shape {array.shape}, wanted {shape} for one or ({wanted}) for a batch"
        )
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ShapeError(f"{where} holds NaN or infinite values")
        if not isinstance(part.space, spaces.Box) and (array != np.rint(array)).any():
            raise ShapeError(f"{where} has fractions, wanted whole numbers for {part.space}")
    return array, vectorised


def from_space(
    space: spaces.Space[Any],
    *,
    normalize: Mapping[str | None, Normalize] | None = None,
    scale_images: bool = True,
) -> Preprocessing:
    """The preprocessing SB3 gives this observation space.

    normalize: VecNormalize's statistics by Dict key (None outside a Dict).
    Raises SpikerlError for a space SB3 has no preprocessing for.
    """
    normalize = normalize or {}
    entries: Mapping[Any, spaces.Space[Any]] = (
        space.spaces if isinstance(space, spaces.Dict) else {None: space}
    )
    if stray := [key for key in normalize if key not in entries]:
        wanted = f"those of {', '.join(entries)}" if None not in entries else "those of one array"
        found = ", ".join("one array" if key is None else key for key in stray)
        raise ShapeError(
            f"the normalisation statistics are of {found}, wanted {wanted}: they belong to another "
            "environment"
        )
    inputs = []
    for key, entry in entries.items():
        steps: list[Step] = []
        if key in normalize:
            if normalize[key].mean.shape != entry.shape:
                raise ShapeError(
                    f"the normalisation statistics have shape {normalize[key].mean.shape}, the "
                    f"observation space has {entry.shape}: they belong to another environment"
                )
            steps.append(normalize[key])
        if isinstance(entry, (spaces.Discrete, spaces.MultiDiscrete)):
            steps.append(OneHot(_options(entry)))
        elif isinstance(entry, spaces.Box):
            if scale_images and is_image(entry):
                steps.append(Scale(1.0 / 255.0))
        elif not isinstance(entry, spaces.MultiBinary):
            raise SpikerlError(f"no preprocessing is known for the observation space {entry}")
        inputs.append(Input(entry, tuple(steps), key))
    return Preprocessing(tuple(inputs))


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether SB3 takes a space for an image: a uint8 Box of three axes from 0 to 255."""
    return (
        isinstance(space, spaces.Box)
        and len(space.shape) == 3
        and space.dtype == np.uint8
        and bool((space.low == 0).all() and (space.high == 255).all())
    )
