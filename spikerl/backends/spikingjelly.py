"""Networks on the layers of SpikingJelly 2: batched, all steps of a layer at once (step mode "m").

In float64 on the CPU; torch and SpikingJelly are imported when a network is compiled. What makes
it exact, as measured on SpikingJelly 2.0:

- IFNode and LIFNode fire at v >= v_threshold; v_reset=None subtracts, v_reset=0.0 resets to zero;
- LIFNode(decay_input=False) computes v - v / tau + input, so tau = 1 / (1 - decay); that is the
  contract's sum bit for bit where 1 - decay is a power of two, and to the last places elsewhere;
- thresholds and time constants may be tensors, one number per neuron, once the node is made;
- a node with an infinite threshold that resets to zero is a read-out.

Of spikingjelly only activation_based.neuron and .layer are used: neither needs torchvision.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.backends.base import (
    Capabilities,
    Session,
    capability_problems,
    refuse_options,
    require_runnable,
    self_tested,
)
from spikerl.network import (
    AvgPool2d,
    Conv2d,
    Dense,
    FloatArray,
    Layer,
    NeuronLayer,
    Recording,
    SpikingNetwork,
)


class SpikingJellyBackend:
    """SpikingJelly's own neurons, for whoever trains with them and wants to see the same spikes."""

    name = "spikingjelly"
    capabilities = Capabilities(recurrent=False, refractory=False, v_min=False)

    def problems(self, network: SpikingNetwork) -> list[str]:
        """Every reason this network cannot run here; empty if it can."""
        return capability_problems(self.capabilities, network)

    def compile(
        self,
        network: SpikingNetwork,
        *,
        batch_size: int = 1,
        seed: int | None = None,
        **options: Any,
    ) -> Session:
        """A session; it has no randomness and no options, so the seed changes nothing."""
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options)
        return self_tested(SpikingJellySession(network, batch_size), self.capabilities)


class SpikingJellySession(Session):
    """A network of SpikingJelly's layers, with the state of every row."""

    def __init__(self, network: SpikingNetwork, batch_size: int) -> None:
        import torch

        self._torch = torch
        self._stages: list[_Stage] = []
        pending: list[Layer] = []
        # Layers draw initial weights when they are made: the user's random numbers stay as they are
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            for layer in network.layers:
                pending.append(layer)
                if isinstance(layer, NeuronLayer):
                    self._stages.append(_Stage(layer, pending, batch_size))
                    pending = []
        super().__init__(SpikingJellyBackend.name, network, batch_size)

    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        torch = self._torch
        sim_steps, rows, _ = drive.shape
        constant = drive.strides[0] == 0
        counts, trains = [], []
        with torch.inference_mode():
            x = torch.tensor(drive[:1] if constant else drive, dtype=torch.float64)
            for k, stage in enumerate(self._stages):
                current = stage.current(x)
                if k == 0 and constant:
                    current = current.expand(sim_steps, -1, -1)
                spikes, x = stage.step(current)
                if stage.spiking:
                    counts.append(spikes.sum(dim=0).to(torch.int64).numpy())
                    if record_spikes:
                        trains.append(spikes.to(torch.bool).numpy())
            potentials = tuple(stage.v[:rows].clone().numpy() for stage in self._stages)
        return Recording(
            counts=tuple(counts),
            potentials=potentials,
            sim_steps=sim_steps,
            spikes=tuple(trains) if record_spikes else None,
        )

    def simulate_alone(self, steps: int) -> None:
        """Send a constant current through SpikingJelly's modules and do nothing else."""
        self._check_open()
        with self._torch.inference_mode():
            x = self._torch.ones((1, self.batch_size, self.network.n_in), dtype=self._torch.float64)
            for stage in self._stages:
                x = stage.fire(stage.current(x).expand(steps, -1, -1))

    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        with self._torch.inference_mode():
            chosen = slice(None) if rows is None else self._torch.tensor(rows)
            for stage in self._stages:
                stage.reset(chosen)

    def _close(self) -> None:
        self._stages = []


class _Stage:
    """One layer of neurons behind the maps that lead to it.

    v:    [batch_size, n] potentials.
    sent: [delay_steps, batch_size, n] spikes on their way, oldest first.
    """

    def __init__(self, layer: NeuronLayer, stack: list[Layer], batch_size: int) -> None:
        import torch
        from spikingjelly.activation_based import layer as layers

        self._maps = [_map(each) for each in stack]
        self._node = _node(layer)
        self._delay = layers.Delay(layer.delay_steps, step_mode="m") if layer.delay_steps else None
        self.spiking = layer.spiking
        shape = (batch_size, layer.n_out)
        self._start = _tensor(layer.v_init)
        self.v = self._start.expand(shape).clone()
        self.sent = torch.zeros((layer.delay_steps, *shape), dtype=torch.float64)

    def current(self, x: Any) -> Any:
        """W x + b of every step: [T, B, n] for what the layer hears, [T, B, n_in]."""
        for shape, module in self._maps:
            x = module(x if shape is None else x.reshape(*x.shape[:2], *shape)).flatten(2)
        return x

    def step(self, current: Any) -> tuple[Any, Any]:
        """All steps of the first rows: the spikes, and what the next layer hears, [T, B, n]."""
        rows = current.shape[1]
        self._node.v = self.v[:rows]
        spikes = self._node(current)
        self.v[:rows] = self._node.v
        if self._delay is None:
            return spikes, spikes
        self._delay.queue = list(self.sent[:, :rows].clone())
        heard = self._delay(spikes)
        for step, sent in zip(self.sent, self._delay.queue, strict=True):
            step[:rows] = sent
        return spikes, heard

    def fire(self, current: Any) -> Any:
        """The spikes of a current [T, B, n], from wherever the node is."""
        return self._node(current)

    def reset(self, rows: Any) -> None:
        """Put these rows back to their first state."""
        self.v[rows] = self._start
        self.sent[:, rows] = 0.0


def _map(layer: Layer) -> tuple[tuple[int, ...] | None, Any]:
    """The linear part of a layer, and the shape of the maps it reads; None for rows."""
    from spikingjelly.activation_based import layer as layers
    from torch.nn import Parameter

    module: Any
    if isinstance(layer, AvgPool2d):
        module = layers.AvgPool2d(layer.kernel_size, layer.steps, step_mode="m")
        return layer.input_shape, module
    if isinstance(layer, Dense):
        shape = None
        module = layers.Linear(layer.n_in, layer.n_out, step_mode="m")
    elif isinstance(layer, Conv2d):
        shape = layer.input_shape
        outs, ins, *kernel = layer.weight.shape
        module = layers.Conv2d(
            ins, outs, kernel, stride=layer.stride, padding=layer.padding, step_mode="m"
        )
    else:
        return None, layers.Flatten(step_mode="m")
    module.weight = Parameter(_tensor(layer.weight), requires_grad=False)
    module.bias = Parameter(_tensor(layer.bias), requires_grad=False)
    return shape, module


def _node(layer: NeuronLayer) -> Any:
    """SpikingJelly's neurons for a layer."""
    from spikingjelly.activation_based import neuron

    reset = None if layer.spiking and layer.reset == "subtract" else 0.0
    if (layer.decay == 1).all():
        node = neuron.IFNode(v_reset=reset, step_mode="m")
    else:
        node = neuron.LIFNode(decay_input=False, v_reset=reset, step_mode="m")
        with np.errstate(divide="ignore"):  # a neuron without leak among others: tau is infinite
            node.tau = _tensor(1.0 / (1.0 - layer.decay))
    node.v_threshold = _tensor(layer.v_threshold) if layer.spiking else float("inf")
    return node


def unmet() -> tuple[str, str] | None:
    """What is wrong with the SpikingJelly that is installed and what to do, if anything is."""
    try:
        found = version("spikingjelly")
    except PackageNotFoundError:
        return None  # a checkout on the path: the self-test judges it
    if found.split(".")[0] == "2":
        return None
    return f"needs spikingjelly 2, found {found}", "install it: pip install 'spikingjelly>=2,<3'"


def _tensor(array: FloatArray) -> Any:
    import torch

    return torch.tensor(np.ascontiguousarray(array), dtype=torch.float64)
