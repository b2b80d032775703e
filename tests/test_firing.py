"""fire(): what it makes of tensors whose numbers do not lie row by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spikerl.nn import Surrogate
from spikerl.nn.firing import fire


@pytest.mark.parametrize("asked", ["counts", "potentials"])
def test_potentials_and_their_gradients_may_lie_in_columns(asked: str) -> None:
    torch.manual_seed(0)
    current, start, weights = torch.randn(7, 8, 6), torch.randn(8, 6), torch.randn(8, 6)
    rules = {"sim_steps": 7, "zero": False, "surrogate": Surrogate()}

    def gradient(start: Tensor, weights: Tensor) -> Tensor:
        start = start.detach().requires_grad_()
        _, counts, v = fire(current, start, torch.full((6,), 0.7), torch.ones(6), **rules)
        total = (weights * (counts if asked == "counts" else v)).sum()
        (found,) = torch.autograd.grad(total, [start])
        return found

    wanted = gradient(start, weights)
    assert wanted.any()
    for turned in (start, in_columns(start)):
        torch.testing.assert_close(gradient(turned, in_columns(weights)), wanted)
        torch.testing.assert_close(gradient(turned, weights), wanted)


def in_columns(tensor: Tensor) -> Tensor:
    """The same numbers, columns one after the other."""
    return tensor.t().contiguous().t()
