"""SpikingMemory: sequences with a state, spikes of the contract, gradients of the equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spikerl import SpikingNetwork
from spikerl.nn.memory import SpikingMemory
from spikerl.nn.surrogates import Surrogate
from spikerl.reference import initial_state, simulate

L, B, N, T = 12, 5, 16, 3


def memory(surrogate: str = "fast_sigmoid") -> SpikingMemory:
    torch.manual_seed(0)
    return SpikingMemory(4, N, T, Surrogate(surrogate))


def starts() -> Tensor:
    found = torch.zeros(L, B)
    found[0], found[5, 2], found[6, 2] = 1, 1, 1
    return found


def test_a_sequence_is_the_contract_with_its_state_carried_on() -> None:
    cell = memory().eval()
    rows = torch.randn(L, B, 4) * 2
    with torch.no_grad():
        rates, (_, v) = cell(rows, cell.fresh(B), starts())
    network = SpikingNetwork((cell.to_layer(),))
    for b in range(B):
        state = initial_state(network, 1)
        for k in range(L):
            if starts()[k, b]:
                state = initial_state(network, 1)
            drive = np.broadcast_to(rows[k, b].double().numpy(), (T, 1, 4))
            counts = simulate(network, drive, state).counts[0][0]
            np.testing.assert_allclose(rates[k, b].numpy() * T, counts, rtol=0, atol=1e-6)
        np.testing.assert_allclose(v[0, b].numpy(), state[0].v[0], rtol=0, atol=1e-5)
    assert 0.05 < rates.mean() < 0.9


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad / (1 + 2 * x.abs()) ** 2


def by_autograd(cell: SpikingMemory, rows: Tensor, state: Any) -> Tensor:
    s, v = state[0][0], state[1][0]
    found = []
    for k in range(L):
        keep = (1 - starts()[k])[:, None]
        v, s, total = v * keep, s * keep, torch.zeros(B, N)
        for _ in range(T):
            u = torch.sigmoid(cell.decay_logit) * v + cell.synapses(rows[k]) + s @ cell.recurrent
            s = _Step.apply(u - 1)
            v = u - s
            total = total + s
        found.append(total / T)
    return torch.stack(found)


def test_gradients_run_through_time_and_stop_at_episode_starts() -> None:
    cell = memory()
    rows = torch.randn(L, B, 4, requires_grad=True)
    state = ((torch.rand(1, B, N) > 0.7).float(), torch.rand(1, B, N))
    weights = torch.randn(L, B, N)
    inputs = [rows, *cell.parameters()]
    first = starts().clone()
    first[0] = 0
    wanted = torch.autograd.grad((by_autograd(cell, rows, state) * weights).sum(), inputs)
    found = torch.autograd.grad((cell(rows, state, starts())[0] * weights).sum(), inputs)
    for a, b in zip(found, wanted, strict=True):
        assert float(b.abs().max()) > 0
        assert float((a - b).abs().max()) < 1e-4 * float(b.abs().max())


@pytest.mark.parametrize("cut", [1, 7])
def test_two_halves_of_a_sequence_are_the_whole(cut: int) -> None:
    cell = memory()
    rows = torch.randn(L, B, 4)
    whole, end = cell(rows, cell.fresh(B), starts())
    first, state = cell(rows[:cut], cell.fresh(B), starts()[:cut])
    second, other = cell(rows[cut:], state, starts()[cut:])
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(other[1], end[1])
