"""Whether the stack found in a source computes what the source does. Imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spikerl.conversion.sources import Source
from spikerl.conversion.stack import PlainStack
from spikerl.decoding import Binary, Categorical, Gaussian
from spikerl.errors import ConversionError
from spikerl.network import FloatArray
from spikerl.preprocessing import Observation

TOLERANCE = 1e-4  # of the largest value: float32 against float64 in any order of summation


def verify(source: Source, observations: Observation) -> None:
    """Check values and actions of the stack against the source's; raises ConversionError.

    A forward() or predict() of the user's own may do more than its layers show: before them, among
    them or after them.
    """
    stack = source.stack
    theirs, actions = _watched(source, observations)
    ours = stack.values(source.preprocessing(observations))
    tolerance = TOLERANCE * max(1e-3, float(np.abs(ours).max()))
    if theirs.shape != ours.shape or not np.allclose(ours, theirs, rtol=0, atol=tolerance):
        raise ConversionError(
            "the layers found do not reproduce the policy's outputs: its forward() does something "
            "they do not show (a custom feature extractor or network?), so it cannot be converted"
        )
    if actions is not None and not _same_actions(stack, ours, actions, tolerance):
        raise ConversionError(
            "the layers found do not reproduce the policy's actions: predict() makes something "
            "else of its outputs than its class does in Stable-Baselines3, so it cannot be "
            "converted"
        )


def _watched(source: Source, observations: Observation) -> tuple[FloatArray, NDArray[Any] | None]:
    """What the source's output modules give, side by side [B, n], and its actions."""
    seen: dict[nn.Module, FloatArray] = {}

    def watch(module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, torch.Tensor):
            raise ConversionError(
                f"{type(module).__name__}.forward() returns {type(output).__name__}, wanted one "
                "tensor"
            )
        seen[module] = output.detach().cpu().numpy().astype(np.float64)

    stack = source.stack
    hooks = [module.register_forward_hook(watch) for module in stack.outputs]
    try:
        actions = source.act(observations)
    finally:
        for hook in hooks:
            hook.remove()
    if len(seen) < len(stack.outputs):
        raise ConversionError("acting, the policy does not use the layers found in it")
    found = [seen[module] for module in stack.outputs]
    if stack.quantiles:
        found = [values.mean(axis=1) for values in found]
    return np.concatenate(found, axis=1), actions


def _same_actions(
    stack: PlainStack, values: FloatArray, theirs: NDArray[Any], tolerance: float
) -> bool:
    """Whether actions are those of the values, except where two options are equally good."""
    head = stack.head
    ours = head.action(values, True, np.random.default_rng(0))
    if ours.shape != theirs.shape:
        return False
    if isinstance(head, Gaussian):
        reach = np.abs(theirs).max(initial=0.0)
        slope = np.max(head.high - head.low) / 2 if head.squash == "tanh" else 1.0
        return np.allclose(ours, theirs, rtol=0, atol=tolerance * slope + 1e-6 * reach)
    if isinstance(head, Binary):
        return bool(((ours == theirs) | (np.abs(values) <= tolerance)).all())
    assert isinstance(head, Categorical)
    parts = np.split(values, np.cumsum(head.nvec)[:-1], axis=1)
    columns = theirs.reshape(len(values), len(parts)).astype(np.int64)
    if (columns < 0).any() or (columns >= np.array(head.nvec)).any():
        return False
    losses = [
        part.max(axis=1) - np.take_along_axis(part, columns[:, [i]], axis=1)[:, 0]
        for i, part in enumerate(parts)
    ]
    return bool((np.array(losses) <= tolerance).all())
