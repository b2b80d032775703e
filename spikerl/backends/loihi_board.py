"""A Loihi board through nengo-loihi's hardware interface and Intel's NxSDK.

Written against nengo-loihi's interface and tested against a stand-in of it: no board has confirmed
it. The chip starts with every potential at zero and cannot be put back, so that each decision is
placed on the board anew, which takes seconds.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from spikerl.backends.loihi_chip import built
from spikerl.backends.loihi_plan import Plan
from spikerl.backends.loihi_session import LoihiSession, Spikes
from spikerl.errors import BackendError
from spikerl.network import FloatArray, Recording


def missing() -> str:
    """What this machine lacks to run on a board; "" if nothing is known to. Imports nothing."""
    if find_spec("nxsdk") is not None:
        return ""
    return (
        "NxSDK is not installed: Intel gives it, with access to boards, to members of its "
        "neuromorphic research community; 'loihi:emulator' runs without"
    )


def board_problems(plan: Plan) -> list[str]:
    """What the emulator can start with and a board cannot."""
    return [
        f"layer {layer.layer}: v_init is not 0, but a board starts with every potential at 0; "
        "convert with v_init=0"
        for layer in plan.chip
        if np.any(layer.numbers.start)
    ]


class BoardSession(LoihiSession):
    """Decisions on a board, one row after the other; nothing is kept from one to the next."""

    def __init__(self, backend: str, plan: Plan, batch_size: int) -> None:
        lacking = missing()
        if lacking:
            raise BackendError(f"back end {backend!r} cannot be used here: {lacking}")
        self._chip = built(plan, plan.network.dt_ms)
        for probe in self._chip.probes:
            self._chip.model.add_probe(probe)
        super().__init__(backend, plan, batch_size)

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        self._reset(None)
        return super()._run(drive, record_spikes)

    def _on_chip(self, arriving: Spikes) -> tuple[list[Spikes], list[FloatArray | None]]:
        rows = [self._row(arriving[:, row]) for row in range(arriving.shape[1])]
        together = [np.stack(layer, axis=1) for layer in zip(*rows, strict=True)]
        return together, [None] * len(self.plan.chip)

    def _row(self, arriving: Spikes) -> list[Spikes]:
        """Spikes [T, n] of each layer from a chip that starts anew."""
        from nengo_loihi import hardware

        chips = max(2, self.plan.resources.chips)
        with hardware.HardwareInterface(
            self._chip.model, use_snips=False, seed=0, n_chips=chips
        ) as board:
            # what is put in at step t arrives at step t + 1; at the first step nothing can
            into: list[Any] = [
                (self._chip.entry, t, np.flatnonzero(arriving[t])) for t in range(1, len(arriving))
            ]
            board.host2chip(into, [])
            board.run_steps(len(arriving))
            found = [np.asarray(board.collect_probe_output(p)) for p in self._chip.probes]
        spikes = []
        for layer, output in zip(self.plan.chip, found, strict=True):
            # the probe gives block after block
            order = np.concatenate(layer.blocks)
            one = np.empty((len(arriving), len(order)), dtype=np.bool_)
            one[:, order] = output > 0
            spikes.append(one)
        return spikes

    def _reset_chip(self, rows: Any) -> None:
        """Every decision starts anew."""

    def _close(self) -> None:
        self._chip = None  # type: ignore[assignment]
