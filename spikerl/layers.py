"""The layers of a SpikingNetwork, and the checks each makes on itself.

Imports numpy and errors. What the numbers mean is said in network.py: the neuron contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from operator import index
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spikerl.errors import NetworkError

FloatArray = NDArray[np.float64]
Reset = Literal["subtract", "zero"]
Shape3 = tuple[int, int, int]
Pair = tuple[int, int]

RESETS = ("subtract", "zero")
_FILTERS = ("current_decay", "adaptation", "adaptation_decay")


@dataclass(frozen=True, eq=False, kw_only=True)
class NeuronLayer(ABC):
    """What every layer with neurons has; network.py has the equations.

    decay:            scalar or [n_out], in (0, 1]; 1 is integrate-and-fire. exp(-dt / tau_mem).
    v_threshold:      scalar or [n_out], > 0.
    reset:            "subtract" or "zero".
    v_init:           scalar or [n_out]; the potential before the first step.
    delay_steps:      steps until the next layer hears a spike, >= 0.
    refractory_steps: steps a neuron sleeps after its spike, >= 0.
    v_min:            floor of the potential, or None.
    current_decay:    scalar or [n_out], in [0, 1); what a synaptic current keeps per step, 0 where
                      there is none. exp(-dt / tau_syn).
    adaptation:       scalar or [n_out], >= 0; how far each spike lifts the threshold.
    adaptation_decay: scalar or [n_out], in [0, 1]; what is left of that lift per step.
    spiking:          False makes the layer a read-out.
    """

    decay: Any = 1.0
    v_threshold: Any = 1.0
    reset: Reset = "subtract"
    v_init: Any = 0.0
    delay_steps: int = 0
    refractory_steps: int = 0
    v_min: float | None = None
    spiking: bool = True
    current_decay: Any = 0.0
    adaptation: Any = 0.0
    adaptation_decay: Any = 0.0

    def __post_init__(self) -> None:
        for name in ("weight", "bias", "recurrent", "decay", "v_threshold", "v_init", *_FILTERS):
            if getattr(self, name, None) is not None:
                object.__setattr__(self, name, _frozen(name, getattr(self, name)))
        # Plain Python values, so that equal layers have equal fingerprints wherever they come from.
        for name in ("reset", "delay_steps", "refractory_steps", "v_min", "spiking"):
            object.__setattr__(self, name, _plain(name, getattr(self, name)))

    @property
    @abstractmethod
    def n_in(self) -> int:
        """Numbers the layer takes per row."""

    @property
    @abstractmethod
    def n_out(self) -> int:
        """Neurons of the layer."""

    @abstractmethod
    def apply(self, x: FloatArray) -> FloatArray:
        """W x + b for rows x [B, n_in]; returns [B, n_out]."""

    @property
    def recurrent_weight(self) -> FloatArray | None:
        """U [n_out, n_out], from neuron to neuron of this layer, or None."""
        return None

    @property
    def has_current(self) -> bool:
        """Whether input reaches the neurons through a synaptic current."""
        return bool(self.current_decay.any())

    @property
    def adapts(self) -> bool:
        """Whether spikes lift thresholds."""
        return bool(self.adaptation.any())

    def _neuron_problems(self, n: int) -> list[str]:
        found = []
        for name, low, high in (("decay", 0.0, 1.0), ("v_threshold", 0.0, np.inf)):
            value = getattr(self, name)
            if value.ndim and value.shape != (n,):
                found.append(f"{name} has shape {value.shape}, wanted a scalar or ({n},)")
            elif not (np.isfinite(value).all() and (value > low).all() and (value <= high).all()):
                found.append(
                    f"{name} must be finite and in ({low:g}, {high:g}], found {_span(value)}"
                )
        for name, top in zip(_FILTERS, (1.0, np.inf, np.inf), strict=True):
            value = getattr(self, name)
            if value.ndim and value.shape != (n,):
                found.append(f"{name} has shape {value.shape}, wanted a scalar or ({n},)")
            elif not ((value >= 0).all() and (value < top).all()):
                found.append(f"{name} must be in [0, {top:g}), found {_span(value)}")
        if (self.adaptation_decay > 1).any():
            found.append("adaptation_decay must be at most 1")
        if self.v_init.ndim and self.v_init.shape != (n,):
            found.append(f"v_init has shape {self.v_init.shape}, wanted a scalar or ({n},)")
        elif not np.isfinite(self.v_init).all():
            found.append("v_init must be finite")
        if self.reset not in RESETS:
            found.append(f"reset is {self.reset!r}, wanted one of {', '.join(map(repr, RESETS))}")
        for name in ("delay_steps", "refractory_steps"):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 0:
                found.append(f"{name} must be a whole number >= 0, found {value!r}")
        if self.v_min is not None:
            if not isinstance(self.v_min, (int, float, np.number)) or not np.isfinite(self.v_min):
                found.append(f"v_min must be finite or None, found {self.v_min!r}")
            elif (self.v_init < self.v_min).any() or (self.v_threshold <= self.v_min).any():
                found.append(f"v_min {self.v_min:g} must not exceed v_init or reach v_threshold")
        if not self.spiking and (self.delay_steps or self.refractory_steps):
            found.append("a read-out never fires: delay_steps and refractory_steps must be 0")
        if not self.spiking and self.adaptation.any():
            found.append("a read-out never fires: adaptation must be 0")
        return found


@dataclass(frozen=True, eq=False)
class Dense(NeuronLayer):
    """Neurons behind one weight matrix, with an optional recurrent one.

    weight:    [n_out, n_in], as torch keeps it.
    bias:      [n_out] or None for zero.
    recurrent: [n_out, n_out] or None; column j holds the weights from neuron j.
    """

    weight: Any
    bias: Any = None
    recurrent: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bias is None and self.weight.ndim == 2:
            object.__setattr__(self, "bias", _frozen("bias", np.zeros(len(self.weight))))

    @property
    def n_in(self) -> int:
        return int(self.weight.shape[1])

    @property
    def n_out(self) -> int:
        return int(self.weight.shape[0])

    @property
    def recurrent_weight(self) -> FloatArray | None:
        weight: FloatArray | None = self.recurrent
        return weight

    def apply(self, x: FloatArray) -> FloatArray:
        current: FloatArray = x @ self.weight.T + self.bias
        return current

    def problems(self) -> list[str]:
        """Every reason this layer breaks the contract; empty if it keeps it."""
        if self.weight.ndim != 2 or 0 in self.weight.shape:
            return [f"weight must be [n_out, n_in] with both > 0, found shape {self.weight.shape}"]
        n = self.n_out
        found = _array_problems("weight", self.weight, self.weight.shape)
        found += _array_problems("bias", self.bias, (n,))
        if self.recurrent is not None:
            found += _array_problems("recurrent", self.recurrent, (n, n))
            if not self.spiking:
                found.append("a read-out never fires: recurrent must be None")
        return found + self._neuron_problems(n)


@dataclass(frozen=True, eq=False)
class Conv2d(NeuronLayer):
    """Neurons behind a two-dimensional cross-correlation, as torch.nn.Conv2d computes it.

    weight:      [C_out, C_in, kernel height, kernel width].
    input_shape: (C_in, height, width) of the map it reads.
    bias:        [C_out] or None for zero.
    stride, padding: (vertical, horizontal); padding is with zeros.
    """

    weight: Any
    input_shape: Shape3
    bias: Any = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _freeze_shape(self, "input_shape", 3)
        _freeze_shape(self, "stride", 2)
        _freeze_shape(self, "padding", 2)
        if self.bias is None and self.weight.ndim == 4:
            object.__setattr__(self, "bias", _frozen("bias", np.zeros(len(self.weight))))

    @property
    def n_in(self) -> int:
        return prod(self.input_shape)

    @property
    def n_out(self) -> int:
        return prod(self.output_shape)

    @property
    def output_shape(self) -> Shape3:
        """(C_out, height, width) of the map it makes."""
        _, height, width = self.input_shape
        kh, kw = self.weight.shape[2:]
        return (
            int(self.weight.shape[0]),
            (height + 2 * self.padding[0] - kh) // self.stride[0] + 1,
            (width + 2 * self.padding[1] - kw) // self.stride[1] + 1,
        )

    def apply(self, x: FloatArray) -> FloatArray:
        windows = _windows(x, self.input_shape, self.weight.shape[2:], self.stride, self.padding)
        out = np.tensordot(windows, self.weight, axes=([1, 4, 5], [1, 2, 3]))  # [B, h, w, C_out]
        flat: FloatArray = (np.moveaxis(out + self.bias, 3, 1)).reshape(len(x), -1)
        return flat

    def problems(self) -> list[str]:
        """Every reason this layer breaks the contract; empty if it keeps it."""
        if self.weight.ndim != 4 or 0 in self.weight.shape:
            return [f"weight must be [C_out, C_in, kh, kw], all > 0, found {self.weight.shape}"]
        found = _map_problems(self.input_shape, self.stride)
        if any(p < 0 for p in self.padding):
            found.append(f"padding must be >= 0, found {self.padding}")
        if self.weight.shape[1] != self.input_shape[0]:
            found.append(
                f"weight reads {self.weight.shape[1]} channels, "
                f"input_shape has {self.input_shape[0]}"
            )
        if not found and min(self.output_shape) < 1:
            found.append(f"kernel {self.weight.shape[2:]} does not fit the map {self.input_shape}")
        found += _array_problems("weight", self.weight, self.weight.shape)
        found += _array_problems("bias", self.bias, (len(self.weight),))
        return found or self._neuron_problems(self.n_out)


@dataclass(frozen=True, eq=False)
class AvgPool2d:
    """Mean over windows of a spike map: no neurons, a fixed linear map to the next layer.

    input_shape: (C, height, width).
    kernel_size, stride: (vertical, horizontal); stride None means the kernel's size.
    """

    input_shape: Shape3
    kernel_size: Pair
    stride: Pair | None = None

    def __post_init__(self) -> None:
        _freeze_shape(self, "input_shape", 3)
        _freeze_shape(self, "kernel_size", 2)
        object.__setattr__(self, "stride", self.kernel_size if self.stride is None else self.stride)
        _freeze_shape(self, "stride", 2)

    @property
    def steps(self) -> Pair:
        """The stride in force."""
        return self.stride if self.stride is not None else self.kernel_size

    @property
    def n_in(self) -> int:
        return prod(self.input_shape)

    @property
    def n_out(self) -> int:
        return prod(self.output_shape)

    @property
    def output_shape(self) -> Shape3:
        """(C, height, width) of the pooled map."""
        channels, height, width = self.input_shape
        return (
            channels,
            (height - self.kernel_size[0]) // self.steps[0] + 1,
            (width - self.kernel_size[1]) // self.steps[1] + 1,
        )

    def apply(self, x: FloatArray) -> FloatArray:
        """Window means of rows x [B, n_in]; returns [B, n_out]."""
        windows = _windows(x, self.input_shape, self.kernel_size, self.steps, (0, 0))
        pooled: FloatArray = windows.mean(axis=(4, 5)).reshape(len(x), -1)
        return pooled

    def problems(self) -> list[str]:
        """Every reason this layer breaks the contract; empty if it keeps it."""
        found = _map_problems(self.input_shape, self.steps)
        if any(k < 1 for k in self.kernel_size):
            found.append(f"kernel_size must be >= 1, found {self.kernel_size}")
        if not found and min(self.output_shape) < 1:
            found.append(f"kernel {self.kernel_size} does not fit the map {self.input_shape}")
        return found


@dataclass(frozen=True, eq=False)
class Flatten:
    """States that a map of this shape is read as a flat row from here on; it moves no data."""

    input_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        _freeze_shape(self, "input_shape", None)

    @property
    def n_in(self) -> int:
        return prod(self.input_shape)

    @property
    def n_out(self) -> int:
        return self.n_in

    @property
    def output_shape(self) -> tuple[int]:
        """The flat shape."""
        return (self.n_in,)

    def apply(self, x: FloatArray) -> FloatArray:
        """Rows x [B, n_in], unchanged."""
        return x

    def problems(self) -> list[str]:
        """Every reason this layer breaks the contract; empty if it keeps it."""
        bad = not self.input_shape or any(n < 1 for n in self.input_shape)
        return [f"input_shape must be all > 0, found {self.input_shape}"] if bad else []


Layer = Dense | Conv2d | AvgPool2d | Flatten
LAYER_TYPES: tuple[type, ...] = (Dense, Conv2d, AvgPool2d, Flatten)


def _frozen(name: str, value: ArrayLike) -> FloatArray:
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise NetworkError([f"{name} is not an array of numbers: {error}"]) from None
    array.setflags(write=False)
    return array


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return float(value) if name == "v_min" and type(value) is int else value


def _freeze_shape(layer: Any, name: str, length: int | None) -> None:
    value = getattr(layer, name)
    try:
        shape = tuple(index(n) for n in value)  # refuses 1.5 and "1"
    except (TypeError, ValueError):
        raise NetworkError([f"{name} must be whole numbers, found {value!r}"]) from None
    if length is not None and len(shape) != length:
        raise NetworkError([f"{name} must have {length} numbers, found {value!r}"])
    object.__setattr__(layer, name, shape)


def _array_problems(name: str, array: FloatArray, shape: tuple[int, ...]) -> list[str]:
    if array.shape != shape:
        return [f"{name} has shape {array.shape}, wanted {shape}"]
    bad = int((~np.isfinite(array)).sum())
    return [f"{name} has {bad} values that are NaN or infinite"] if bad else []


def _map_problems(input_shape: tuple[int, ...], stride: Pair) -> list[str]:
    found = []
    if any(n < 1 for n in input_shape):
        found.append(f"input_shape must be all > 0, found {input_shape}")
    if any(s < 1 for s in stride):
        found.append(f"stride must be >= 1, found {stride}")
    return found


def _span(array: FloatArray) -> str:
    return f"{array.min():g}..{array.max():g}" if array.ndim else f"{array:g}"


def _windows(
    x: FloatArray, shape: Shape3, kernel: tuple[int, ...], stride: Pair, padding: Pair
) -> FloatArray:
    """Every window of the maps in rows x: [B, C, out height, out width, kh, kw]."""
    maps = x.reshape(len(x), *shape)
    if any(padding):
        maps = np.pad(maps, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    view = np.lib.stride_tricks.sliding_window_view(maps, kernel, axis=(2, 3))
    return view[:, :, :: stride[0], :: stride[1]]
