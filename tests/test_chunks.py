"""A stack's rows in chunks: the spikes and gradients of the same layers, one after the other."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from spikerl.nn import SURROGATES, Neuron, SpikingMLP, Surrogate, chunks
from spikerl.nn.chunks import fire_stack
from spikerl.nn.firing import Rule, fire_in_turn
from spikerl.nn.population import PopulationEncoder

T = 6
WIDTHS = (5, 24, 16, 3)


def numbers(seed: int) -> list[list[Tensor]]:
    """Weights whose sums are exact in float32, in any order."""
    torch.manual_seed(seed)
    layers = []
    for n_in, n in pairwise(WIDTHS):
        weight = torch.randint(-32, 33, (n, n_in)) / 32
        bias, decay = torch.randint(0, 33, (n,)) / 64, torch.randint(2, 5, (n,)) / 4
        theta, start = torch.randint(2, 5, (n,)) / 4, torch.randint(-4, 5, (n,)) / 8
        layers.append([part.requires_grad_() for part in (weight, bias, decay, theta, start)])
        layers[-1][3].requires_grad_(False)
    return layers


def drive(rows: int, constant: bool) -> Tensor:
    return (torch.randint(-16, 17, (1 if constant else T, rows, WIDTHS[0])) / 8).requires_grad_()


def rules(**changes: Any) -> list[Rule]:
    usual = {"zero": False, "detach_reset": False, "delay_steps": 0, "surrogate": Surrogate()}
    return [Rule(**{**usual, **changes})] * (len(WIDTHS) - 1)


def taken(parts: list[Tensor]) -> list[Tensor]:
    found = []
    for part in parts:
        assert part.grad is not None
        found.append(part.grad)
        part.grad = None
    return found


CHANGES = [
    {},
    {"zero": True},
    {"detach_reset": True},
    {"delay_steps": 1},
    {"zero": True, "delay_steps": 1, "detach_reset": True},
    *({"surrogate": Surrogate(name)} for name in SURROGATES),
]


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("rows", [1, 6, 8, 21])
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_spikes_and_gradients_are_those_of_the_layers_in_turn(
    changes: dict[str, Any], rows: int, constant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "NUMBERS", T * max(WIDTHS[1:]) * 5)  # four rows at a time
    layers, x = numbers(rows), drive(rows, constant)
    parts = [x, *(part for layer in layers for part in layer if part.requires_grad)]
    weighting = torch.randn(rows, WIDTHS[-1])
    found, expected = (
        function(x, layers, rules(**changes), T) for function in (fire_stack, fire_in_turn)
    )
    assert torch.equal(found, expected)
    assert 0 < found.mean() < T
    (found * weighting).sum().backward()
    mine = taken(parts)
    (expected * weighting).sum().backward()
    theirs = taken(parts)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
    assert rows == 1 or all(other.abs().sum() > 0 for other in theirs)


def test_no_gradient_is_made_that_nobody_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, x = numbers(0), drive(4, constant=True).detach()
    for layer in layers:
        for part in layer:
            part.requires_grad_(False)
    layers[1][0].requires_grad_(True)
    made: list[Any] = []
    backward = chunks._Chunks.backward

    def seen(self: chunks._Chunks, chunk: Any, given: Any, found: Any, g_x: Any) -> None:
        made.extend([part is not None for part in parts] for parts in found)
        made.append(g_x is not None)
        backward(self, chunk, given, found, g_x)

    monkeypatch.setattr(chunks._Chunks, "backward", seen)
    fire_stack(x, layers, rules(), T).sum().backward()
    nothing = [False] * 5
    assert made == [nothing, [True, *nothing[1:]], nothing, False]


@pytest.mark.parametrize("learned", [False, True])
def test_a_graph_is_given_back_with_its_result(
    learned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the help of the collector, which cannot see through torch."""
    potentials: list[weakref.ref[Any]] = []
    each = chunks._Chunks.each

    def seen(self: chunks._Chunks, x: Any, kept: Any, counts: Any) -> Any:
        potentials.extend(map(weakref.ref, kept))
        return each(self, x, kept, counts)

    monkeypatch.setattr(chunks._Chunks, "each", seen)
    stack = SpikingMLP(5, [8, 5], sim_steps=T)
    weight = weakref.ref(stack.layers[1].synapses.weight)
    gc.disable()
    try:
        found = stack(torch.randn(4, 5))
        if learned:
            found.sum().backward()
        assert learned or all(kept() is not None for kept in potentials[:2])
        del found
        assert len(potentials) == (4 if learned else 2)
        assert all(kept() is None for kept in potentials)
        del stack
        assert weight() is None
    finally:
        gc.enable()


def test_passes_of_one_shape_may_be_under_way_together() -> None:
    """They work in the same arrays."""
    both = [numbers(seed) for seed in (1, 2)]
    x = drive(8, constant=True)
    weights = [[part for layer in layers for part in layer[:3]] for layers in both]
    expected = [
        torch.autograd.grad(fire_stack(x, layers, rules(), T).square().sum(), parts)
        for layers, parts in zip(both, weights, strict=True)
    ]
    assert any(not torch.equal(one, other) for one, other in zip(*expected, strict=True))
    losses = [fire_stack(x, layers, rules(), T).square().sum() for layers in both]
    for order in (0, 1, 0):
        found = torch.autograd.grad(losses[order], weights[order], retain_graph=True)
        assert all(map(torch.equal, found, expected[order]))


def test_the_way_back_may_be_another_thread() -> None:
    stack, rows = SpikingMLP(5, [24, 16], sim_steps=T), torch.randn(9, 5)
    parts = list(stack.parameters())
    expected = torch.autograd.grad(stack(rows).square().sum(), parts)
    with ThreadPoolExecutor(4) as pool:
        losses = [stack(rows).square().sum() for _ in range(8)]
        for found in pool.map(lambda loss: torch.autograd.grad(loss, parts), losses):
            assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_way_back_that_was_broken_off_leaves_nothing(
    calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = SpikingMLP(5, [24, 16], sim_steps=T, neuron=Neuron("PLIF"))
    parts, rows = list(stack.parameters()), torch.randn(9, 5)
    monkeypatch.setattr(chunks, "NUMBERS", T * 24 * 5)  # four rows at a time
    loss = stack(rows).square().sum()
    expected = torch.autograd.grad(loss, parts, retain_graph=True)
    left = [calls]

    def broken(self: Any, given: Any, found: Any, *others: Any) -> None:
        backward(self, given, found, *others)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    backward = chunks._Layer.backward
    with monkeypatch.context() as patch:
        patch.setattr(chunks._Layer, "backward", broken)
        with pytest.raises(KeyboardInterrupt):
            torch.autograd.grad(loss, parts, retain_graph=True)
    assert all(map(torch.equal, torch.autograd.grad(loss, parts), expected))


def test_arrays_are_kept_for_the_latest_shapes_only() -> None:
    stack = SpikingMLP(5, [8, 5], sim_steps=T)
    for rows in range(1, 9):
        stack(torch.randn(rows, 5)).sum().backward()
    assert len(chunks._rooms.kept) == chunks.ROOMS


@pytest.mark.parametrize("twice", [False, True], ids=["once", "to be differentiated twice"])
def test_a_layer_may_stand_twice_in_a_stack(twice: bool) -> None:
    stack = SpikingMLP(5, [5, 5], sim_steps=T)
    stack.layers[1] = stack.layers[0]
    parts, x = list(stack.parameters()), torch.randn(4, 5)
    found = torch.autograd.grad(stack(x).sum(), parts, create_graph=twice)
    expected = torch.autograd.grad(stack.rates(x)[-1].sum(), parts)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
        assert other.abs().sum() > 0


@pytest.mark.parametrize("twice", [False, True], ids=["once", "to be differentiated twice"])
def test_a_stack_may_hear_itself(twice: bool) -> None:
    stack = SpikingMLP(5, [8, 5], sim_steps=T)
    parts, x = list(stack.parameters()), torch.randn(4, 5)
    found = torch.autograd.grad(stack(stack(x)).sum(), parts, create_graph=twice)
    expected = torch.autograd.grad(stack.rates(stack.rates(x)[-1])[-1].sum(), parts)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_hooks_of_a_layer_are_called() -> None:
    stack, x, called = SpikingMLP(5, [8, 5], sim_steps=T), torch.randn(4, 5), []
    before = stack(x)
    stack.layers[1].register_forward_hook(lambda *_: called.append(1))
    assert torch.allclose(stack(x), before)
    assert called == [1]


@pytest.mark.parametrize("encoder", [None, "population"])
def test_other_numbers_than_float32_are_trained_step_by_step(encoder: str | None) -> None:
    fields = PopulationEncoder(5) if encoder else None
    stack, x = SpikingMLP(5, [8, 5], sim_steps=T, encoder=fields), torch.randn(4, 5)
    expected = stack(x)
    stack.double()
    for rows in (x, x.double()) if encoder else (x.double(),):
        found = stack(rows)
        assert torch.allclose(found.float(), expected)
        found.sum().backward()


def test_what_torch_makes_otherwise_is_of_no_account() -> None:
    stack, x = SpikingMLP(5, [8, 5], sim_steps=T), torch.randn(4, 5)
    try:
        torch.set_default_dtype(torch.float64)
        stack(x).sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(part.grad is not None for part in stack.parameters())


def test_it_can_be_differentiated_twice() -> None:
    """As TRPO does, with products of the Fisher matrix."""
    layers, x = numbers(3), drive(8, constant=True)
    products = []
    for function in (fire_stack, fire_in_turn):
        counts = function(x, layers, rules(), T)
        weights = [layer[0] for layer in layers]
        first = torch.autograd.grad(counts.square().sum(), weights, create_graph=True)
        products.append(torch.autograd.grad(sum(g.square().sum() for g in first), weights))
    for one, other in zip(*products, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
        assert other.abs().sum() > 0


def test_a_graph_that_is_kept_gives_its_gradients_again() -> None:
    stack = SpikingMLP(5, [24, 16], sim_steps=T, neuron=Neuron("PLIF"))
    loss = stack(torch.randn(9, 5)).square().sum()
    loss.backward(retain_graph=True)
    first = taken(list(stack.parameters()))
    loss.backward()
    for one, other in zip(first, taken(list(stack.parameters())), strict=True):
        assert torch.equal(one, other)


def test_no_rows_at_all_have_no_spikes() -> None:
    stack = SpikingMLP(5, [24, 16], sim_steps=T)
    assert stack(torch.zeros(0, 5)).shape == (0, 16)
    assert stack.eval().decide(torch.zeros(0, 5)).shape == (0, 16)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_passes_use_the_memory_of_those_before() -> None:
    code = """
import resource, torch
from spikerl.nn import SpikingMLP

torch.set_num_threads(1)
net, x = SpikingMLP(8, [64, 64], sim_steps=16).train(), torch.randn(256, 8)

def faults(passes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(passes):
        net(x).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(20)
print(faults(20))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 20 * 100  # pages of 4 KiB; one array of a pass has 256
