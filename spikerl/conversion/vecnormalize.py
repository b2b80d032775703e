"""VecNormalize's statistics, from an object or from its pickle, read without running anything.

A vecnormalize.pkl names the classes of the package it was saved with, which may be the old gym. The
unpickler here builds numpy arrays and scalars; every other class becomes an empty shell.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spikerl.errors import ConversionError
from spikerl.preprocessing import Normalize

_NUMPY = {
    "_reconstruct": np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    "scalar": np._core.multiarray.scalar,  # type: ignore[attr-defined]
    "_frombuffer": np._core.numeric._frombuffer,  # type: ignore[attr-defined]
    "ndarray": np.ndarray,
    "dtype": np.dtype,
}


class _Shell:
    """Stands for any class or function the file names: takes whatever it is given, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Shell:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update(part)

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass


class _Statistics(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in _NUMPY:
            return _NUMPY[name]
        return type(name, (_Shell,), {})


def statistics(source: Any) -> dict[str | None, Normalize]:
    """Normalize by Dict key (None for a plain observation); empty if observations are not scaled.

    source: a VecNormalize, or the path of a saved one.
    Raises ConversionError if the file holds no such statistics.
    """
    if isinstance(source, (str, os.PathLike)):
        source = _read(Path(source))
    if not getattr(source, "norm_obs", True):
        return {}
    try:
        rms, epsilon, clip = source.obs_rms, float(source.epsilon), float(source.clip_obs)
        parts: Mapping[Any, Any] = rms if isinstance(rms, dict) else {None: rms}
        keys = getattr(source, "norm_obs_keys", None) or list(parts)
        return {
            key: Normalize(parts[key].mean, parts[key].var, epsilon, clip)
            for key in (keys if isinstance(rms, dict) else [None])
        }
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise ConversionError(
            f"no observation statistics in {type(source).__name__}: {error}; wanted a VecNormalize "
            "or the vecnormalize.pkl it saved"
        ) from error


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _Statistics(file).load()
    except FileNotFoundError:
        raise ConversionError(f"there is no file {path}; wanted a saved VecNormalize") from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise ConversionError(
            f"{path} could not be read as a saved VecNormalize: {type(error).__name__}: {error}"
        ) from error
