"""The fused loops beside the steps one by one; run by test_fused.py, in a process of its own.

On a CUDA device, or on the CPU where TRITON_INTERPRET=1 has Triton interpret its kernels.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from torch import Tensor

import spikerl
from spikerl.nn import (
    SURROGATES,
    Neuron,
    SpikingMLP,
    Surrogate,
    adaptation,
    currents,
    firing,
    fused,
    fused_adaptation,
    stack,
)
from spikerl.nn.adaptation import fire_adaptive
from spikerl.nn.currents import filtered
from spikerl.nn.firing import fire
from spikerl.policies import SpikingActorCriticPolicy

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
T, B, N = 6, 45, 7  # three programs, the last not full


def of_the_name(tensor: Tensor, name: str = "fused") -> Any:
    return import_module(f"spikerl.nn.{name}")


def in_steps(tensor: Tensor, name: str = "fused") -> Any:
    return None


def both(call: Callable[[], list[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """What the fused loops find and what the steps do."""
    with pytest.MonkeyPatch.context() as patch:
        if INTERPRETED:  # tensors of the CPU would go elsewhere
            loops_are(of_the_name, patch)
        found = call()
    with pytest.MonkeyPatch.context() as patch:
        loops_are(in_steps, patch)
        return found, call()


def loops_are(loops: Any, patch: pytest.MonkeyPatch) -> None:
    """These, and no compiled ones."""
    for module in (firing, adaptation, currents):
        patch.setattr(module, "runs_fused", loops)
    for module in (firing, adaptation, currents, stack):
        patch.setattr(module, "runs_compiled", lambda tensor: False)


def launches(patch: pytest.MonkeyPatch) -> list[Any]:
    """The kernels launched from now on, as they are."""
    called: list[Any] = []
    usual = fused.launch

    def launch(kernel: Any, *given: Any, **choices: Any) -> None:
        called.append(kernel)
        usual(kernel, *given, **choices)

    for module in (fused, fused_adaptation):
        patch.setattr(module, "launch", launch)
    return called


def passes(
    function: Any, dtype: torch.dtype, steps: int, *, spikes: bool = True, **rules: Any
) -> list[Tensor]:
    """Spikes, counts and potentials of a layer, and the gradients by current, potential, decay."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)

    given = [normal(steps, B, N) * 0.8 + 0.6, normal(B, N) * 0.3, torch.sigmoid(normal(N))]
    current, v, decay = (part.requires_grad_() for part in given)
    threshold = normal(N).abs() + 0.5
    made = function(current, v, decay, threshold, sim_steps=T, spikes=spikes, **rules)
    weights = [normal(*part.shape) for part in made]
    weights[2] = weights[2].t().contiguous().t()  # numbers that do not lie in rows
    sum((part * weight).sum() for part, weight in zip(made, weights, strict=True)).backward()
    return [*(part.detach() for part in made), *(part.grad for part in given)]


def the_same(found: list[Tensor], wanted: list[Tensor]) -> None:
    """Spikes, counts and potentials to the bit, gradients but for rounding."""
    for mine, other in zip(found[:3], wanted[:3], strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
    close = 1e-5 if found[0].dtype is torch.float32 else 1e-12
    for mine, other in zip(found[3:], wanted[3:], strict=True):
        torch.testing.assert_close(mine, other, rtol=close, atol=close)
    assert 0.05 < float(found[1].mean()) / T < 0.9
    assert all(bool(part.any()) for part in found[3:])


SUMS = [(T, True), (T - 2, True), (T, False)]  # steps that are counted, whether spikes are wanted
INPUTS = [(T, torch.float32), (1, torch.float32), (T, torch.float64)]
CASES = [
    *product(["arctan"], [False, True], [False, True], SUMS, INPUTS),
    *product(SURROGATES, [False, True], [False], SUMS[:1], INPUTS),
]


@pytest.mark.parametrize(("name", "zero", "detach_reset", "sums", "inputs"), CASES, ids=str)
def test_spikes_are_those_of_the_steps_one_by_one_and_so_are_gradients(
    name: str,
    zero: bool,
    detach_reset: bool,
    sums: tuple[int, bool],
    inputs: tuple[int, torch.dtype],
) -> None:
    (counted, spikes), (steps, dtype) = sums, inputs
    rules = {"zero": zero, "detach_reset": detach_reset, "counted": counted, "spikes": spikes}
    the_same(*both(lambda: passes(fire, dtype, steps, surrogate=Surrogate(name, 1.3), **rules)))


@pytest.mark.parametrize(("steps", "dtype"), INPUTS, ids=str)
@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize("zero", [False, True])
def test_thresholds_adapt_as_in_the_steps_one_by_one(
    zero: bool, detach_reset: bool, steps: int, dtype: torch.dtype
) -> None:
    rules = {"zero": zero, "detach_reset": detach_reset, "counted": T - 1}
    lift = {"adaptation": 0.3, "adaptation_decay": 0.9, "surrogate": Surrogate("triangle", 0.7)}
    the_same(*both(lambda: passes(fire_adaptive, dtype, steps, **lift, **rules)))


@pytest.mark.parametrize(("steps", "dtype"), INPUTS, ids=str)
def test_currents_flow_as_in_the_steps_one_by_one(steps: int, dtype: torch.dtype) -> None:
    def call() -> list[Tensor]:
        torch.manual_seed(0)
        current = torch.randn(steps, B, N, device=DEVICE, dtype=dtype, requires_grad=True)
        flow = filtered(current, 0.7, T)
        (flow * torch.randn_like(flow)).sum().backward()
        assert current.grad is not None
        return [flow.detach(), current.grad]

    found, wanted = both(call)
    torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=0)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["PLIF", "CLIF", "ALIF"])
def test_a_stack_learns_and_decides_with_them(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = launches(monkeypatch)

    def call() -> list[Tensor]:
        torch.manual_seed(0)
        neuron = Neuron(kind, delay_steps=1, reset="zero")
        net = SpikingMLP(3, [8, 8], sim_steps=T, neuron=neuron).to(DEVICE)
        rows = torch.randn(9, 3).to(DEVICE)
        rates = net(rows)
        rates.square().sum().backward()
        assert rates.any()
        with torch.no_grad():
            decided = net.eval()._in_turn(rows[None].double())[-1]
        return [rates.detach(), decided, *(part.grad for part in net.parameters())]

    found, wanted = both(call)
    own = fused_adaptation if kind == "ALIF" else fused
    filters = 6 if kind == "CLIF" else 0  # learning once there and once back, and deciding
    assert called.count(own.forward_kernel) == 4
    assert called.count(own.backward_kernel) == 2
    assert called.count(fused.filter_kernel) == filters == len(called) - 6
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_no_rows_are_no_spikes() -> None:
    def call() -> list[Tensor]:
        nothing = torch.zeros(T, 0, N, device=DEVICE, requires_grad=True)
        decay = torch.full((N,), 0.5, device=DEVICE, requires_grad=True)
        start, ones = torch.zeros(0, N, device=DEVICE), torch.ones(N, device=DEVICE)
        made = fire(nothing, start, decay, ones, sim_steps=T, zero=True, surrogate=Surrogate())
        assert [part.shape for part in made] == [(T, 0, N), (0, N), (0, N)]
        made[1].sum().backward()
        assert decay.grad is not None
        return [decay.grad]

    found, wanted = both(call)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_policy_trains_with_them_and_its_deployed_network_takes_the_same_actions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if INTERPRETED:
        loops_are(of_the_name, monkeypatch)
    called = launches(monkeypatch)
    short = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "policy_kwargs": {"sim_steps": 4}}
    model = PPO(SpikingActorCriticPolicy, "Pendulum-v1", device=DEVICE, seed=0, **short)
    model.learn(64)
    assert called.count(fused.backward_kernel) == 2 * 4  # layers, updates
    rows = np.random.default_rng(0).normal(0, 1, (500, 3)).astype(np.float32)
    wanted, _ = model.predict(rows, deterministic=True)
    with spikerl.HardwarePolicy(spikerl.convert(model), "cpu") as policy:
        found, _ = policy.predict(rows)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)
    assert wanted.std() > 1e-3
