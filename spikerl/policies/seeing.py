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
