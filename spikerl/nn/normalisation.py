"""Batch normalisation of a spiking layer's current, folded into its weights. Imports torch.

y = gain (x - mean) / sqrt(var + 1e-5) + shift for the input current x of a neuron, one mean and one
variance per neuron for all T steps. Where gradients are wanted in training mode (the loss of the
actor, Q(s, a) of DQN) the moments are those of the batch, and move the kept ones; everywhere else
the kept ones stand, and the layer is an ordinary one with other weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikerl.errors import SpikerlError

EPSILON = 1e-5


class BatchNorm(nn.Module):
    """Kept moments move a tenth of the way to those of every batch (Ioffe & Szegedy 2015).

    The kept moments are parameters without gradient, so that SB3's target networks average them as
    they average the weights they belong to; gain and shift start at half a threshold (Xu et al.
    2025), where neurons fire.
    """

    MOMENTUM = 0.1

    def __init__(self, n: int, v_threshold: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((n,), v_threshold / 2))
        self.shift = nn.Parameter(torch.full((n,), v_threshold / 2))
        self.mean = nn.Parameter(torch.zeros(n), requires_grad=False)
        self.var = nn.Parameter(torch.ones(n), requires_grad=False)
        self.gathered: int | None = None

    @property
    def measuring(self) -> bool:
        """Whether the next batch's moments are wanted."""
        return self.gathered is not None or (self.training and torch.is_grad_enabled())

    def gather(self) -> None:
        """From now on, until settle(), the kept moments are those of all batches since."""
        self.gathered = 0

    def settle(self) -> None:
        """Keep the moments as they are."""
        self.gathered = None

    def moments(self, current: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [N] to normalise current [T, B, N] by; the kept ones are updated."""
        rows = current.shape[1]
        if rows < 2:
            raise SpikerlError(
                "batch normalisation wants batches of at least 2 rows to learn from, found 1"
            )
        mean = current.mean(dim=(0, 1))
        var = (current - mean).square().mean(dim=(0, 1))  # half the time of Tensor.var
        with torch.no_grad():
            if self.gathered is not None:
                self._merge(mean, var, rows)
                return self.mean, self.var
            self._move(mean, var, rows)
        return mean, var

    def scaled(self, moments: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Factor and offset [N] of a current; moments: None for the kept ones."""
        mean, var = (self.mean, self.var) if moments is None else moments
        factor = self.gain / torch.sqrt(var + EPSILON)
        return factor, self.shift - mean * factor

    def folded(
        self, weight: Tensor, bias: Tensor | None, moments: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Weight [N, n_in] and bias of the same layer without normalisation."""
        factor, offset = self.scaled(moments)
        bias = offset if bias is None else bias * factor + offset
        return weight * factor[:, None], bias

    def _merge(self, mean: Tensor, var: Tensor, rows: int) -> None:
        """Exact moments of two sets from those of each (Chan et al. 1979)."""
        before = self.gathered or 0
        share = rows / (before + rows)
        away = mean - self.mean
        if before:
            self.var.mul_(1 - share).add_(share * var + share * (1 - share) * away**2)
            self.mean.add_(share * away)
        else:
            self.mean.copy_(mean)
            self.var.copy_(var)
        self.gathered = before + rows

    def _move(self, mean: Tensor, var: Tensor, rows: int) -> None:
        self.mean.lerp_(mean, self.MOMENTUM)
        self.var.lerp_(var, self.MOMENTUM)


class CareBatchNorm(BatchNorm):
    """Confidence-adaptive: kept moments follow a batch as far as it is to be trusted.

    CaRe-BN (Xu et al., arXiv 2509.23791): as a Kalman filter, with the drift of the moments P over
    the last batches against the variance that estimates from a batch of B rows have:

        P_mean <- 0.8 P_mean + 0.2 (m - mean)^2     K = P_mean / (P_mean + v / (B - 1))
        P_var  <- 0.8 P_var  + 0.2 (v - var)^2      K = P_var / (P_var + 2 v^2 / (B - 1))

    and each moment moves by K of its way to the batch's.
    """

    KEPT = 0.8

    def __init__(self, n: int, v_threshold: float = 1.0) -> None:
        super().__init__(n, v_threshold)
        self.register_buffer("drift_mean", torch.zeros(n))
        self.register_buffer("drift_var", torch.zeros(n))

    drift_mean: Tensor
    drift_var: Tensor

    def _move(self, mean: Tensor, var: Tensor, rows: int) -> None:
        for kept, drift, found, doubt in (
            (self.mean, self.drift_mean, mean, var / (rows - 1)),
            (self.var, self.drift_var, var, 2 * var**2 / (rows - 1)),
        ):
            away = found - kept
            drift.lerp_(away**2, 1 - self.KEPT)
            # a neuron whose current is always the same has neither drift nor doubt
            gain = drift / (drift + doubt).clamp(min=torch.finfo(drift.dtype).tiny)
            kept.add_(gain * away)


NORMS: dict[str, type[BatchNorm]] = {"batch": BatchNorm, "care_bn": CareBatchNorm}
