"""SpikingMemory: sequences with a state, spikes of the contract, gradients of the equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spikerl import SpikingNetwork
from spikerl.errors import SpikerlError, reasons
from spikerl.layers import Dense
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


def test_a_memory_comes_back_from_its_layer_exactly() -> None:
    cell = SpikingMemory(4, 500, T)
    with torch.no_grad():
        cell.decay_logit.uniform_(-6, 9)  # decays of 0.002 to 0.9999
        cell.decay_logit[:4] = torch.tensor([-80.0, -20.0, 16.6, 25.0])  # the last: 1
    layer = cell.to_layer()
    again = SpikingMemory.of(layer, T)
    for name in ("weight", "bias", "recurrent", "decay"):
        np.testing.assert_array_equal(getattr(again.to_layer(), name), getattr(layer, name))
    rows = torch.randn(3, B, 4)
    begun = torch.zeros(3, B)
    with torch.no_grad():
        ours, theirs = (one.eval()(rows, one.fresh(B), begun)[0] for one in (cell, again))
    assert torch.equal(ours, theirs)
    assert ours.any()


def test_decays_of_another_network_are_rounded_to_the_nearest_that_can_be_learned() -> None:
    decay = np.linspace(0.01, 0.999, 50)
    layer = Dense(np.ones((50, 2)), recurrent=np.zeros((50, 50)), decay=decay)
    found = SpikingMemory.of(layer, T).to_layer().decay
    np.testing.assert_allclose(found, decay, rtol=3e-7)


def test_a_layer_that_is_no_memory_is_refused_with_every_reason() -> None:
    plain = Dense(np.ones((3, 2)), reset="zero", decay=1.0, v_init=0.5, delay_steps=1)
    with pytest.raises(SpikerlError) as caught:
        SpikingMemory.of(plain, T)
    assert reasons(caught.value) == [
        *("wanted recurrent weights", "wanted reset by subtraction"),
        *("wanted potentials that start at 0", "wanted no delay"),
    ]
    for other in (
        {"decay": 1e-40},
        {"bias": [0, 0, 1e300]},
        {"refractory_steps": 2},
        {"v_min": -1.0},
        {"v_threshold": 2.0},
        {"current_decay": 0.5},
        {"adaptation": 0.1, "adaptation_decay": 0.9},
    ):
        layer = Dense(np.ones((3, 2)), recurrent=np.zeros((3, 3)), **{"decay": 0.9, **other})
        with pytest.raises(SpikerlError) as caught:
            SpikingMemory.of(layer, T)
        assert len(reasons(caught.value)) == 1, other


def test_a_memory_takes_a_step_at_least() -> None:
    for sim_steps in (0, "3", 1.5):
        with pytest.raises(SpikerlError, match="sim_steps must be a whole number >= 1, found"):
            SpikingMemory(4, 3, sim_steps)  # type: ignore[arg-type]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_taken_for_silence(odd: float) -> None:
    cell = memory().eval()
    rows = torch.randn(1, B, 4)
    rows[0, 2, 1] = odd
    with torch.no_grad():
        rates, state = cell(rows, cell.fresh(B), torch.ones(1, B))
        later, _ = cell(torch.randn(1, B, 4), state, torch.zeros(1, B))
        anew, _ = cell(torch.randn(1, B, 4), state, torch.ones(1, B))
    for found in (rates, later):  # a potential is kept, a new episode forgets it
        assert torch.isnan(found[0, 2]).all()
        assert torch.isfinite(found[0, [0, 1, 3, 4]]).all()
    assert torch.isfinite(anew).all()
