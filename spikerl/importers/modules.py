"""What the importers share: the modules in order, and the layers that have no neurons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from spikerl.assembly import Assembly, Neurons, Weights
from spikerl.errors import ConversionError
from spikerl.layers import FloatArray, Pair, Shape3
from spikerl.network import SpikingNetwork

Reader = Callable[[Any, list[str]], Neurons | None]  # a module, and where its problems go
Modules = nn.Module | Sequence[nn.Module]
TINY = 2.0**-20

LINEAR = ("torch.nn.modules.linear.Linear",)
CONV2D = ("torch.nn.modules.conv.Conv2d",)
POOL = ("torch.nn.modules.pooling.AvgPool2d",)
FLATTEN = ("torch.nn.modules.flatten.Flatten",)
SEQUENTIAL = ("torch.nn.modules.container.Sequential",)
IDENTITY = ("torch.nn.modules.linear.Identity",)
DROPOUT = ("torch.nn.modules.dropout.Dropout", "torch.nn.modules.dropout.Dropout2d")


def imported(
    library: str,
    modules: Modules,
    readers: Mapping[str, Reader],
    *,
    input_shape: Shape3 | None,
    dt_ms: float,
    containers: Sequence[str] = (),
    unwrap: Mapping[str, str] = {},
    aliases: Mapping[str, str] = {},
    delays: Mapping[str, str] = {},
    refused: Mapping[str, str] = {},
) -> SpikingNetwork:
    """The network of a sequence of modules; raises ConversionError with everything in the way.

    readers: by the full name of a class, what its neurons are.
    unwrap:  classes that hold one module and run it, and the attribute they hold it in.
    aliases: the library's own classes of layers without neurons, and torch's that they are.
    delays:  classes that hold spikes back, and the attribute that says for how many steps.
    refused: classes one may well meet, and why they have no counterpart.
    """
    made = Assembly(None if input_shape is None else tuple(int(n) for n in input_shape))
    known = (*SEQUENTIAL, *containers)
    for name, module in _in_order(modules, known, unwrap):
        kind = full_name(module)
        kind = aliases.get(kind, kind)
        label = f"layer {name!r} ({type(module).__name__})"
        if module._forward_hooks or module._forward_pre_hooks:
            made.refuse(label, "has hooks, which may change what it computes: remove them")
        if kind in readers:
            problems: list[str] = []
            neurons = readers[kind](module, problems)
            for text in problems:
                made.refuse(label, text)
            if neurons is not None and not problems:
                made.neurons(label, neurons)
            else:
                made.lose()
        elif kind in delays:
            made.delay(label, int(getattr(module, delays[kind])))
        elif not _plain(made, label, kind, module):
            made.refuse(label, refused.get(kind, f"is not known to from_{library}()"))
            made.lose()
    made.finish()
    if made.problems:
        raise ConversionError(f"these {library} modules are no SpikingNetwork", made.problems)
    return SpikingNetwork(tuple(made.layers), dt_ms)


def full_name(thing: Any) -> str:
    """The module and name of an object's class: subclasses are other classes."""
    kind = type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"


def _in_order(
    modules: Modules, containers: Sequence[str], unwrap: Mapping[str, str], name: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    if not isinstance(modules, nn.Module):
        found: list[tuple[str, nn.Module]] = [(str(i), each) for i, each in enumerate(modules)]
    elif full_name(modules) in containers:
        found = list(modules.named_children())
    elif full_name(modules) in unwrap:
        held = getattr(modules, unwrap[full_name(modules)])
        yield from _in_order(held, containers, unwrap, name)
        return
    elif name:
        yield name, modules
        return
    else:
        raise ConversionError(
            f"found {type(modules).__name__}, wanted a torch.nn.Sequential or a list of modules in "
            "the order in which a step goes through them: what forward() does besides is not read"
        )
    for child, module in found:
        yield from _in_order(module, containers, unwrap, f"{name}.{child}".lstrip("."))


def _plain(made: Assembly, label: str, kind: str, module: Any) -> bool:
    """A layer without neurons; False if it is none that is known."""
    if kind in LINEAR:
        made.weights(label, Weights(numbers(module.weight), _bias(module)))
    elif kind in CONV2D:
        _convolution(made, label, module)
    elif kind in POOL:
        if any(_pair(module.padding)) or module.ceil_mode or module.divisor_override:
            made.refuse(label, "has padding, ceil_mode or divisor_override, wanted none of them")
        made.pool(label, _pair(module.kernel_size), _pair(module.stride))
    elif kind in FLATTEN:
        if (module.start_dim, module.end_dim) != (1, -1):
            made.refuse(
                label, f"flattens {module.start_dim} to {module.end_dim}, wanted all but the batch"
            )
        made.flatten(label)
    elif kind in DROPOUT:
        if module.training:
            made.refuse(label, "is in training mode: call eval() first")
    else:
        return kind in IDENTITY
    return True


def _convolution(made: Assembly, label: str, module: Any) -> None:
    padding = (0, 0)
    plain = module.groups == 1 and _pair(module.dilation) == (1, 1)
    if not plain or module.padding_mode != "zeros" or module.padding == "same":
        made.refuse(
            label,
            f"has groups={module.groups}, dilation={module.dilation}, padding={module.padding!r}, "
            f"padding_mode={module.padding_mode!r}; wanted 1, 1, numbers and 'zeros'",
        )
        made.lose()
    elif module.padding != "valid":
        padding = _pair(module.padding)
    weights = Weights(numbers(module.weight), _bias(module), _pair(module.stride), padding)
    made.weights(label, weights)


def _bias(module: Any) -> FloatArray | None:
    return None if module.bias is None else numbers(module.bias)


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def numbers(value: Any) -> FloatArray:
    """A tensor or number in float64."""
    if isinstance(value, torch.Tensor):
        value = value.detach().to("cpu", torch.float64).numpy()
    return np.array(value, dtype=np.float64)


def scalar(value: Any) -> float:
    """The one number in a tensor or number."""
    return float(numbers(value).reshape(()))


def fires_at_threshold(fire: Callable[[Any], Any], problems: list[str]) -> bool:
    """Whether a spike function of v - v_threshold fires at 0; notes one that is no step there."""
    at = torch.tensor([[-1.0, -TINY, 0.0, TINY, 1.0, 4.0]])
    try:
        with torch.no_grad():
            found = [float(x) for x in fire(at).reshape(-1)]
    except RuntimeError as error:  # one that fires by chance wants probabilities
        problems.append(f"has a spike function that is no step from 0 to 1: {error}")
        return True
    if found[:2] != [0, 0] or found[3:] != [1, 1, 1] or found[2] not in (0, 1):
        problems.append(f"has a spike function that is no step from 0 to 1, but gives {found}")
    return found[2] == 1


def threshold(value: Any, inclusive: bool) -> FloatArray:
    """The threshold under which v >= threshold says what the library's comparison does.

    v > x is v >= the next float64. A subtraction then takes that much more, 2^-52 of the threshold;
    the potentials of these libraries are float32, where nothing lies between the two.
    """
    found = numbers(value)
    return found if inclusive else np.nextafter(found, np.inf)
