"""What a layer becomes in Loihi's number formats, and what that is worth in spikerl's.

Imports numpy, connections and network; no simulator. Formats as the Loihi 1 registers have them:

    weight     k * 2 * 2^(6 + e)    k from -127 to 127 for weights of both signs; e shared
    threshold  64 * m               a neuron fires when v > threshold
    bias       m * 2^e              m of 12 bits and sign, e from 0 to 7
    input sum  21 bits and sign     it would wrap around: networks that could are refused
    potential  23 bits and sign     kept above -(2^23 - 1), or above 0

Integers mean multiples of the layer's `unit`. Nothing is rounded while a network without a leak
runs, so what it computes is the neuron contract on the numbers below, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.connections import neuron_bias, synapses
from spikerl.network import AvgPool2d, Conv2d, Dense, FloatArray, Layer

IntArray = NDArray[np.int64]

MANTISSA = 127
BIAS_MANTISSA, BIAS_EXPONENT = 2**12 - 1, 7
THRESHOLD_STEP, THRESHOLD_MANTISSA = 64, 2**17 - 1
SUM_LIMIT = 2**21 - 1
FLOOR = -(2**23 - 1)
SMALLEST_SHIFT, LARGEST_SHIFT = 6, 14  # weights are k * 2^shift: 7 + e for e from -1 to 7
THRESHOLD_AIM = 2.0**16  # 0.1 % steps of the threshold, and a floor 128 thresholds below zero
REST_LIMIT = 62


@dataclass(frozen=True, eq=False)
class Table:
    """Synapses between two layers as a list: senders, targets and weights [synapses]."""

    senders: IntArray
    targets: IntArray
    weights: NDArray[np.int64] | FloatArray
    n_in: int
    n_out: int


@dataclass(frozen=True, eq=False)
class Numbers:
    """One layer in integers, or in float32 where unit is None.

    inputs, recurrent: synapses; shift, loop_shift: weights are multiples of 2^shift.
    bias, threshold, start: [n_out]; threshold as the register has it: v > threshold fires.
    floor:    lowest potential.
    unit:     what 1 is worth in units of `asked`.
    asked:    the layer as it was given; effective: as it runs.
    """

    inputs: Table
    recurrent: Table | None
    shift: int
    loop_shift: int
    bias: NDArray[np.int64] | FloatArray
    threshold: NDArray[np.int64] | FloatArray
    start: NDArray[np.int64] | FloatArray
    floor: float
    unit: float | None
    asked: Dense | Conv2d
    effective: Dense | Conv2d


def float_numbers(
    maps: Sequence[Layer], layer: Dense | Conv2d, *, signed: bool = True
) -> tuple[Numbers | None, list[str]]:
    """A layer behind linear maps in float32, where v > threshold is v >= the number above it.

    signed: as in integer_numbers().
    """
    if not signed:
        if (layer.v_init < 0).any():
            return None, [f"v_init of {layer.v_init.min():g}, wanted 0 or more"]
        layer = replace(layer, v_min=max(0.0, layer.v_min or 0.0))

    def kept(value: Any) -> FloatArray:
        return np.asarray(value, dtype=np.float32).astype(np.float64)

    n = layer.n_out
    leak = kept(1 - layer.decay)
    v_min = None if layer.v_min is None else float(np.float32(layer.v_min))
    effective = replace(
        layer,
        weight=kept(layer.weight),
        bias=kept(layer.bias),
        v_threshold=kept(layer.v_threshold),
        v_init=kept(layer.v_init),
        decay=kept(np.float32(1) - leak.astype(np.float32)),
        v_min=v_min,
    )
    loop = None
    if isinstance(effective, Dense) and effective.recurrent is not None:
        effective = replace(effective, recurrent=kept(effective.recurrent))
        loop = table([Dense(effective.recurrent)])
    threshold = np.broadcast_to(effective.v_threshold, (n,)).astype(np.float32)
    made = Numbers(
        inputs=table([*maps, effective]),
        recurrent=loop,
        shift=0,
        loop_shift=0,
        bias=neuron_bias(effective),
        threshold=np.nextafter(threshold, np.float32(-np.inf)).astype(np.float64),
        start=np.broadcast_to(effective.v_init, (n,)),
        floor=-np.inf if v_min is None else v_min,
        unit=None,
        asked=layer,
        effective=effective,
    )
    return made, []


def integer_numbers(
    maps: Sequence[Layer], layer: Dense | Conv2d, *, signed: bool = True
) -> tuple[Numbers | None, list[str]]:
    """A layer behind linear maps in the chip's integers, or every reason why it has none.

    Two units are tried: a power of two, which keeps multiples of one exactly, and the one that
    gives the largest weight the largest mantissa. The smaller squared error of the weights wins.
    Where the sums of a step are too large for both, shorter mantissas are, if they hold the weights
    as well as 8 bits would.
    signed: False keeps potentials above zero, as nengo-loihi's own neurons do.
    """
    pooled = float(np.prod([np.prod(m.kernel_size) for m in maps if isinstance(m, AvgPool2d)]))
    joint = table([*maps, layer])
    largest = float(np.abs(joint.weights).max()) if len(joint.weights) else 0.0
    largest = largest or float(layer.v_threshold.max())
    found: list[str] = []
    best: tuple[float, Numbers] | None = None
    reach = MANTISSA if pooled == 1 else MANTISSA - 4  # sums of rounded weights may be larger
    power = 2.0 ** np.ceil(np.log2(largest / reach))
    fine = float(np.abs(layer.weight).max()) / (2 * MANTISSA) * (1 + 1e-9)
    for worths in ((power, largest / reach), [power * 2.0**n for n in range(1, 7)]):
        for worth in worths:
            made, problems = _fitted(maps, layer, pooled, worth, signed)
            if made is None:
                found = found or problems
                continue
            gap = made.effective.weight - layer.weight
            error = float((gap**2).sum())
            if (best is None or error < best[0]) and (worth <= power or np.abs(gap).max() <= fine):
                best = error, made
        if best is not None:
            return best[1], []
    return None, found


def _fitted(
    maps: Sequence[Layer], layer: Dense | Conv2d, pooled: float, worth: float, signed: bool
) -> tuple[Numbers | None, list[str]]:
    """The layer with mantissas that are worth this each, as large as the registers allow."""
    aim = np.floor(np.log2(THRESHOLD_AIM * worth / float(layer.v_threshold.max())))
    highest = int(np.clip(aim, SMALLEST_SHIFT, LARGEST_SHIFT))
    for shift in range(highest, SMALLEST_SHIFT - 1, -1):
        made, problems = _tried(maps, layer, pooled, worth, shift, signed)
        if made is not None:
            return made, []
    return None, problems


def _tried(
    maps: Sequence[Layer],
    layer: Dense | Conv2d,
    pooled: float,
    worth: float,
    shift: int,
    signed: bool,
) -> tuple[Numbers | None, list[str]]:
    """The layer with weights that are multiples of 2^shift, each of which is worth `worth`."""
    unit = worth / 2.0**shift
    problems = []
    # A synapse through a pool carries the sum of its windows' weights, each over the pool's size.
    mantissas = np.rint(layer.weight / (pooled * worth))
    inputs = _shifted(table([*maps, _with_weight(layer, mantissas * pooled)]), shift)
    loop, loop_shift, recurrent = None, shift, layer.recurrent_weight
    if recurrent is not None:
        top = float(np.abs(recurrent).max()) / unit
        loop_shift = max(SMALLEST_SHIFT, int(np.ceil(np.log2(max(top, 1) / MANTISSA))))
        loops = np.rint(recurrent / (unit * 2.0**loop_shift))
        loop = _shifted(table([Dense(loops)]), loop_shift)
        recurrent = loops * (unit * 2.0**loop_shift)
    for name, one, by in (("weight", inputs, shift), ("recurrent", loop, loop_shift)):
        if one is not None and len(one.weights):
            top = float(np.abs(one.weights).max()) / 2.0**by
            if top > MANTISSA or by > LARGEST_SHIFT:
                problems.append(f"{name}: mantissa {top:g} times 2^{by}, at most 127 times 2^14")
    total = _largest_sum(layer.n_out, [one for one in (inputs, loop) if one is not None])
    if total > SUM_LIMIT:
        problems.append(
            f"spikes of one step could add up to {total}, at most {SUM_LIMIT} fit: the weights "
            "differ too much in size, or a neuron has too many of them"
        )
    bias = np.rint(neuron_bias(layer) / unit)
    scale = np.abs(bias) / BIAS_MANTISSA
    exponent = np.ceil(np.log2(np.maximum(scale, 1)))
    bias = np.rint(bias / 2**exponent) * 2**exponent
    if (exponent > BIAS_EXPONENT).any():
        found, most = np.abs(bias).max(), BIAS_MANTISSA * 2**BIAS_EXPONENT
        problems.append(f"a bias of {found:g} where at most {most} fits beside these weights")
    wanted = np.broadcast_to(layer.v_threshold, (layer.n_out,)) / unit
    # The largest register below the threshold: what reaches the threshold asked for fires.
    steps = np.ceil(wanted / THRESHOLD_STEP) - 1
    if (steps < 1).any() or (steps > THRESHOLD_MANTISSA).any():
        problems.append(
            f"thresholds of {wanted.min():g} to {wanted.max():g} where 128 to "
            f"{THRESHOLD_MANTISSA * THRESHOLD_STEP} fit beside these weights"
        )
    floor = FLOOR if signed else 0
    start = np.rint(np.broadcast_to(layer.v_init, (layer.n_out,)) / unit)
    if (start < floor).any() or (start > -FLOOR).any():
        lowest, highest = start.min(), start.max()
        problems.append(f"v_init of {lowest:g} to {highest:g}, wanted {floor} to {-FLOOR}")
    if problems:
        return None, problems
    register = (steps * THRESHOLD_STEP).astype(np.int64)
    effective = replace(
        _with_weight(layer, mantissas * pooled * worth),
        bias=bias[:: layer.n_out // len(layer.bias)] * unit,
        # between the last integer that does not fire and the first that does: no rounding of a
        # sum of floats can take it to the wrong side
        v_threshold=(register + 0.5) * unit,
        v_init=start * unit,
        v_min=floor * unit,
    )
    if recurrent is not None:
        effective = replace(effective, recurrent=recurrent)  # type: ignore[arg-type]
    return (
        Numbers(
            inputs=inputs,
            recurrent=loop,
            shift=shift,
            loop_shift=loop_shift,
            bias=bias.astype(np.int64),
            threshold=register,
            start=start.astype(np.int64),
            floor=floor,
            unit=unit,
            asked=layer,
            effective=effective,
        ),
        [],
    )


def table(layers: Sequence[Layer]) -> Table:
    """The synapses of linear maps one after the other; each pair of neurons occurs once."""
    found = synapses(layers)
    n_in, n_out = layers[0].n_in, layers[-1].n_out
    senders = np.repeat(np.arange(n_in), np.diff(found.starts))
    pairs, place = np.unique(senders * n_out + found.targets, return_inverse=True)
    weights = np.bincount(place, found.weights, minlength=len(pairs))
    return Table(pairs // n_out, pairs % n_out, weights, n_in, n_out)


def _shifted(mantissas: Table, shift: int) -> Table:
    weights = np.rint(mantissas.weights).astype(np.int64) << shift
    return replace(mantissas, weights=weights)


def _with_weight(layer: Dense | Conv2d, weight: FloatArray) -> Dense | Conv2d:
    return replace(layer, weight=weight)


def _largest_sum(n: int, tables: Sequence[Table]) -> int:
    """The largest sum of weights of one sign that one neuron can receive in a step."""
    sums = np.zeros((2, n))
    for one in tables:
        for row, sign in enumerate((1, -1)):
            part = np.maximum(sign * one.weights, 0)
            sums[row] += np.bincount(one.targets, part, minlength=n)
    return int(sums.max())
