"""The plain stack found in a module: what it computes is what the module computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikerl
from spikerl.conversion.activations import relu
from spikerl.conversion.algorithms import plain_stack
from spikerl.conversion.ramps import rewritten
from spikerl.conversion.stack import PlainStack
from spikerl.conversion.thresholds import thresholds
from spikerl.conversion.tracing import Tracing
from spikerl.decoding import Categorical
from spikerl.errors import ConversionError

ACTIVATIONS = [
    nn.ReLU(),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.ELU(0.7),
    nn.CELU(1.3),
    nn.SELU(),
    nn.SiLU(),
    nn.GELU(),
    nn.GELU(approximate="tanh"),
    nn.LeakyReLU(0.2),
    nn.Softplus(beta=2.0),
    nn.Softsign(),
    nn.Mish(),
    nn.Hardtanh(-0.5, 0.7),
    nn.ReLU6(),
    nn.Hardsigmoid(),
    nn.Hardswish(),
]


def traced(module: nn.Module, *shape: int) -> PlainStack:
    return PlainStack(Tracing(shape).run([("net", module)]), Categorical((2,)))


def same(module: nn.Module, *shape: int) -> PlainStack:
    """The stack, after a look at whether it gives what the module does."""
    module = module.double().eval()
    stack = traced(module, *shape)
    rows = np.random.default_rng(0).normal(size=(40, int(np.prod(shape))))
    with torch.no_grad():
        wanted = module(torch.as_tensor(rows.reshape(40, *shape))).numpy()
    assert np.abs(stack.values(rows) - wanted.reshape(40, -1)).max() < 1e-12
    return stack


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_every_activation_is_the_one_of_torch(activation: nn.Module) -> None:
    torch.manual_seed(0)
    same(nn.Sequential(nn.Linear(3, 8), activation, nn.Linear(8, 2)), 3)


class Functional(nn.Module):
    """Calls functions where others have modules, and does sums of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.b, self.a = nn.Linear(8, 2), nn.Linear(3, 8)  # not in the order they are used in
        self.register_buffer("centre", torch.tensor([0.1, -0.2, 0.3]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x - self.centre) / 2.0
        x = F.relu(self.a(x.view(x.size(0), -1)))
        return 1.0 - 0.5 * self.b(x).mul(3.0)


def test_functions_and_arithmetic_are_seen_in_the_order_of_forward() -> None:
    torch.manual_seed(0)
    stack = same(Functional(), 3)
    assert [layer.units for layer in stack.layers] == [8, 2]
    assert stack.layers[0].activation is relu


def warmed(module: nn.Module, *shape: int) -> nn.Module:
    """With running statistics of batch normalisation that are not those of the start."""
    module.train()
    for _ in range(20):
        module(torch.randn(16, *shape) * 2 + 1)
    return module


def test_batch_normalisation_is_folded_wherever_it_stands() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.BatchNorm1d(3),
        nn.Linear(3, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.BatchNorm1d(8, affine=False),
        nn.Dropout(0.5),
        nn.Linear(8, 2),
    )
    same(warmed(net, 3), 3)


def images() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=(2, 1), padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d((2, 3), stride=(1, 2)),
        nn.Conv2d(4, 6, 2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(6, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )


SHAPE = (2, 9, 9)


def test_images_pass_convolutions_and_pooling() -> None:
    stack = same(warmed(images(), *SHAPE), *SHAPE)
    assert [layer.units for layer in stack.layers] == [4, 6, 5, 3]
    assert [layer.pool is not None for layer in stack.layers] == [False, True, True, False]


def test_ramps_of_images_are_close_to_the_stack() -> None:
    stack = same(warmed(images(), *SHAPE), *SHAPE)
    rows = np.random.default_rng(1).normal(size=(300, 162))
    wanted = stack.values(rows)
    errors = []
    for per_unit in (1, 4, 16):
        ramps, notes = rewritten(stack, rows, "neuron", 100.0, per_unit, 0.002)
        errors.append(np.abs(ramps.values(rows) - wanted).mean() / wanted.std())
        assert all(layer.activation in (relu, None) for layer in ramps.layers)
        assert {note.per_unit for note in notes} <= {per_unit}
        theta = thresholds(ramps, rows, "neuron", 100.0)
        assert [len(t) for t in theta] == [layer.units for layer in ramps.layers[:-1]]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


@pytest.mark.parametrize("rule", ["neuron", "layer", "model"])
def test_thresholds_of_a_channel_hold_for_the_whole_map(rule: str) -> None:
    stack = same(warmed(images(), *SHAPE), *SHAPE)
    rows = np.random.default_rng(1).normal(size=(300, 162))
    ramps, _ = rewritten(stack, rows, rule, 100.0, None, 0.01)
    theta = thresholds(ramps, rows, rule, 100.0)
    for layer, largest, values in zip(ramps.layers, theta, ramps.activations(rows), strict=False):
        assert (layer.by_unit(values).max(axis=0) <= largest * (1 + 1e-9)).all()


@pytest.mark.parametrize("activation", ACTIVATIONS[1:], ids=str)
def test_more_ramps_keep_a_smaller_tolerance(activation: nn.Module) -> None:
    torch.manual_seed(0)
    stack = same(nn.Sequential(nn.Linear(3, 8), activation, nn.Linear(8, 2)), 3)
    rows = np.random.default_rng(2).normal(size=(2000, 3))
    wanted, found = stack.values(rows), []
    for tolerance in (0.1, 0.002):
        ramps, (note,) = rewritten(stack, rows, "neuron", 99.9, None, tolerance)
        found.append((note.per_unit, np.abs(ramps.values(rows) - wanted).mean() / wanted.std()))
    assert found[0][0] <= found[1][0]
    assert found[1][1] < 0.03
    assert found[1][1] <= found[0][1]


def test_a_relu_divided_into_ramps_is_the_same_below_its_ceiling() -> None:
    torch.manual_seed(0)
    stack = same(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), 3)
    rows = np.random.default_rng(2).normal(size=(500, 3))
    ramps, _ = rewritten(stack, rows, "neuron", 100.0, 5, 0.002)
    assert ramps.layers[0].units == 40
    assert np.abs(ramps.values(rows) - stack.values(rows)).max() < 1e-12


class Branches(nn.Module):
    """Adds what went round a layer to what went through it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x).relu() + x


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "max pooling": (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2)),
        "net.2: MaxPool2d is not supported; average pooling",
    ),
    "layer norm": (
        nn.Sequential(nn.Linear(162, 4), nn.LayerNorm(4)),
        "net.1: LayerNorm is not supported; it depends on the input",
    ),
    "softmax": (
        nn.Sequential(nn.Linear(162, 4), nn.Softmax(dim=1)),
        "net.1: Softmax is not supported",
    ),
    "groups": (nn.Conv2d(2, 4, 3, groups=2), "net: Conv2d with groups"),
    "two activations": (
        nn.Sequential(nn.Linear(162, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 2)),
        "net.2: two activations",
    ),
    "activation first": (
        nn.Sequential(nn.Tanh(), nn.Linear(162, 4)),
        "net.0: an activation acts on the observation",
    ),
    "activation last": (
        nn.Sequential(nn.Linear(162, 4), nn.Tanh()),
        "net.0: an activation on the outputs",
    ),
    "branches": (Branches(), "only layers one after the other"),
    "nothing": (nn.Identity(), "there is no Linear layer"),
    "two maps": (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(196, 2)),
        "net.2: there is no activation between",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_plain_stack_is_refused_by_name(name: str) -> None:
    module, message = REFUSED[name]
    with pytest.raises(ConversionError) as caught:
        traced(module, *(SHAPE if name != "branches" else (3,)))
    assert message in str(caught.value)


def test_padding_behind_an_activation_that_is_not_zero_is_refused() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(196, 2),
    )
    stack = same(net, *SHAPE)
    rows = np.random.default_rng(1).normal(size=(50, 162))
    with pytest.raises(ConversionError, match=r"net.2 pads the map with zeros"):
        rewritten(stack, rows, "neuron", 99.9, None, 0.01)


def test_a_bare_module_gets_images_as_images() -> None:
    from gymnasium import spaces

    space: Any = spaces.Box(-1, 1, SHAPE)
    stack = plain_stack(images(), space, spaces.Discrete(3), 0.0)
    assert stack.n_in == 162
    assert stack.reads_images
    agent = spikerl.convert(
        images(),
        observations=np.random.default_rng(0).uniform(-1, 1, (300, *SHAPE)),
        observation_space=space,
        action_space=spaces.Discrete(3),
        sim_steps=256,
    )
    assert agent.report is not None
    assert agent.report.value_error is not None
    assert agent.report.value_error < 0.1
