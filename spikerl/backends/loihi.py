"""Loihi 1 through nengo-loihi 1.1: a board, its emulator in integers, and the same in floats.

The first layer runs on the host, which turns numbers into spikes; its spikes reach the chip one
step later, those of the chip the next layer and the host one step later. A read-out runs on the
host. What the chip holds of the other layers is in loihi_numbers.py, where it is in loihi_plan.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spikerl.backends.base import (
    Capabilities,
    Session,
    capability_problems,
    refuse_options,
    require_runnable,
    self_tested,
)
from spikerl.backends.loihi_board import BoardSession, board_problems
from spikerl.backends.loihi_plan import Plan, plan
from spikerl.backends.loihi_rates import rate_scaled
from spikerl.backends.loihi_session import EmulatorSession
from spikerl.errors import BackendError, UnsupportedNetwork
from spikerl.network import SpikingNetwork

OPTIONS = ("block_shapes", "membrane", "rate_scales")
CHOICES = {"first_layer": ("host", "chip"), "membrane": ("signed", "positive")}

FLOAT = Capabilities(
    resets=frozenset({"zero"}),
    first_resets=frozenset({"subtract", "zero"}),
    min_delay_steps=1,
    max_delay_steps=1,
    batching="loop",
)
INTEGER = replace(FLOAT, decay=False, v_min=False, weight_bits=8, tolerance=1e-9)
BOARD = replace(
    INTEGER,
    exactness="unverified",
    records=frozenset({"counts", "spikes", "potential"}),
    keeps_state=False,
    partial_reset=False,
    max_sessions=1,
    v_init=0.0,
    hardware=True,
)


class EmulatorBackend:
    """nengo-loihi's emulator: what the chip does in its integers, on the host.

    first_layer: "host", or "chip": all layers are on the chip, and the drive is spikes.
    """

    name = "loihi:emulator"
    declared = INTEGER

    def __init__(self, first_layer: str = "host") -> None:
        _chosen("first_layer", first_layer)
        self.first_layer = first_layer

    @property
    def capabilities(self) -> Capabilities:
        """What it promises; readable without nengo-loihi."""
        if self.first_layer == "chip":
            return replace(self.declared, drive=frozenset({"spikes"}), first_resets=None)
        return self.declared

    def problems(self, network: SpikingNetwork) -> list[str]:
        """Every reason this network cannot run here; empty if it can."""
        return capability_problems(self.capabilities, network) or list(self.plan(network).problems)

    def plan(self, network: SpikingNetwork, **options: Any) -> Plan:
        """What would be where, in which numbers, without building it: its `resources`, `problems`.

        options: as for compile(). Raises BackendError for others, ShapeError for rate_scales.
        """
        refuse_options(self.name, options, OPTIONS)
        membrane = options.get("membrane", "signed")
        _chosen("membrane", membrane)
        if options.get("rate_scales") is not None:
            network = rate_scaled(network, options["rate_scales"])
        return plan(
            network,
            integers=self.declared.weight_bits is not None,
            first_layer=self.first_layer,
            block_shapes=options.get("block_shapes"),
            membrane=membrane,
        )

    def compile(
        self,
        network: SpikingNetwork,
        *,
        batch_size: int = 1,
        seed: int | None = None,
        **options: Any,
    ) -> Session:
        """A session that has no randomness.

        options: block_shapes: {layer number: neurons per core, or (channels, height, width)};
                 membrane: "signed", or "positive" as nengo-loihi's own neurons have it;
                 rate_scales: one factor per spiking layer by which it is to fire more often, which
                 is part of session.network.
        Raises UnsupportedNetwork, with numbers where the network does not fit.
        """
        require_runnable(self, network, batch_size)
        made = self.plan(network, **options)
        if made.problems:
            raise UnsupportedNetwork(self.name, list(made.problems))
        return self._session(made, batch_size)

    def _session(self, made: Plan, batch_size: int) -> Session:
        return self_tested(EmulatorSession(self.name, made, batch_size), self.capabilities)


class FloatBackend(EmulatorBackend):
    """nengo-loihi's emulator in float32: the chip's neurons without its number formats."""

    name = "loihi:float"
    declared = FLOAT


class BoardBackend(EmulatorBackend):
    """A Loihi board: the same integers as in the emulator, so far confirmed by no board."""

    name = "loihi"
    declared = BOARD

    def plan(self, network: SpikingNetwork, **options: Any) -> Plan:
        """As in the emulator; a board has problems of its own."""
        made = super().plan(network, **options)
        return replace(made, problems=(*made.problems, *board_problems(made)))

    def _session(self, made: Plan, batch_size: int) -> Session:
        return BoardSession(self.name, made, batch_size)


def _chosen(name: str, value: Any) -> None:
    if value not in CHOICES[name]:
        raise BackendError(f"{name} is {value!r}, wanted one of {', '.join(CHOICES[name])}")
