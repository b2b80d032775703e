"""Neuron: which neuron a spiking layer has, in plain strings and numbers. Imports errors only.

The equations are those of spikerl.network. The kinds differ in the leak:

    IF    none, decay = 1
    LIF   a fixed decay = exp(-dt / tau), one number for the layer
    PLIF  a decay that is learned with the weights (Fang et al. 2021), decay = sigmoid(w)
    CLIF  a LIF behind a synaptic current that decays as well (Tang et al. 2020)
    ALIF  a LIF whose spikes lift its threshold for a while (Bellec et al. 2020)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spikerl.errors import SpikerlError, listed
from spikerl.layers import RESETS
from spikerl.nn.surrogates import Surrogate

# 0.75 and a current_decay of 0.5: Tang et al. 2020 (PopSAN)
DECAYS = {"IF": 1.0, "LIF": 0.75, "PLIF": 0.75, "CLIF": 0.75, "ALIF": 0.75}
NEURONS = tuple(DECAYS)
# what only one kind has, and its usual value
_OWN = {
    "current_decay": ("CLIF", 0.5),
    "adaptation": ("ALIF", 0.2),
    "adaptation_decay": ("ALIF", 0.9),
}


@dataclass(frozen=True)
class Neuron:
    """The neuron of a layer and the rules it is trained under.

    kind:         one of NEURONS.  decay: None for the usual one; where PLIF starts.
    current_decay: of a CLIF's synaptic current.
    adaptation, adaptation_decay: how far a spike of an ALIF lifts its threshold, and what is left
                  of that after a step.
    v_threshold:  one number.  v_init: the potential before the first step, one number.
    reset:        "subtract" or "zero".
    delay_steps:  steps until the next layer hears a spike.
    weight_bits:  weights and biases are rounded to so many bits per layer, None for not at all; the
                  gradient passes the rounding as it is (straight through, Bengio et al. 2013).
    mismatch:     relative standard deviation of weights and thresholds from chip to chip. Losses
                  are computed on a chip drawn anew for every rollout, which PPO, A2C and TRPO also
                  act on; predict() and export are as designed.
    surrogate, slope: of the gradient, see spikerl.nn.surrogates.
    detach_reset: the gradient leaves the reset out.
    Raises SpikerlError with everything that is wrong.
    """

    kind: str = "IF"
    decay: float | None = None
    v_threshold: float = 1.0
    v_init: float = 0.5
    reset: str = "subtract"
    delay_steps: int = 0
    weight_bits: int | None = None
    surrogate: str = "arctan"
    slope: float | None = None
    detach_reset: bool = False
    current_decay: float | None = None
    adaptation: float | None = None
    adaptation_decay: float | None = None
    mismatch: float = 0.0

    def __post_init__(self) -> None:
        problems = [*self._problems()]
        if problems:
            raise SpikerlError(listed("this neuron cannot be", problems))

    def _problems(self) -> list[str]:
        found = []
        if self.kind not in DECAYS:
            found.append(
                f"neuron is {self.kind!r}; there are {', '.join(NEURONS)}, and "
                "SpikingJelly's own, such as 'spikingjelly:LIFNode'"
            )
        elif self.kind == "IF" and self.decay not in (None, 1, 1.0):
            found.append(f"an IF neuron has decay 1, found {self.decay!r}; LIF leaks")
        if self.decay is not None and not _between(self.decay, 0.0, 1.0):
            found.append(f"decay must be in (0, 1], found {self.decay!r}")
        if self.kind == "PLIF" and self.decay == 1:
            found.append("PLIF learns its decay and cannot start at 1")
        for name, (kind, _) in _OWN.items():
            value = getattr(self, name)
            if value is not None and self.kind in DECAYS and self.kind != kind:
                found.append(f"{name} belongs to {kind}, the neuron is {self.kind}")
            elif value is not None and not (_between(value, 0.0, 1.0) and value < 1):
                found.append(f"{name} must be in (0, 1), found {value!r}")
        if not _between(self.v_threshold, 0.0, float("inf")):
            found.append(f"v_threshold must be > 0, found {self.v_threshold!r}")
        if not _between(self.v_init, -float("inf"), float("inf")):
            found.append(f"v_init must be a number, found {self.v_init!r}")
        if self.reset not in RESETS:
            found.append(f"reset is {self.reset!r}; wanted one of {', '.join(RESETS)}")
        if not _whole(self.delay_steps, 0):
            found.append(f"delay_steps must be a whole number >= 0, found {self.delay_steps!r}")
        if self.weight_bits is not None and not _whole(self.weight_bits, 2):
            found.append(f"weight_bits must be a whole number >= 2, found {self.weight_bits!r}")
        if self.mismatch != 0 and not _between(self.mismatch, 0.0, 1.0):
            found.append(f"mismatch must be in [0, 1], found {self.mismatch!r}")
        try:
            Surrogate(self.surrogate, self.slope)
        except SpikerlError as error:
            found.append(str(error))
        return found

    def rules(self) -> dict[str, Any]:
        """What a trained network depends on, as set: what is learned from there may differ."""
        names = ("kind", "reset", "delay_steps", "weight_bits")
        numbers = {
            "decay": self.starting_decay,
            "v_threshold": float(self.v_threshold),
            "v_init": float(self.v_init),
        }
        extras = {name: self.extra(name) for name in _OWN}
        return {**{name: getattr(self, name) for name in names}, **numbers, **extras}

    @property
    def starting_decay(self) -> float:
        """The decay, or where it starts."""
        return DECAYS[self.kind] if self.decay is None else float(self.decay)

    def extra(self, name: str) -> float:
        """current_decay, adaptation or adaptation_decay as it is in force; 0 for other kinds."""
        kind, usual = _OWN[name]
        value = getattr(self, name)
        return 0.0 if kind != self.kind else usual if value is None else float(value)


def _between(value: Any, low: float, high: float) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and low < value <= high and value not in (float("inf"), -float("inf"))


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
