"""Encoder, normalisation and read-out of a spiking actor, by name. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

from spikerl.errors import SpikerlError, listed, reasons
from spikerl.nn.budget import Budget
from spikerl.nn.foreign import ForeignNeuron
from spikerl.nn.neurons import Neuron
from spikerl.nn.normalisation import NORMS, BatchNorm
from spikerl.nn.population import PopulationEncoder, PopulationReadout
from spikerl.nn.stack import SpikingMLP, SpikingStack

ENCODERS = ("constant", "population")
READOUTS = ("linear", "population")
# by other names: what a part is called elsewhere, and what it is here
SAME: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "encoder": {"current": ("constant", {})},
    "readout": {"potential": ("linear", {}), "rate": ("population", {"size": 1})},
}


@dataclass(frozen=True)
class Parts:
    """What stands around the hidden layers of an actor, in plain strings and numbers.

    encoder: "constant" (the observation as a current) or "population".
    readout: "linear" (of the last hidden layer: the potential of a neuron that never fires, over
             T) or "population" (of neurons of each value's own).
    norm:    None, "batch" or "care_bn".
    encoder_kwargs, readout_kwargs: of PopulationEncoder and PopulationReadout.
    "current" is "constant" too, "potential" is "linear", and "rate" is a "population" of one neuron
    for each value. Raises SpikerlError for what cannot be.
    """

    encoder: str = "constant"
    encoder_kwargs: Mapping[str, Any] = field(default_factory=dict)
    readout: str = "linear"
    readout_kwargs: Mapping[str, Any] = field(default_factory=dict)
    norm: str | None = None

    def __post_init__(self) -> None:
        problems = []
        for part, others in SAME.items():
            if getattr(self, part) in others and not getattr(self, f"{part}_kwargs"):
                name, arguments = others[getattr(self, part)]
                object.__setattr__(self, part, name)
                object.__setattr__(self, f"{part}_kwargs", arguments)
        for name, known in (("encoder", ENCODERS), ("readout", READOUTS), ("norm", NORMS)):
            given = getattr(self, name)
            if given not in known and not (name == "norm" and given is None):
                problems.append(f"there is no {name} {given!r}; there are {', '.join(known)}")
        for name, plain in (("encoder", "constant"), ("readout", "linear")):
            if getattr(self, name) == plain and getattr(self, f"{name}_kwargs"):
                problems.append(
                    f"{name}_kwargs is {dict(getattr(self, f'{name}_kwargs'))!r}, but "
                    f'{name}="{plain}" takes none; pass {name}="population" too'
                )
        for make in (self.read_out, self._encoder):
            try:
                make(1)
            except SpikerlError as error:
                problems += reasons(error)
        if problems:
            raise SpikerlError(listed("these parts cannot be", problems))

    @property
    def plain(self) -> bool:
        """Whether it is hidden layers with a linear read-out, and nothing else."""
        return (self.encoder, self.readout, self.norm) == ("constant", "linear", None)

    def stack(
        self,
        n_in: int,
        widths: Sequence[int],
        n_values: int,
        sim_steps: int,
        neuron: Neuron | ForeignNeuron,
        budget: Budget | None = None,
    ) -> SpikingStack:
        """The spiking layers between n_in numbers and the read-out of n_values."""
        last = self.read_out(n_values)
        widths = [*widths] if last is None else [*widths, last.weight.numel()]
        norm: type[BatchNorm] | None = None if self.norm is None else NORMS[self.norm]
        return SpikingMLP(
            n_in,
            widths,
            sim_steps=sim_steps,
            neuron=neuron,
            encoder=self._encoder(n_in),
            norm=norm,
            budget=budget,
        )

    def read_out(self, n_values: int) -> PopulationReadout | None:
        """The read-out, or None for a linear one."""
        if self.readout != "population":
            return None
        return _made("readout", PopulationReadout, n_values, self.readout_kwargs)

    def _encoder(self, n_in: int) -> PopulationEncoder | None:
        if self.encoder != "population":
            return None
        return _made("encoder", PopulationEncoder, n_in, self.encoder_kwargs)


Part = TypeVar("Part", bound=nn.Module)


def _made(name: str, kind: type[Part], n: int, arguments: Mapping[str, Any]) -> Part:
    try:
        return kind(n, **arguments)
    except TypeError as error:
        known = [key for key in kind.__init__.__annotations__ if key != "return"][1:]
        raise SpikerlError(f"{name}_kwargs: {error}; there are {', '.join(known)}") from None
