"""VecNormalize's statistics, from an object or from its pickle, read without running anything.

A vecnormalize.pkl names the classes of the package it was saved with, which may be the old gym. The
unpickler here builds numpy arrays and scalars; every other class becomes an empty shell.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_wrapper

from spikerl.errors import ConversionError, ConversionWarning
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


Statistics = Mapping[str | None, Normalize]


def agreed_statistics(given: Any, own: Any, env: Any, *, complete: bool = False) -> Statistics:
    """The statistics to normalise with: those given, else those that source and env agree on.

    given:    a VecNormalize or a path the user named, which settles it.
    own:      the source's own, or None.
    env:      what the user passed to collect observations in, perhaps with a VecNormalize in it.
    complete: whether the source is known to have none where own is None.
    Raises ConversionError where the source and env have different ones.
    """
    if given is not None:
        return statistics(given)
    wrapper = unwrap_vec_wrapper(env, VecNormalize) if isinstance(env, VecEnv) else None
    known = own is not None or complete
    mine = {} if own is None else statistics(own)
    theirs = {} if wrapper is None else statistics(wrapper)
    if not theirs:
        return mine
    if known and not _same(mine, theirs):
        found = "others than the policy was trained with" if mine else "the policy has none"
        raise ConversionError(
            f"env= normalises observations with statistics of its own, and {found}: pass "
            "vecnormalize= (a VecNormalize or a saved one) to say which count, or env= without it"
        )
    if not known:
        warnings.warn(
            "observations are normalised with the statistics of env=: the policy has none of its "
            "own",
            ConversionWarning,
            stacklevel=2,
        )
    return theirs


def _same(mine: Statistics, theirs: Statistics) -> bool:
    return set(mine) == set(theirs) and all(
        one.mean.shape == other.mean.shape
        and np.allclose(one.mean, other.mean)
        and np.allclose(one.var, other.var)
        and (one.epsilon, one.clip) == (other.epsilon, other.clip)
        for one, other in ((mine[key], theirs[key]) for key in mine)
    )


def statistics(source: Any) -> Statistics:
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
