"""ConversionReport: how faithful a converted network is, measured where it was not calibrated.

Imports statistics only; made by conversion, saved with the agent, printed by the CLI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from spikerl.statistics import Estimate


@dataclass(frozen=True)
class LayerReport:
    """One spiking layer on the held-out observations.

    rate:      spikes per neuron and step.
    saturated: neurons whose source was beyond what a spike at every step stands for, in more than
               1 % of the decisions.
    silent:    neurons that never fired.
    """

    name: str
    neurons: int
    rate: float
    saturated: int
    silent: int


@dataclass(frozen=True)
class GapReport:
    """The source's gaps between its two best actions on the held-out observations, in its values.

    edges:      [bins + 1] of a histogram; what lies beyond them is in the first or the last bin.
    counts:     [bins].
    resolution: mean error the network makes in such a gap: smaller gaps it cannot tell from none.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    resolution: float


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion is worth, on observations it was not calibrated on.

    agreement:    share of decisions equal to the source's; None for continuous actions.
    action_error: mean absolute error in % of the action range; None for discrete actions.
    value_error:  mean absolute error of the values over their standard deviation; None where the
                  decoder gives only their order.
    by_steps:     agreement (or action error) after other numbers of steps.
    target:       what steps_needed aims at: least agreement, or largest action error in %.
    steps_needed: fewest steps tried that met the target, None if none did.
    coarse:       share of decisions whose gap between the two best actions is smaller than the mean
                  error the network makes in such gaps; None where there are no choices.
    held_out, calibration: observations used for each; episodes: held-out episodes, 0 if unknown.
    warnings:     sentences for the user.
    gaps:         what `coarse` is made of; None where it is None.
    """

    sim_steps: int
    agreement: Estimate | None
    action_error: Estimate | None
    value_error: float | None
    by_steps: Mapping[int, Estimate]
    target: float
    steps_needed: int | None
    coarse: float | None
    layers: tuple[LayerReport, ...]
    calibration: int
    held_out: int
    episodes: int
    warnings: tuple[str, ...] = ()
    gaps: GapReport | None = None

    @property
    def faithfulness(self) -> Estimate:
        """The agreement or the action error, whichever the action space has."""
        estimate = self.agreement if self.agreement is not None else self.action_error
        assert estimate is not None  # one of the two is always made
        return estimate

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = asdict(self)
        data["by_steps"] = {str(steps): data["by_steps"][steps] for steps in self.by_steps}
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The report to_dict() described; raises KeyError or TypeError for anything else."""

        def estimate(value: Any) -> Estimate | None:
            return None if value is None else Estimate(**value)

        def gaps(value: Any) -> GapReport | None:
            if value is None:
                return None
            edges, counts = tuple(value["edges"]), tuple(value["counts"])
            return GapReport(**{**value, "edges": edges, "counts": counts})

        by_steps = {int(steps): Estimate(**value) for steps, value in data["by_steps"].items()}
        fields = dict(data)
        fields |= {
            "agreement": estimate(data["agreement"]),
            "action_error": estimate(data["action_error"]),
            "by_steps": by_steps,
            "layers": tuple(LayerReport(**layer) for layer in data["layers"]),
            "warnings": tuple(data["warnings"]),
            "gaps": gaps(data["gaps"]),
        }
        return cls(**fields)

    def __str__(self) -> str:
        continuous = self.agreement is None
        unit, scale = ("action error", 1.0) if continuous else ("agreement", 100.0)

        def shown(e: Estimate) -> str:
            return f"{e.value * scale:.2f} % [{e.low * scale:.2f}, {e.high * scale:.2f}]"

        lines = [
            f"{unit} at T = {self.sim_steps}: {shown(self.faithfulness)} "
            f"({self.held_out} held-out decisions, {self.faithfulness.method})"
        ]
        others = ", ".join(f"T = {t}: {e.value * scale:.1f} %" for t, e in self.by_steps.items())
        lines.append(f"  by steps: {others}")
        goal = f"{self.target:g} % error" if continuous else f"{self.target:.0%}"
        lines.append(
            f"  {goal} needs T = {self.steps_needed}"
            if self.steps_needed
            else f"  {goal} was not reached at the largest T tried"
        )
        lines += [
            f"  {layer.name}: {layer.neurons} neurons, {layer.rate:.3f} spikes per step, "
            f"{layer.saturated} saturated, {layer.silent} silent"
            for layer in self.layers
        ]
        return "\n".join([*lines, *(f"  warning: {text}" for text in self.warnings)])
