"""SpikingNatureCNN: the convolutional network of Mnih et al. (2015) with neurons that spike.

Beside it, SB3's own for what does not spike. Imports torch and SB3.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import Tensor, nn

from spikerl.errors import SpikerlError
from spikerl.nn.budget import Budget
from spikerl.nn.foreign import neuron_of, spiking_layer
from spikerl.nn.stack import SpikingStack, initialise

KERNELS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # channels, size, stride


class SpikingNatureCNN(BaseFeaturesExtractor):
    """Images [B, C, H, W] as constant current in, spikes per step [B, features_dim] out.

    kernels: (channels, size, stride) of each convolution; small images want small ones.
    Raises SpikerlError for observations that are no images, or too small for the kernels.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        features_dim: int = 512,
        *,
        sim_steps: int = 8,
        neuron: str = "IF",
        neuron_kwargs: Mapping[str, Any] | None = None,
        budget: Budget | None = None,
        kernels: Any = KERNELS,
        normalized_image: bool = False,
    ) -> None:
        if len(observation_space.shape) != 3:
            raise SpikerlError(
                f"SpikingNatureCNN wants images of shape (channels, height, width), found "
                f"{observation_space.shape}"
            )
        super().__init__(observation_space, features_dim)
        rules = neuron_of(neuron, neuron_kwargs or {})
        shape: tuple[int, ...] = observation_space.shape
        layers = []
        for channels, size, stride in kernels:
            if min(shape[1:]) < size:
                raise SpikerlError(
                    f"{observation_space.shape} is read as (channels, height, width) of images: a "
                    f"map of {shape[1]} x {shape[2]} is too small for a kernel of {size} x {size}; "
                    "pass smaller kernels= in features_extractor_kwargs, or FlattenExtractor as "
                    "features_extractor_class for what is no image"
                )
            layers.append(spiking_layer(nn.Conv2d(shape[0], channels, size, stride), rules, shape))
            shape = layers[-1].shape_out
        layers.append(spiking_layer(nn.Linear(prod(shape), features_dim), rules, (prod(shape),)))
        self.stack = SpikingStack(layers, sim_steps, budget=budget)
        initialise(self.stack)

    def forward(self, observations: Tensor) -> Tensor:
        """Spikes per step [B, features_dim]."""
        found: Tensor = self.stack(observations)
        return found


def nature_cnn(
    space: Any,
    features_dim: int = 512,
    *,
    who: str = "the critic",
    remedy: str = "pass share_features_extractor=True or spiking_critic=True",
) -> NatureCNN:
    """SB3's network for images that a SpikingNatureCNN takes as well.

    who, remedy: what it is for, and what to do where it cannot be.
    Raises SpikerlError for images smaller than its kernels, which are not to be set.
    """
    least = 1
    for _, size, stride in reversed(KERNELS):
        least = (least - 1) * stride + size
    if min(space.shape[1:]) < least:
        raise SpikerlError(
            f"{who} sees images through SB3's NatureCNN, which wants {least} x {least} at least, "
            f"found {space.shape[1]} x {space.shape[2]}; {remedy}"
        )
    # which says no more than that they need not be bytes: whether they are is settled already
    return NatureCNN(space, features_dim, normalized_image=True)
