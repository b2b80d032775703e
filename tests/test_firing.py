"""fire(): what it makes of tensors whose numbers do not lie row by row."""

from __future__ import annotations

import torch

from spikerl.nn import Surrogate
from spikerl.nn.firing import fire


def test_potentials_and_their_gradients_may_lie_in_columns() -> None:
    current, weights = torch.randn(7, 8, 6), torch.randn(8, 6)
    rules = {"sim_steps": 7, "zero": False, "surrogate": Surrogate()}
    found = []
    for start in (torch.zeros(8, 6, requires_grad=True), torch.zeros(6, 8, requires_grad=True).t()):
        for used in (1, 2):  # counts, potentials
            made = fire(current, start, torch.full((6,), 0.7), torch.ones(6), **rules)[used]
            for each in (weights, weights.t().contiguous().t()):
                total = (each * made).sum()
                found += torch.autograd.grad(total, [start], retain_graph=True)
    for i, gradient in enumerate(found):
        torch.testing.assert_close(gradient, found[(0, 2)[i % 4 > 1]])
