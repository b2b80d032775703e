"""Networks in torch: batched, on the CPU or a CUDA device, in float64 or float32.

Exact on dyadic networks in both formats: every layer is a plain matrix product (convolutions are
unfolded), because fast convolution algorithms and TF32 round where a product does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spikerl.backends.base import (
    Capabilities,
    Session,
    capability_problems,
    refuse_options,
    require_runnable,
    self_tested,
)
from spikerl.errors import BackendError
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

Map = Callable[[Tensor], Tensor]
DTYPES = {"float64": torch.float64, "float32": torch.float32}


class TorchBackend:
    """Batched simulation in torch; worth its overhead for large batches and on a GPU.

    device: "cpu", "cuda", "cuda:1", ...
    dtype:  "float64" or "float32"; session.network holds the numbers as that format rounds them.
    Both may also be given to compile().
    """

    name = "torch"
    capabilities = Capabilities(current=True, adaptation=True)

    def __init__(self, device: str = "cpu", dtype: str = "float64") -> None:
        self.device = device
        self.dtype = dtype

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
        """A session on a device; it has no randomness, so the seed changes nothing.

        options: device and dtype, as for the class.
        Raises UnsupportedNetwork; BackendError for a device or dtype that cannot be had.
        """
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options, ("device", "dtype"))
        dtype = options.get("dtype", self.dtype)
        if dtype not in DTYPES:
            raise BackendError(f"dtype is {dtype!r}, wanted one of {', '.join(DTYPES)}")
        device = _device(options.get("device", self.device), DTYPES[dtype])
        session = TorchSession(network, batch_size, device, DTYPES[dtype])
        return self_tested(session, self.capabilities)


class TorchSession(Session):
    """A network on a torch device, with its state."""

    @torch.inference_mode()
    def __init__(
        self, network: SpikingNetwork, batch_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        if dtype == torch.float32:
            network = _as_float32(network)
        self._device, self._dtype = device, dtype
        self._cells: list[_Cell] = []
        maps: list[Map] = []
        for layer in network.layers:
            maps.append(linear_map(layer, device, dtype))
            if isinstance(layer, NeuronLayer):
                self._cells.append(_Cell(layer, maps, batch_size, device, dtype))
                maps = []
        super().__init__(TorchBackend.name, network, batch_size)

    @torch.inference_mode()
    def _run(self, drive: FloatArray, record_spikes: bool) -> Recording:
        _refuse_tf32(self._dtype)
        sim_steps, rows, _ = drive.shape
        constant = drive.strides[0] == 0
        x_in = torch.tensor(drive[:1] if constant else drive, dtype=self._dtype).to(self._device)
        current = self._cells[0].current(x_in[0])  # of every step, if the drive is constant

        counts = [
            torch.zeros((rows, layer.n_out), dtype=torch.int64, device=self._device)
            for layer in self.network.spiking_layers
        ]
        trains: list[list[Tensor]] = [[] for _ in counts]
        for t in range(sim_steps):
            if t and not constant:
                current = self._cells[0].current(x_in[t])
            x = current
            for k, cell in enumerate(self._cells):
                fired, x = cell.step(cell.current(x) if k else current, rows)
                if not cell.spiking:
                    break
                counts[k] += fired
                if record_spikes:
                    trains[k].append(fired)

        return Recording(
            counts=tuple(n.cpu().numpy() for n in counts),
            potentials=tuple(
                cell.v[:rows].to("cpu", torch.float64, copy=True).numpy() for cell in self._cells
            ),
            sim_steps=sim_steps,
            spikes=tuple(torch.stack(s).cpu().numpy() for s in trains) if record_spikes else None,
        )

    @torch.inference_mode()
    def _reset(self, rows: NDArray[np.bool_] | None) -> None:
        chosen = slice(None) if rows is None else torch.tensor(rows, device=self._device)
        for cell in self._cells:
            cell.v[chosen] = cell.start
            if cell.sent is not None:
                cell.sent[:, chosen] = 0.0
            for state in (cell.resting, cell.flow, cell.lift):
                if state is not None:
                    state[chosen] = 0

    def _close(self) -> None:
        self._cells = []


class _Cell:
    """One layer of neurons on the device, behind the maps that lead to it.

    v:       [batch_size, n] potentials.
    sent:    [D, batch_size, n] spikes of the last D = max(1, delay_steps) steps, oldest first;
             None where nobody hears them later.
    resting: [batch_size, n] refractory steps left; None where no neuron ever rests.
    flow:    [batch_size, n] synaptic currents; None where there are none.
    lift:    [batch_size, n] what spikes left for the threshold; None where it never adapts.
    """

    def __init__(
        self,
        layer: NeuronLayer,
        maps: list[Map],
        batch_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (batch_size, layer.n_out)
        self._maps = maps
        self._decay = None if (layer.decay == 1).all() else _tensor(layer.decay, device, dtype)
        self._threshold = _tensor(layer.v_threshold, device, dtype)
        self._subtract = layer.reset == "subtract"
        self._v_min = layer.v_min
        self._delay = layer.delay_steps
        self._rest = layer.refractory_steps
        weight = layer.recurrent_weight
        self._recurrent = None if weight is None else _tensor(weight.T, device, dtype)
        self.spiking = layer.spiking
        self.start = _tensor(layer.v_init, device, dtype)
        self.v = self.start.expand(shape).clone()
        self.sent: Tensor | None = None
        if self._delay or weight is not None:
            self.sent = torch.zeros((max(1, self._delay), *shape), dtype=dtype, device=device)
        self.resting: Tensor | None = None
        if self._rest:
            self.resting = torch.zeros(shape, dtype=torch.int64, device=device)

        self.flow: Tensor | None = None
        if layer.has_current:
            self._current_decay = _tensor(layer.current_decay, device, dtype)
            self.flow = torch.zeros(shape, dtype=dtype, device=device)
        self.lift: Tensor | None = None
        if layer.adapts:
            self._adaptation = _tensor(layer.adaptation, device, dtype)
            self._adaptation_decay = _tensor(layer.adaptation_decay, device, dtype)
            self.lift = torch.zeros(shape, dtype=dtype, device=device)

    def current(self, x: Tensor) -> Tensor:
        """W x + b for what the layer hears, x [B, n_in]; returns [B, n]."""
        for f in self._maps:
            x = f(x)
        return x

    def step(self, current: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """One step of the contract for the first rows: who fired (bool), what the next layer hears.

        A read-out gives its potentials for both.
        """
        old = self.v[:rows]
        if self._recurrent is not None and self.sent is not None:
            current = current + self.sent[0, :rows] @ self._recurrent
        if self.flow is not None:
            current = self._current_decay * self.flow[:rows] + current
            self.flow[:rows] = current
        v = current + (old if self._decay is None else self._decay * old)
        if self._v_min is not None:
            v = v.clamp(min=self._v_min)
        if not self.spiking:
            old.copy_(v)
            return v, v
        threshold = self._threshold
        if self.lift is not None:
            threshold = threshold + self._adaptation * self.lift[:rows]
        fired = v >= threshold
        if self.resting is not None:
            left = self.resting[:rows]
            asleep = left > 0
            v = torch.where(asleep, old, v)
            fired &= ~asleep
            left.copy_(torch.where(fired, self._rest, (left - 1).clamp(min=0)))
        spikes = fired.to(v.dtype)
        if self.lift is not None:
            self.lift[:rows] = self._adaptation_decay * self.lift[:rows] + spikes
        v = v - spikes * self._threshold if self._subtract else v.masked_fill(fired, 0.0)
        old.copy_(v)
        if self.sent is None:
            return fired, spikes
        heard = self.sent[0, :rows].clone() if self._delay else spikes
        # moved row by row, not by a pointer: rows that do not run keep what is on its way
        self.sent[:, :rows] = torch.cat([self.sent[1:, :rows], spikes[None]])
        return fired, heard


def linear_map(layer: Layer, device: torch.device, dtype: torch.dtype) -> Map:
    """The linear part of a layer as a function of rows [B, n_in]."""
    if isinstance(layer, Dense):
        weight, bias = (_tensor(a, device, dtype) for a in (layer.weight.T, layer.bias))
        return lambda x: torch.addmm(bias, x, weight)
    if isinstance(layer, Conv2d):
        return _convolution(layer, device, dtype)
    if isinstance(layer, AvgPool2d):
        shape, size, stride = layer.input_shape, layer.kernel_size, layer.steps
        return lambda x: functional.avg_pool2d(x.reshape(-1, *shape), size, stride).flatten(1)
    return lambda x: x  # Flatten


def _convolution(layer: Conv2d, device: torch.device, dtype: torch.dtype) -> Map:
    kernel = layer.weight.shape[2:]
    weight = _tensor(layer.weight.reshape(len(layer.weight), -1), device, dtype)
    bias = _tensor(layer.bias[:, None], device, dtype)

    def convolve(x: Tensor) -> Tensor:
        maps = x.reshape(-1, *layer.input_shape)
        windows = functional.unfold(maps, kernel, padding=layer.padding, stride=layer.stride)
        return (weight @ windows + bias).flatten(1)

    return convolve


def _tensor(array: FloatArray, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(np.ascontiguousarray(array), dtype=dtype).to(device)


def _as_float32(network: SpikingNetwork) -> SpikingNetwork:
    """The network as float32 holds it; raises NetworkError where that breaks it."""
    layers = []
    for layer in network.layers:
        values = {field.name: getattr(layer, field.name) for field in fields(layer)}
        rounded: dict[str, Any] = {
            name: value.astype(np.float32)
            for name, value in values.items()
            if isinstance(value, np.ndarray)
        }
        if isinstance(layer, NeuronLayer) and layer.v_min is not None:
            rounded["v_min"] = float(np.float32(layer.v_min))
        layers.append(replace(layer, **rounded))
    return SpikingNetwork(tuple(layers), network.dt_ms)


def _device(name: str, dtype: torch.dtype) -> torch.device:
    """The device, tried out; raises BackendError that says what was found and what to do."""
    try:
        device = torch.device(name)
        torch.zeros(1, dtype=dtype, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise BackendError(
            f"torch {torch.__version__} cannot use device {name!r} with {dtype}: {reason}. It sees "
            f"{torch.cuda.device_count()} CUDA devices here; use device='cpu', or install a torch "
            "that is built for your device"
        ) from error
    return device


def _refuse_tf32(dtype: torch.dtype) -> None:
    """TF32 and bfloat16 products would run another network than session.network says."""
    found = torch.get_float32_matmul_precision()
    if dtype == torch.float32 and found != "highest":
        raise BackendError(
            f"float32 products are set to precision {found!r}, which rounds the weights: call "
            "torch.set_float32_matmul_precision('highest'), or use dtype='float64'"
        )
