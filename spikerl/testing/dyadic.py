"""Random networks and drives of dyadic numbers: every sum is exact in any order, in float32 too.

Weights and drives are multiples of 1/4, biases and starts of 1/8. A leak of 1/2 adds one bit to a
potential per step and 3/4 adds two, so leaky networks run only as long as 24 bits hold them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator

from spikerl.backends.base import Capabilities
from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, FloatArray, Layer, SpikingNetwork

STEPS = {1.0: 32, 0.5: 12, 0.75: 6}  # leak: steps that stay exact
LONG = 64  # steps where single spikes are not compared: rates need time


def steps(c: Capabilities, decay: float = 1.0) -> int:
    """How long a network with this leak is run."""
    return STEPS[decay] if c.exactness in ("potentials", "spikes") else LONG


def sizes(c: Capabilities) -> tuple[int, int, int]:
    """Inputs, neurons per hidden layer and outputs that fit the declared limits."""
    fan_in = c.limits.get("fan_in", 12)
    hidden = min(
        12, fan_in, c.limits.get("neurons_per_layer", 12), c.limits.get("neurons", 27) // 2 - 1
    )
    n_in = min(5, fan_in, c.limits.get("inputs", 5))
    n_out = min(3, max(hidden, 1), c.limits.get("neurons", 27) - 2 * hidden)
    return n_in, max(hidden, 1), max(n_out, 1)


def quarters(rng: Generator, *shape: int, low: int = -4, high: int = 4) -> FloatArray:
    """Multiples of 1/4 between low/4 and high/4."""
    return rng.integers(low, high + 1, shape) / 4.0


def layer(rng: Generator, c: Capabilities, weight: FloatArray, **fields: Any) -> Dense:
    """A Dense layer with everything that may differ per neuron different per neuron."""
    if fields.get("spiking", True):
        fields.setdefault("refractory_steps", c.min_refractory_steps)
    return Dense(weight=weight, **_neuron_fields(rng, c, len(weight), len(weight)), **fields)


def stack(
    rng: Generator,
    c: Capabilities,
    *,
    delays: tuple[int, int] | None = None,
    recurrent: bool = False,
    readout: bool = True,
    **fields: Any,
) -> SpikingNetwork:
    """Two square-able hidden layers and an output, which is a read-out where one can be read."""
    n_in, hidden, n_out = sizes(c)
    first, second = delays or (c.min_delay_steps, c.min_delay_steps)
    loop: dict[str, Any] = {"recurrent": quarters(rng, hidden, hidden, low=-2, high=2)}
    layers = [
        layer(rng, c, quarters(rng, hidden, n_in), delay_steps=first, **fields),
        layer(
            rng,
            c,
            quarters(rng, hidden, hidden),
            delay_steps=second,
            **fields,
            **(loop if recurrent else {}),
        ),
        output(rng, c, quarters(rng, n_out, hidden), readout, **fields),
    ]
    return SpikingNetwork(tuple(layers))


def output(
    rng: Generator, c: Capabilities, weight: FloatArray, readout: bool, **fields: Any
) -> Dense:
    """A last layer: a read-out if its potential is promised and wanted, else one that fires."""
    if readout and c.can_read_out:
        kept = {k: v for k, v in fields.items() if k in ("decay", "v_min", "current_decay")}
        return layer(rng, c, weight, spiking=False, **kept)
    return layer(rng, c, weight, delay_steps=c.min_delay_steps, **fields)


def convolutional(rng: Generator, c: Capabilities, **fields: Any) -> SpikingNetwork:
    """Maps that are neither square nor symmetric, with stride and padding, pooled where allowed."""
    shape = (2, 5, 4)
    conv = Conv2d(
        weight=quarters(rng, 3, 2, 3, 2),
        input_shape=shape,
        stride=(1, 2),
        padding=(1, 1),
        delay_steps=c.min_delay_steps,
        refractory_steps=c.min_refractory_steps,
        **_neuron_fields(rng, c, 3, 3 * 5 * 3),
        **fields,
    )
    layers: list[Layer] = [conv]
    maps = conv.output_shape
    if "AvgPool2d" in c.layers:
        pool = AvgPool2d(maps, (2, 2), (2, 1))
        layers.append(pool)
        maps = pool.output_shape
    if "Flatten" in c.layers:
        layers.append(Flatten(maps))
    _, _, n_out = sizes(c)
    layers.append(output(rng, c, quarters(rng, n_out, int(np.prod(maps))), True, **fields))
    return SpikingNetwork(tuple(layers))


def drive(
    rng: Generator, c: Capabilities, network: SpikingNetwork, sim_steps: int, rows: int = 3
) -> FloatArray:
    """A drive [T, B, n_in] that changes every step: currents where they are taken, else spikes.

    Where only constant currents are taken it is one of those.
    """
    if "current" in c.drive:
        made = quarters(rng, sim_steps, rows, network.n_in, low=-4, high=8)
    elif "constant" in c.drive:
        one = quarters(rng, 1, rows, network.n_in, low=-4, high=8)
        made = np.broadcast_to(one, (sim_steps, *one.shape[1:]))
    else:
        made = spikes(rng, network, sim_steps, rows)
    made.setflags(write=False)  # a back end that works in place on its caller's array is caught
    return made


def spikes(rng: Generator, network: SpikingNetwork, sim_steps: int, rows: int = 3) -> FloatArray:
    """A drive of 0 and 1, of which half are 1."""
    return rng.integers(0, 2, (sim_steps, rows, network.n_in)).astype(np.float64)


def _neuron_fields(rng: Generator, c: Capabilities, n_bias: int, n: int) -> dict[str, Any]:
    # Sums of eighths often meet a threshold exactly. Where only rates are promised that would make
    # the least noise decisive, so thresholds are moved off the eighths.
    aside = 0.0 if c.exactness in ("potentials", "spikes") else 2.0**-6
    return {
        "bias": rng.integers(-2, 5, n_bias) / 8.0 if c.bias else None,
        "v_threshold": rng.integers(2, 6, n) / 4.0 - aside,
        "v_init": rng.integers(-4, 5, n) / 8.0,
    }
