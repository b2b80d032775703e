"""Between observations and a policy where no features extractor is named. Imports SB3."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import CombinedExtractor

from spikerl.errors import SpikerlError


def sees_images(space: spaces.Space[Any], kwargs: dict[str, Any]) -> bool:
    """Whether the observations are images, and the keywords of a policy name no extractor."""
    return kwargs.get("features_extractor_class") is None and _image(space, kwargs)


def space_problems(space: spaces.Space[Any]) -> list[str]:
    """What of an observation space SB3 cannot hand to a policy, in its own words or in none."""
    if isinstance(space, spaces.Dict):
        problems = []
        for key, entry in space.spaces.items():
            nested = isinstance(entry, spaces.Dict)
            found = ["a Dict within a Dict"] if nested else _unseen(entry)
            problems += [f"{what} (entry {key!r})" for what in found]
    else:
        problems = _unseen(space)
    wanted = (
        "wanted a Box with an axis at least, Discrete or MultiDiscrete that start at 0, "
        "MultiBinary, or a Dict of these; wrap the environment, as "
        "gymnasium.wrappers.FlattenObservation does"
    )
    return [f"the observations are {what}: {wanted}" for what in problems]


def _unseen(space: spaces.Space[Any]) -> list[str]:
    if isinstance(space, spaces.Box):
        return [] if space.shape else [f"{space} without an axis"]
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        flat = isinstance(space, spaces.Discrete) or space.nvec.ndim == 1
        return [] if flat and not np.any(space.start) else [str(space)]
    return [] if isinstance(space, spaces.MultiBinary) else [str(space)]


def join_entries(space: spaces.Space[Any], kwargs: dict[str, Any]) -> list[str]:
    """Put the extractor that joins a Dict into the keywords, if none is named; what is wrong."""
    if kwargs.get("features_extractor_class") is not None or not isinstance(space, spaces.Dict):
        return []
    kwargs["features_extractor_class"] = CombinedExtractor
    images = [key for key, entry in space.spaces.items() if _image(entry, kwargs)]
    if not images:
        return []
    return [
        f"the entries {', '.join(images)} of the observation are images, which would need layers "
        "of their own before they are joined; only vectors can be joined"
    ]


def check_extractor(extractor: Any, instead: str) -> None:
    """Raise SpikerlError, which says what to use instead, if a features extractor has weights."""
    learned = [] if extractor is None else list(extractor.parameters())
    if learned:
        sizes = sum(int(np.prod(p.shape)) for p in learned)
        raise SpikerlError(
            f"the features extractor {type(extractor).__name__} has {sizes} weights of its own in "
            f"front of the spiking layers: nothing of it would spike; use {instead}"
        )


def _image(space: spaces.Space[Any], kwargs: dict[str, Any]) -> bool:
    # under normalize_images=False they need not be bytes, as SB3 reads it
    return is_image_space(space, normalized_image=not kwargs.get("normalize_images", True))
