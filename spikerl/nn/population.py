"""Populations: several neurons for one number, on the way in and on the way out. Imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikerl.encoding import SQUASHES, ReceptiveFields
from spikerl.errors import SpikerlError, listed
from spikerl.layers import FloatArray

SPIKES = ("equidistant", "none")
# where the fields lie: for inputs of any size after tanh, and for normalised ones
RANGES = {"tanh": (-1.0, 1.0, 0.05**0.5), "none": (-3.0, 3.0, 0.15**0.5)}


class PopulationEncoder(nn.Module):
    """Gaussian receptive fields whose centres and widths are learned (PopSAN, Tang et al. 2020).

    A field is active by exp(-(x - centre)^2 / (2 width^2)); its gradient passes the spikes as it is
    (straight through).

    n_inputs: numbers per row.  size: fields for each.
    low, high, width: centres are even over [low, high] at the start; None for the published ones:
              -1, 1, sqrt(0.05) after tanh (Xu et al. 2025), else -3, 3, sqrt(0.15).
    squash:   "tanh" takes the tanh of the inputs before, "none" wants them normalised.
    spikes:   "equidistant": activity times T spikes per decision; "none": activity as a current.
    Raises SpikerlError with everything that is wrong.
    """

    def __init__(
        self,
        n_inputs: int,
        size: int = 10,
        low: float | None = None,
        high: float | None = None,
        width: float | None = None,
        squash: str = "tanh",
        spikes: str = "equidistant",
    ) -> None:
        super().__init__()
        usual = RANGES.get(squash if isinstance(squash, str) else "", (0.0, 1.0, 1.0))
        found = (low, high, width)
        start, end, sigma = (
            mine if own is None else own for own, mine in zip(found, usual, strict=True)
        )
        problems = _population_problems(size)
        if squash not in SQUASHES:
            problems.append(f"squash is {squash!r}; there are {', '.join(SQUASHES)}")
        if spikes not in SPIKES:
            problems.append(f"spikes is {spikes!r}; there are {', '.join(SPIKES)}")
        odd = {k: v for k, v in (("low", start), ("high", end), ("width", sigma)) if not _finite(v)}
        problems += [f"{k} must be a finite number, found {v!r}" for k, v in odd.items()]
        if not {"low", "high"} & set(odd) and start >= end:
            problems.append(f"low must be below high, found {start!r} and {end!r}")
        if "width" not in odd and sigma <= 0:
            problems.append(f"width must be > 0, found {sigma!r}")
        if problems:
            raise SpikerlError(listed("this population encoder cannot be", problems))
        self.squash, self.spikes = squash, spikes
        self.centres = nn.Parameter(torch.linspace(start, end, size).repeat(n_inputs, 1))
        # the logarithm, so that no step of an optimiser makes a width negative
        self.log_widths = nn.Parameter(torch.full((n_inputs, size), float(np.log(sigma))))

    @property
    def n_out(self) -> int:
        """Channels of the drive."""
        return self.centres.numel()

    def forward(self, x: Tensor, sim_steps: int) -> Tensor:
        """Drive [T, B, n_out], or [1, B, n_out] for the same at every step, for rows [B, n]."""
        if self.squash == "tanh":
            x = torch.tanh(x)
        away = (x[:, :, None] - self.centres) / torch.exp(self.log_widths)
        activity = torch.exp(-0.5 * away**2).flatten(1)
        if self.spikes == "none":
            return activity[None]
        steps = torch.arange(sim_steps + 1, device=x.device, dtype=x.dtype).reshape(-1, 1, 1)
        spikes = torch.diff(torch.floor(steps * activity.detach() + 0.5), dim=0)
        return spikes + (activity - activity.detach())

    def exact(self, rows: np.ndarray, sim_steps: int) -> FloatArray:
        """The drive in float64, by the very function that a deployed agent's encoder calls.

        [T, B, n_out], or [1, B, n_out] without spikes.
        """
        exact = rows.astype(np.float64)
        drive = self.to_encoder().encode(exact, sim_steps, np.random.default_rng(0))
        return drive if self.spikes != "none" else drive[:1]

    def to_encoder(self) -> ReceptiveFields:
        """The encoder of an agent that does the same."""
        widths = np.exp(_array(self.log_widths))
        rules: Any = {"squash": self.squash, "spikes": self.spikes}
        return ReceptiveFields(_array(self.centres), widths, **rules)


class PopulationReadout(nn.Module):
    """Each value from a population of its own: a linear map of its `size` neurons, and a bias.

    Value i reads the neurons i * size to (i + 1) * size - 1 (PopSAN's decoder).
    """

    def __init__(self, n_values: int, size: int = 10) -> None:
        super().__init__()
        if problems := _population_problems(size):
            raise SpikerlError(listed("this population read-out cannot be", problems))
        self.weight = nn.Parameter(torch.empty(n_values, size))
        self.bias = nn.Parameter(torch.empty(n_values))
        self.initialise()

    def initialise(self, gain: float = 1.0) -> None:
        """Uniform within gain / sqrt(size), as torch starts a linear layer."""
        bound = gain / self.weight.shape[1] ** 0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, rates: Tensor) -> Tensor:
        """Values [B, n_values] for spikes per step [B, n_values * size]."""
        found: Tensor = (rates.reshape(-1, *self.weight.shape) * self.weight).sum(2) + self.bias
        return found

    def dense_weight(self) -> FloatArray:
        """The same map with zeros between populations: [n_values, n_values * size]."""
        n, size = self.weight.shape
        dense = np.zeros((n, n, size))
        dense[np.arange(n), np.arange(n)] = _array(self.weight)
        return dense.reshape(n, n * size)


def _population_problems(size: Any) -> list[str]:
    if isinstance(size, int) and not isinstance(size, bool) and size >= 1:
        return []
    return [f"size must be a whole number of neurons >= 1, found {size!r}"]


def _finite(value: Any) -> bool:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return bool(number and np.isfinite(value))


def _array(tensor: Tensor) -> FloatArray:
    return tensor.detach().cpu().numpy().astype(np.float64)
