"""snnTorch's neurons: a step at v > threshold, and a reset that comes in the next step.

The next step subtracts the threshold after the leak, so a spike costs threshold, not beta times
threshold: with reset by subtraction there is an echo of -(1 - beta) * threshold one step later.
Reset to zero leaves nothing to leak, and comes to the same as at once; Lapicque and RLeaky lose the
input of that step as well, which is a neuron that rests for one step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spikerl.assembly import Neurons
from spikerl.importers.modules import (
    Modules,
    fires_at_threshold,
    full_name,
    imported,
    numbers,
    threshold,
)
from spikerl.layers import FloatArray, Shape3
from spikerl.network import SpikingNetwork

HERE = "snntorch._neurons"
RESETS = {"_base_sub": "subtract", "_base_zero": "zero", "_base_int": "none"}
TWO_STATES = "has a synaptic current besides its potential, which spikerl's neurons have not"


def from_snntorch(
    modules: Modules, *, input_shape: Shape3 | None = None, dt_ms: float = 1.0
) -> SpikingNetwork:
    """The SpikingNetwork of a sequence of torch layers and snnTorch's neurons.

    modules: a Sequential of Linear, Conv2d, AvgPool2d, Flatten and the neurons Leaky, Lapicque,
             RLeaky; or a list of them, in the order in which a step of forward() goes through them.
    input_shape: (channels, height, width) where a map comes in.
    Neurons at the end with reset_mechanism="none" are the read-out, and mem is their potential;
    weights at the end become one that sums what they give. Potentials of spiking layers differ from
    mem by the reset, which mem shows one step later; the spikes are the same.
    Raises ConversionError with everything that has no counterpart.
    """
    return imported(
        "snntorch",
        modules,
        {
            f"{HERE}.leaky.Leaky": _leaky,
            f"{HERE}.lapicque.Lapicque": _lapicque,
            f"{HERE}.rleaky.RLeaky": _recurrent,
        },
        input_shape=input_shape,
        dt_ms=dt_ms,
        refused={
            f"{HERE}.synaptic.Synaptic": TWO_STATES,
            f"{HERE}.rsynaptic.RSynaptic": TWO_STATES,
            f"{HERE}.alpha.Alpha": TWO_STATES,
        },
    )


def _neurons(
    module: Any, problems: list[str], decay: FloatArray, late_zero: bool, **more: Any
) -> Neurons:
    """Neurons with this leak; late_zero where a reset to zero takes the next input along."""
    if module.inhibition:
        problems.append("has inhibition=True, where neurons of a layer decide together")
    if module.state_quant:
        problems.append("has state_quant, a potential that is rounded")
    if np.any(numbers(module.graded_spikes_factor) != 1):
        problems.append("has a graded_spikes_factor: its spikes are not 1")
    if (decay <= 0).any():
        problems.append("has a potential of which nothing remains from step to step (beta = 0)")
    reset = RESETS.get(module.state_function.__name__, "unknown")
    if reset != module.reset_mechanism:
        problems.append(
            f"has reset_mechanism={module.reset_mechanism!r}, changed after it was made: it still "
            f"resets by {reset!r}"
        )
    if reset == "none":
        return Neurons({"decay": decay, "spiking": False}, **more)
    inclusive = fires_at_threshold(module.spike_grad, problems)
    fields: dict[str, Any] = {
        "decay": decay,
        "v_threshold": threshold(module.threshold, inclusive),
        "reset": reset,
    }
    if reset == "zero":
        if late_zero and getattr(module, "reset_delay", True):
            fields["refractory_steps"] = 1
        return Neurons(fields, **more)
    if not getattr(module, "reset_delay", True):
        problems.append(
            "has reset_delay=False and reset_mechanism='subtract': where more than a threshold "
            "remains, it subtracts before it compares; use reset_delay=True or 'zero'"
        )
    echo = more.pop("echo", 0.0) - (1.0 - decay) * numbers(module.threshold)
    return Neurons(fields, echo=echo, **more)


def _beta(module: Any) -> FloatArray:
    clipped: FloatArray = np.clip(numbers(module.beta), 0.0, 1.0)
    return clipped


def _leaky(module: Any, problems: list[str]) -> Neurons:
    return _neurons(module, problems, _beta(module), late_zero=False)


def _lapicque(module: Any, problems: list[str]) -> Neurons:
    """beta only enters R and C: mem loses time_step / (R C), and gets as much of R times input."""
    r, c, step = (module.R, module.C, module.time_step)
    decay = numbers(1 - step / (r * c))
    return _neurons(module, problems, decay, late_zero=True, gain=numbers(r * (1 / (r * c)) * step))


def _recurrent(module: Any, problems: list[str]) -> Neurons:
    more: dict[str, Any] = {}
    kind = full_name(module.recurrent)
    if kind == "torch.nn.modules.linear.Linear":
        more["loop"] = numbers(module.recurrent.weight)
        if module.recurrent.bias is not None:
            more["bias"] = numbers(module.recurrent.bias)
    elif kind == f"{HERE}.rleaky.RecurrentOneToOne":
        more["echo"] = numbers(module.recurrent.V)
    else:
        problems.append(f"has a {type(module.recurrent).__name__} for its loop, wanted a Linear")
    return _neurons(module, problems, _beta(module), late_zero=True, **more)
