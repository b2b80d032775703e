"""SpikingJelly's neurons: a step at v >= v_threshold, reset at once."""

from __future__ import annotations

from typing import Any

import torch

from spikerl.assembly import Neurons
from spikerl.importers.modules import (
    Modules,
    fires_at_threshold,
    imported,
    numbers,
    scalar,
    threshold,
)
from spikerl.layers import Shape3
from spikerl.network import SpikingNetwork

HERE = "spikingjelly.activation_based"


def from_spikingjelly(
    modules: Modules, *, input_shape: Shape3 | None = None, dt_ms: float = 1.0
) -> SpikingNetwork:
    """The SpikingNetwork of a sequence of SpikingJelly's layers and neurons.

    modules: a Sequential of Linear, Conv2d, AvgPool2d, Flatten, Delay and the neurons IFNode,
             LIFNode, ParametricLIFNode, HalfThresholdIFNode; or a list of them in order.
    input_shape: (channels, height, width) where a map comes in.
    A NonSpikingIFNode or NonSpikingLIFNode at the end is the read-out; weights at the end become
    one that sums what they give. It is read as it is after reset_net().
    Raises ConversionError with everything that has no counterpart.
    """
    return imported(
        "spikingjelly",
        modules,
        {
            f"{HERE}.neuron.integrate_and_fire.IFNode": _integrate,
            f"{HERE}.neuron.integrate_and_fire.SimpleIFNode": _integrate,
            f"{HERE}.neuron.integrate_and_fire.HalfThresholdIFNode": _half,
            f"{HERE}.neuron.lif.LIFNode": _leak,
            f"{HERE}.neuron.lif.SimpleLIFNode": _leak,
            f"{HERE}.neuron.plif.ParametricLIFNode": _learned_leak,
            f"{HERE}.neuron.integrate_and_fire.NonSpikingIFNode": _readout,
            f"{HERE}.neuron.lif.NonSpikingLIFNode": _leaky_readout,
        },
        input_shape=input_shape,
        dt_ms=dt_ms,
        containers=[
            f"{HERE}.layer.container.{name}"
            for name in ("MultiStepContainer", "SeqToANNContainer", "StepModeContainer")
        ],
        aliases={
            f"{HERE}.layer.stateless_wrapper.Linear": "torch.nn.modules.linear.Linear",
            f"{HERE}.layer.stateless_wrapper.Conv2d": "torch.nn.modules.conv.Conv2d",
            f"{HERE}.layer.stateless_wrapper.AvgPool2d": "torch.nn.modules.pooling.AvgPool2d",
            f"{HERE}.layer.stateless_wrapper.Flatten": "torch.nn.modules.flatten.Flatten",
            f"{HERE}.layer.dropout.Dropout": "torch.nn.modules.dropout.Dropout",
            f"{HERE}.layer.dropout.Dropout2d": "torch.nn.modules.dropout.Dropout2d",
        },
        delays={f"{HERE}.layer.misc.Delay": "delay_steps"},
        refused={
            f"{HERE}.layer.bn.BatchNorm2d": "normalises: fold it into the convolution before it",
            f"{HERE}.layer.bn.BatchNorm1d": "normalises: fold it into the weights before it",
        },
    )


def _fields(module: Any, problems: list[str]) -> dict[str, Any]:
    """Threshold and reset: potentials are counted from v_reset, where they start and leak to."""
    inclusive = fires_at_threshold(module.surrogate_function, problems)
    if module.v_reset is None:
        return {"v_threshold": threshold(module.v_threshold, inclusive), "reset": "subtract"}
    above = numbers(module.v_threshold) - module.v_reset
    return {"v_threshold": threshold(above, inclusive), "reset": "zero"}


def _integrate(module: Any, problems: list[str]) -> Neurons:
    return Neurons(_fields(module, problems))


def _half(module: Any, problems: list[str]) -> Neurons:
    half = numbers(module.v_threshold) / 2.0
    return Neurons({**_fields(module, problems), "v_init": half})


def _leak(module: Any, problems: list[str]) -> Neurons:
    rate = 1.0 / numbers(module.tau)
    fields = {**_fields(module, problems), "decay": 1.0 - rate}
    return Neurons(fields, gain=rate if module.decay_input else 1.0)


def _learned_leak(module: Any, problems: list[str]) -> Neurons:
    rate = scalar(torch.sigmoid(module.w.detach()))
    fields = {**_fields(module, problems), "decay": 1.0 - rate}
    return Neurons(fields, gain=rate if module.decay_input else 1.0)


def _readout(module: Any, problems: list[str]) -> Neurons:
    if module.decode not in (None, "last_mem"):
        problems.append(f"has decode={module.decode!r}; a read-out's answer is its last potential")
    return Neurons({"spiking": False})


def _leaky_readout(module: Any, problems: list[str]) -> Neurons:
    _readout(module, problems)
    rate = 1.0 / numbers(module.tau)
    return Neurons({"spiking": False, "decay": 1.0 - rate}, gain=rate)
