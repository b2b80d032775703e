"""norse's neurons: a step at v > v_th, reset at once, the input scaled by the leak."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from spikerl.assembly import Neurons
from spikerl.errors import ConversionError
from spikerl.importers.modules import Modules, fires_at_threshold, imported, numbers, threshold
from spikerl.layers import FloatArray, Shape3
from spikerl.network import SpikingNetwork

HERE = "norse.torch.module"
TWO_STATES = (
    "has a synaptic current besides its potential, which spikerl's neurons have not; "
    "LIFBoxCell and LIBoxCell have none"
)


def from_norse(
    modules: Modules, *, input_shape: Shape3 | None = None, dt_ms: float | None = None
) -> SpikingNetwork:
    """The SpikingNetwork of a sequence of torch layers and norse's neurons.

    modules: a SequentialState or Sequential of Linear, Conv2d, AvgPool2d, Flatten and the neurons
             IAF, IAFCell, LIFBoxCell, each as it is or in Lift; or a list of them in order.
    input_shape: (channels, height, width) where a map comes in.
    dt_ms:   None takes the dt of norse's neurons.
    A LIBoxCell at the end is the read-out; weights at the end become one that sums what they give.
    Raises ConversionError with everything that has no counterpart.
    """
    steps: list[float] = []

    def noted(reader: Any) -> Any:
        def read(module: Any, problems: list[str]) -> Neurons:
            steps.append(float(module.dt))
            neurons: Neurons = reader(module, problems)
            return neurons

        return read

    network = imported(
        "norse",
        modules,
        {
            f"{HERE}.iaf.IAFCell": noted(_integrate),
            f"{HERE}.iaf.IAF": noted(_integrate),
            f"{HERE}.lif_box.LIFBoxCell": noted(_leak),
            f"{HERE}.leaky_integrator_box.LIBoxCell": noted(_readout),
        },
        input_shape=input_shape,
        dt_ms=1.0,
        containers=[f"{HERE}.sequential.SequentialState"],
        unwrap={f"{HERE}.lift.Lift": "lifted_module"},
        refused={
            f"{HERE}.lif.LIFCell": TWO_STATES,
            f"{HERE}.lif.LIF": TWO_STATES,
            f"{HERE}.leaky_integrator.LICell": TWO_STATES,
            f"{HERE}.leaky_integrator.LI": TWO_STATES,
        },
    )
    if dt_ms is None:
        if len(set(steps)) > 1:
            raise ConversionError(
                f"the neurons have different dt, {sorted(set(steps))}: give dt_ms"
            )
        dt_ms = steps[0] * 1000.0 if steps else 1.0
    return SpikingNetwork(network.layers, dt_ms)


def _fires_at_threshold(module: Any, problems: list[str]) -> bool:
    fire = import_module("norse.torch.functional.threshold").threshold
    return fires_at_threshold(lambda v: fire(v, module.p.method, module.p.alpha), problems)


def _integrate(module: Any, problems: list[str]) -> Neurons:
    """Potentials are counted from v_reset, where they start."""
    above = numbers(module.p.v_th) - numbers(module.p.v_reset)
    inclusive = _fires_at_threshold(module, problems)
    return Neurons({"v_threshold": threshold(above, inclusive), "reset": "zero"})


def _leak(module: Any, problems: list[str]) -> Neurons:
    """Potentials are counted from v_leak, where they start and leak to."""
    p = module.p
    rate = _rate(module, problems)
    leak, reset = numbers(p.v_leak), numbers(p.v_reset)
    method = getattr(p.reset_method, "__name__", repr(p.reset_method))
    if method == "reset_value":
        if np.any(reset != leak):
            problems.append(f"has v_reset={reset} and v_leak={leak}, wanted the same")
    elif method == "reset_subtract":
        if leak.any():
            problems.append(f"has v_leak={leak} and subtracts v_th, wanted v_leak=0")
    else:
        problems.append(f"has reset_method={method}, wanted reset_value or reset_subtract")
    fields = {
        "decay": 1.0 - rate,
        "v_threshold": threshold(numbers(p.v_th) - leak, _fires_at_threshold(module, problems)),
        "reset": "zero" if method == "reset_value" else "subtract",
    }
    return Neurons(fields, gain=rate)


def _readout(module: Any, problems: list[str]) -> Neurons:
    rate = _rate(module, problems)
    if numbers(module.p.v_leak).any():
        problems.append("has v_leak != 0, so its potential is not the read-out's")
    return Neurons({"decay": 1.0 - rate, "spiking": False}, gain=rate)


def _rate(module: Any, problems: list[str]) -> FloatArray:
    rate = numbers(module.dt * module.p.tau_mem_inv)
    if (rate <= 0).any() or (rate >= 1).any():
        problems.append(f"has dt * tau_mem_inv = {rate}, wanted more than 0 and less than 1")
    return rate
