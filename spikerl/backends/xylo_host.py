"""What the computer beside a Xylo chip does: numbers into events, membranes into potentials.

Imports numpy and the plan. The session and the dry run share it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spikerl.backends.xylo_core import HIGHEST, LOWEST, MAX_INPUT_EVENTS, IntArray
from spikerl.backends.xylo_plan import EVENT, LIFT, Plan
from spikerl.errors import BackendError
from spikerl.network import FloatArray

Traces = list[list[int]]


def sent(
    plan: Plan, drive: FloatArray, owed: FloatArray, fresh: NDArray[np.bool_]
) -> tuple[IntArray, FloatArray]:
    """Events of every channel for a drive [T, B, n_in]: [T, B, channels], and what is owed then.

    What has been sent is never further than half an event from the sum of the drive.
    owed:  [B, n_in], of earlier drives, in events.  fresh: [B], rows that have just been reset.
    Raises BackendError for more than 15 events in a step, or negative numbers without channels.
    """
    n = drive.shape[2]
    due = np.add.accumulate(drive, axis=0)
    due /= plan.units
    due += owed + 0.5
    whole = np.floor(due).astype(np.int64)
    left = due[-1] - whole[-1] - 0.5
    whole[1:] -= whole[:-1].copy()
    _check_range(plan, whole)
    events = np.zeros((*drive.shape[:2], plan.core.n_in), dtype=np.int64)
    np.maximum(whole, 0, out=events[:, :, :n])
    if plan.signed:
        np.maximum(-whole, 0, out=events[:, :, n : 2 * n])
    if plan.events:
        events[0, fresh, -1] = plan.events
    return events, left


def _check_range(plan: Plan, whole: IntArray) -> None:
    low, high = int(whole.min()), int(whole.max())
    if max(-low, high) > MAX_INPUT_EVENTS:
        found = np.abs(whole).max(axis=(0, 1))
        i = int(found.argmax())
        raise BackendError(
            f"input {i} reaches {found[i] * plan.units[i]:.3g} in a step, its channel sends at "
            f"most {MAX_INPUT_EVENTS} events of {plan.units[i]:.3g}: pass a larger event= (it is "
            f"{EVENT} unless given), or normalise the observations"
        )
    if low < 0 and not plan.signed:
        raise BackendError(
            f"the drive is negative, and {plan.chip.name} has no room for a second channel for "
            f"each of {len(plan.units)} inputs: use an encoder that sends spikes, such as "
            "convert(..., encoder='equidistant'), or fewer observations"
        )


def check_read_out(v: Traces, i: Traces) -> None:
    """Raise BackendError if read-outs saturated, so that what was read is not what arrived.

    v, i: [n][T], after each step, as plain lists, as the simulator gives them.
    """
    # Where a membrane at the upper end stands after its spike; elsewhere it is lower.
    full = HIGHEST - 2 * LIFT
    lost = max(map(max, v)) >= full or min(map(min, v)) <= LOWEST
    half = HIGHEST // 2  # what is left of a synapse that was full
    if lost or max(map(max, i)) >= half or min(map(min, i)) <= -half:
        raise BackendError(
            "a read-out left the range of 16 bits, because hidden neurons fire many times in a "
            "step: divide the weights of the layers before it, or multiply their thresholds"
        )


def potentials(plan: Plan, membranes: FloatArray, taken: IntArray, steps: IntArray) -> FloatArray:
    """Potentials of the last layer in the network's units: [B, n_out].

    membranes: [B, output neurons], after the last step.
    taken:  [B, output neurons], spikes since the last reset.  steps: [B], since then.
    """
    layer = plan.effective.readout
    if layer.spiking:
        return membranes / plan.scales[-1]
    # a lift per step, less the unit per step that a membrane above zero leaks
    lifted = steps[:, None] * (LIFT - 1) + 1
    total = (membranes + 2 * LIFT * taken - lifted) / plan.scales[-1]
    values: FloatArray = total.reshape(len(membranes), -1, layer.n_out).sum(axis=1) + layer.v_init
    return values
