"""Budget: how much a network may spike, enforced by gradients alone. Imports torch.

An algorithm of SB3 has a loss of its own that nobody should patch. leash() passes spikes on as they
are and adds to their gradient that of a penalty, as if the penalty stood in the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spikerl.errors import SpikerlError, listed


@dataclass(frozen=True)
class Budget:
    """What is penalised: strength * sum of ((x - most) / most)^2 for every x above its most.

    rate:       most spikes per neuron and step, in the mean of each layer.
    operations: most synaptic operations per decision, all layers together; a spike of the last
                hidden layer counts as one.
    Raises SpikerlError with everything that is wrong.
    """

    rate: float | None = None
    operations: float | None = None
    strength: float = 0.1

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be a number > 0, found {value!r}"
            for name in ("rate", "operations", "strength")
            if (value := getattr(self, name)) is not None and not _positive(value)
        ]
        if self.rate is None and self.operations is None:
            problems.append("neither rate nor operations is limited")
        if problems:
            raise SpikerlError(listed("this budget cannot be", problems))


class Spending:
    """What one pass through a stack has spent, told to the gradients of all its layers."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.operations = 0.0

    def leash(self, spikes: Tensor, counted: Tensor, sim_steps: int, fan_out: float) -> Tensor:
        """The spikes as they are; on the way back their gradient and that of the penalty.

        spikes:  [T, B, N], or the counts [B, N].
        counted: [B, N] spikes of the decision.  fan_out: synapses per neuron.
        """
        rows = len(counted)
        rate = float(counted.mean()) / sim_steps
        self.operations += float(counted.sum()) / rows * fan_out
        per_spike = (rate, 1 / (counted.numel() * sim_steps), fan_out / rows)
        found: Tensor = _apply(spikes, self, per_spike)
        return found

    def gradient(self, rate: float, of_rate: float, of_operations: float) -> float:
        """The derivative of the penalty by one spike."""
        budget, total = self.budget, 0.0
        if budget.rate is not None:
            total += 2 * max(0.0, rate - budget.rate) / budget.rate**2 * of_rate
        if budget.operations is not None:
            over = max(0.0, self.operations - budget.operations)
            total += 2 * over / budget.operations**2 * of_operations
        return budget.strength * total


class _Leash(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spikes: Tensor, spending: Spending, per_spike: Any) -> Tensor:
        ctx.spending, ctx.per_spike = spending, per_spike
        return spikes.view_as(spikes)

    @staticmethod
    def backward(ctx: Any, g_spikes: Tensor) -> tuple[Tensor, None, None]:
        return g_spikes + ctx.spending.gradient(*ctx.per_spike), None, None


_apply: Any = _Leash.apply


def _positive(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < value < float("inf")
