"""How far a student's values are from a teacher's, for each kind of action. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spikerl.decoding import Binary, Categorical, Gaussian, Head
from spikerl.network import FloatArray

Loss = Callable[[Tensor, Tensor], Tensor]

REGRESSION = 0.1  # weight of the values beside that of the choice
OTHERS = 1e-3  # weight of values that decide nothing by themselves


def imitation(head: Head, values: FloatArray) -> Loss:
    """The loss of student values [B, n] against teacher values [B, n], for one action head.

    Choices: cross-entropy of the teacher's action, plus regression of the values less their mean
    over the options (Rusu et al. 2016 use each alone). Both are in units of the teacher's median
    gap between its two best options, because that is the error which changes actions. Continuous:
    squared error of the actions. values [B, n]: of the teacher, for the units.
    """
    if isinstance(head, Categorical):
        parts = list(_parts(head))
        gaps = [_gap(values[:, part]) for part in parts]

        def choice(ours: Tensor, theirs: Tensor) -> Tensor:
            losses = [
                _of_choice(ours[:, part] / gap, theirs[:, part] / gap)
                for part, gap in zip(parts, gaps, strict=True)
            ]
            spread = float(values.std()) or 1.0
            return torch.stack(losses).sum() + OTHERS * _mse(ours / spread, theirs / spread)

        return choice
    if isinstance(head, Binary):
        scale = float(np.median(np.abs(values))) or 1.0
        return lambda ours, theirs: (
            functional.binary_cross_entropy_with_logits(ours / scale, (theirs > 0).to(ours.dtype))
            + REGRESSION * _mse(ours / scale, theirs / scale)
        )
    assert isinstance(head, Gaussian)
    n = head.low.size

    def continuous(ours: Tensor, theirs: Tensor) -> Tensor:
        rest = OTHERS * _mse(ours, theirs)
        if head.squash == "tanh":
            return _mse(torch.tanh(ours[:, :n]), torch.tanh(theirs[:, :n])) + rest
        return _mse(ours[:, :n], theirs[:, :n]) + rest

    return continuous


def _parts(head: Categorical) -> Iterator[slice]:
    start = 0
    for n in head.nvec:
        yield slice(start, start + n)
        start += n


def _gap(values: FloatArray) -> float:
    """The median difference between the best two options; their spread where that is nothing."""
    if values.shape[1] < 2:
        return 1.0
    best = np.sort(values, axis=1)[:, -2:]
    return float(np.median(best[:, 1] - best[:, 0])) or float(values.std()) or 1.0


def _of_choice(ours: Tensor, theirs: Tensor) -> Tensor:
    right = functional.cross_entropy(ours, theirs.argmax(dim=1))
    less_mean = [values - values.mean(dim=1, keepdim=True) for values in (ours, theirs)]
    return right + REGRESSION * _mse(*less_mean)


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return functional.mse_loss(a, b)
