"""The shipped suite on the SpiNNaker back end over a board that computes as the chips do.

Spike for spike, which no board is known to keep: what is tested here is the mapping.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fake_spynnaker import FakeSpynnaker
from test_spinnaker import BOARD

from spikerl.backends.base import Backend, Session, refuse_options, require_runnable
from spikerl.backends.spinnaker import SpinnakerBackend, open_session
from spikerl.network import SpikingNetwork
from spikerl.testing import Check, parametrize_with_checks


class ComputedBoard(SpinnakerBackend):
    """A board in the computer."""

    name = "computed board"
    capabilities = replace(SpinnakerBackend.capabilities, exactness="spikes")

    def compile(
        self,
        network: SpikingNetwork,
        *,
        batch_size: int = 1,
        seed: int | None = None,
        **options: Any,
    ) -> Session:
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options)
        return open_session(network, batch_size, BOARD, lambda: FakeSpynnaker(keep=False))


class Undeclared(SpinnakerBackend):
    """The promises as they are made, on the same board."""

    compile = ComputedBoard.compile


CHANGING = "their drive changes from step to step"
KNOWN = {
    (ComputedBoard.name, check): CHANGING
    for check in (
        "threshold_is_inclusive",
        "one_spike_per_step",
        "inhibition_is_remembered",
        "spikes_arrive_when_due",
        "neurons_hear_themselves_a_step_later",
    )
}


@parametrize_with_checks([ComputedBoard(), Undeclared()], KNOWN)
def test_conformance(backend: Backend, check: Check) -> None:
    check(backend)
