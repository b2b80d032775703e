"""Surrogate gradients: what stands for the derivative of the step s = [v >= v_threshold].

Imports errors only. With x = (v - v_threshold) / v_threshold and slope a, ds/dv * v_threshold is

    fast_sigmoid  1 / (1 + a |x|)^2            SuperSpike, Zenke & Ganguli 2018
    arctan        1 / (1 + (pi a x / 2)^2)     Fang et al. 2021, peak brought to 1
    sigmoid       4 f (1 - f), f = 1 / (1 + exp(-a x))
    triangle      max(0, 1 - a |x|)            Esser et al. 2016
    rectangle     1 where a |x| < 1/2          Wu et al. 2018; "piecewise", of a linear ramp

All have the peak 1, so that the size of gradients does not hang on the choice; x counts in
thresholds, so it does not hang on the scale of the potentials either.
"""

from __future__ import annotations

from dataclasses import dataclass

from spikerl.errors import SpikerlError

SLOPES = {"fast_sigmoid": 2.0, "arctan": 2.0, "sigmoid": 4.0, "triangle": 1.0, "rectangle": 1.0}
SURROGATES = tuple(SLOPES)
SAME = {"superspike": "fast_sigmoid", "piecewise": "rectangle"}  # by other names


@dataclass
class Surrogate:
    """One of the functions above; slope may change during training (None: the usual one).

    Raises SpikerlError for an unknown name or a slope that is not positive.
    """

    name: str = "arctan"
    slope: float | None = None

    def __post_init__(self) -> None:
        self.name = SAME.get(self.name, self.name)
        if self.name not in SLOPES:
            raise SpikerlError(
                f"there is no surrogate {self.name!r}; there are {', '.join(SURROGATES)}"
            )
        slope = SLOPES[self.name] if self.slope is None else self.slope
        if isinstance(slope, bool) or not isinstance(slope, (int, float)) or not slope > 0:
            raise SpikerlError(f"the slope of a surrogate must be > 0, found {slope!r}")
        self.slope = float(slope)

    @property
    def code(self) -> int:
        """The number compiled kernels know it by."""
        return SURROGATES.index(self.name)
