"""Spiking layers for torch: spikes of the contract forward, gradients of the equations backward."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spikerl import Conv2d, Dense, SpikingNetwork
from spikerl.errors import SpikerlError
from spikerl.nn import SURROGATES, Neuron, SpikingLayer, SpikingMLP, SpikingStack, Surrogate
from spikerl.reference import simulate

T = 7


def stack_of(seed: int = 0, widths: tuple[int, ...] = (24, 16), **rules: Any) -> SpikingStack:
    torch.manual_seed(seed)
    return SpikingMLP(5, widths, sim_steps=T, neuron=Neuron(**rules))


def network_of(stack: SpikingStack) -> SpikingNetwork:
    """The stack with a read-out that adds up each neuron's spikes."""
    return SpikingNetwork((*stack.to_layers(), Dense(np.eye(stack.n_out), spiking=False)))


def reference_rates(stack: SpikingStack, rows: Tensor) -> np.ndarray:
    drive = np.broadcast_to(rows.double().numpy(), (T, *rows.shape))
    recording = simulate(network_of(stack), drive)
    assert recording.potential is not None
    return recording.potential / T


RULES = [
    {"kind": kind, "reset": reset, "delay_steps": delay}
    for kind in ("IF", "LIF", "PLIF", "CLIF", "ALIF")
    for reset in ("subtract", "zero")
    for delay in (0, 1, 2)
]


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_decisions_are_the_reference_s_own(rules: dict[str, Any]) -> None:
    stack = stack_of(**rules).eval()
    rows = torch.randn(200, 5)
    with torch.no_grad():
        found = stack(rows)
    np.testing.assert_array_equal(found.numpy(), reference_rates(stack, rows).astype(np.float32))
    assert 0.05 < found.mean() < 0.9


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_training_sees_the_spikes_that_decide(rules: dict[str, Any]) -> None:
    stack = stack_of(**rules)
    rows = torch.randn(200, 5)
    trained = stack.train()(rows).detach().numpy()
    # float32 against float64: a potential right at the threshold may fall to either side
    assert (trained == reference_rates(stack, rows).astype(np.float32)).mean() > 0.999


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_convolutions_fire_as_the_reference_says(reset: str) -> None:
    torch.manual_seed(1)
    neuron = Neuron("LIF", reset=reset, delay_steps=1)
    first = SpikingLayer(nn.Conv2d(2, 4, 3, stride=2, padding=1), neuron, (2, 8, 6))
    second = SpikingLayer(nn.Linear(first.n_out, 10), neuron, (first.n_out,))
    stack = SpikingStack([first, second], T).eval()
    rows = torch.rand(20, 2 * 8 * 6) * 16
    with torch.no_grad():
        found = stack(rows)
    np.testing.assert_array_equal(found.numpy(), reference_rates(stack, rows).astype(np.float32))
    assert found.mean() > 0.02
    assert isinstance(stack.to_layers()[0], Conv2d)


class _Step(torch.autograd.Function):
    """A step whose derivative is written once more, after the formulas of the literature."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.name, ctx.slope = name, slope
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        a = ctx.slope
        derivative = {
            "fast_sigmoid": lambda: 1 / (1 + a * x.abs()) ** 2,
            "arctan": lambda: 1 / (1 + (torch.pi / 2 * a * x) ** 2),
            "sigmoid": lambda: 4 * torch.sigmoid(a * x) * torch.sigmoid(-a * x),
            "triangle": lambda: torch.relu(1 - a * x.abs()),
            "rectangle": lambda: (a * x.abs() < 0.5).to(x.dtype),
        }[ctx.name]()
        return grad * derivative, None, None


def by_autograd(stack: SpikingStack, rows: Tensor) -> Tensor:
    """The stack's rates with every time step as plain torch operations."""
    x = [rows] * T
    for layer in stack.layers:
        assert isinstance(layer, SpikingLayer)
        neuron, surrogate = layer.neuron, layer.surrogate
        weight, bias = layer.weights()
        v = layer.v_init.expand(len(rows), -1)
        flow, lift = torch.zeros_like(v), torch.zeros_like(v)
        out = []
        for t in range(T):
            flow = neuron.extra("current_decay") * flow + nn.functional.linear(x[t], weight, bias)
            v = layer.decay() * v + flow
            theta = layer.v_threshold
            over = v - theta - neuron.extra("adaptation") * lift
            s = _Step.apply(over / theta, surrogate.name, surrogate.slope)
            lift = neuron.extra("adaptation_decay") * lift + s
            held = s.detach() if neuron.detach_reset else s
            v = v * (1 - held) if neuron.reset == "zero" else v - held * theta
            out.append(s)
        late = neuron.delay_steps
        x = [torch.zeros_like(out[0])] * late + out[: T - late]
    return torch.stack(x).sum(0) / T


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("rules", RULES[::2], ids=str)
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_the_equations(
    surrogate: str, rules: dict[str, Any], detach: bool, dtype: torch.dtype
) -> None:
    stack = stack_of(surrogate=surrogate, detach_reset=detach, v_threshold=1.5, **rules)
    stack = stack.to(torch.float64)
    for layer in stack.layers:
        layer.learn_v_init()
    rows = torch.randn(30, 5, dtype=torch.float64, requires_grad=True)
    inputs = [rows, *stack.parameters()]
    wanted = torch.autograd.grad((by_autograd(stack, rows) ** 2).sum(), inputs)
    ours = stack.to(dtype)
    leaf = rows.detach().to(dtype).requires_grad_()
    inputs = [leaf, *ours.parameters()]
    found = torch.autograd.grad((ours(leaf) ** 2).sum(), inputs)
    for a, b in zip(found, wanted, strict=True):
        scale = float(b.abs().max())
        assert scale > 0
        assert float((a.double() - b).abs().max()) < (1e-10 if dtype is torch.float64 else 3e-4) * (
            scale
        )


def test_weights_of_few_bits_are_trained_and_exported_as_rounded() -> None:
    stack = stack_of(weight_bits=4)
    layer = stack.to_layers()[0]
    assert isinstance(layer, Dense)
    assert len(np.unique(np.abs(layer.weight))) <= 8
    rows = torch.randn(100, 5)
    with torch.no_grad():
        found = stack.eval()(rows)
    np.testing.assert_array_equal(found.numpy(), reference_rates(stack, rows).astype(np.float32))
    stack.train()(rows).sum().backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in stack.layers[0].synapses.parameters()
    )


def test_no_potential_is_part_of_the_saved_state() -> None:
    stack = stack_of(kind="PLIF")
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    stack(torch.randn(10, 5))
    stack.eval()(torch.randn(10, 5))
    assert all(torch.equal(before[name], value) for name, value in stack.state_dict().items())


@pytest.mark.parametrize(
    "more",
    [{}, {"current_decay": 0.3}, {"adaptation": 0.2, "adaptation_decay": 0.7}],
    ids=["LIF", "CLIF", "ALIF"],
)
def test_layers_of_a_network_come_in_as_they_are(more: dict[str, float]) -> None:
    rng = np.random.default_rng(0)
    original = Dense(
        rng.normal(size=(6, 5)).astype(np.float32),
        rng.normal(size=6).astype(np.float32),
        v_init=rng.random(6).astype(np.float32),
        v_threshold=(1 + rng.random(6)).astype(np.float32),
        decay=np.linspace(0.5, 0.9, 6).astype(np.float32),
        reset="zero",
        delay_steps=1,
        **more,
    )
    again = SpikingLayer.of(original).to_layer()
    one, other = (SpikingNetwork((layer,)) for layer in (original, again))
    assert one.fingerprint() == other.fingerprint()


def test_decays_of_what_is_not_there_may_be_any() -> None:
    SpikingLayer.of(Dense(np.eye(2), adaptation_decay=[0.5, 0.6]))


def test_what_cannot_be_trained_is_refused_by_name() -> None:
    layer = Dense(np.eye(2), recurrent=np.eye(2), refractory_steps=1, v_min=-1.0)
    with pytest.raises(SpikerlError, match=r"(?s)recurrent weights.*refractory_steps 1.*v_min -1"):
        SpikingLayer.of(layer)
    layer = Dense(np.eye(2), current_decay=[0.5, 0.6], adaptation=0.1)
    both = r"(?s)both a synaptic current and adaptation.*several values of current_decay"
    with pytest.raises(SpikerlError, match=both):
        SpikingLayer.of(layer)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"kind": "Izhikevich"}, "there are IF, LIF, PLIF, CLIF, ALIF"),
        ({"kind": "LIF", "current_decay": 0.5}, "current_decay belongs to CLIF, the neuron is LIF"),
        ({"kind": "ALIF", "adaptation_decay": 1.0}, r"adaptation_decay must be in \(0, 1\)"),
        ({"surrogate": "step"}, "there are fast_sigmoid, arctan, sigmoid, triangle, rectangle"),
        ({"kind": "IF", "decay": 0.9}, "LIF leaks"),
        ({"kind": "LIF", "decay": 1.5}, r"decay must be in \(0, 1\], found 1.5"),
        ({"reset": "half"}, "reset is 'half'; wanted one of subtract, zero"),
        ({"delay_steps": -1}, "delay_steps must be a whole number >= 0, found -1"),
        ({"v_threshold": 0}, "v_threshold must be > 0, found 0"),
        ({"weight_bits": 1}, "weight_bits must be a whole number >= 2, found 1"),
        ({"slope": -1.0}, "the slope of a surrogate must be > 0, found -1"),
    ],
)
def test_a_neuron_that_cannot_be_is_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(SpikerlError, match=message):
        Neuron(**rules)


def test_every_problem_of_a_neuron_is_told_at_once() -> None:
    with pytest.raises(SpikerlError, match=r"(?s)reset is 'half'.*delay_steps.*weight_bits"):
        Neuron(reset="half", delay_steps=1.5, weight_bits=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("sim_steps", [0, -3, 2.5, True])
def test_steps_that_are_none_are_refused(sim_steps: Any) -> None:
    with pytest.raises(
        SpikerlError, match=f"sim_steps must be a whole number >= 1, found {sim_steps}"
    ):
        SpikingMLP(3, [4], sim_steps=sim_steps)


def test_delays_that_outlast_the_decision_are_refused() -> None:
    with pytest.raises(SpikerlError, match="none arrives within sim_steps=4"):
        SpikingMLP(3, [4, 4], sim_steps=4, neuron=Neuron(delay_steps=2))


def test_a_stack_needs_layers() -> None:
    with pytest.raises(SpikerlError, match=r"needs hidden layers, found net_arch=\[\]"):
        SpikingMLP(3, [])


def test_the_slope_can_change_during_training() -> None:
    stack = stack_of()
    rows = torch.randn(20, 5)
    sums = []
    for slope in (1.0, 8.0):
        for layer in stack.layers:
            layer.surrogate.slope = slope
        stack.zero_grad()
        stack(rows).sum().backward()
        sums.append(float(stack.layers[0].synapses.weight.grad.abs().sum()))
    assert sums[0] > 1.5 * sums[1]
    assert Surrogate("triangle").slope == 1.0


def test_weights_changed_behind_torch_s_back_are_seen() -> None:
    stack = stack_of().eval()
    rows = torch.randn(3, 5)
    with torch.no_grad():
        first = stack(rows)
        before = [part._version for part in stack.parameters()]
        for part in stack.parameters():
            part.data.mul_(-1.5)
        assert before == [part._version for part in stack.parameters()]
        assert not torch.equal(stack(rows), first)
    assert np.allclose(stack(rows).detach().numpy(), reference_rates(stack, rows))


def decides_as_the_reference(stack: SpikingStack, rows: Tensor) -> bool:
    with torch.no_grad():
        found = stack.eval()(rows).double().numpy()
    return bool(np.allclose(found, reference_rates(stack, rows)) and found.any())


def test_parameters_that_lie_elsewhere_now_are_seen() -> None:
    stack, other = stack_of().eval(), stack_of(seed=1)
    rows = torch.randn(3, 5)
    assert decides_as_the_reference(stack, rows)
    for part in stack.parameters():
        part.data = part.data * -1.5  # as SB3's load_from_vector() does
    assert decides_as_the_reference(stack, rows)
    stack.load_state_dict(other.state_dict(), assign=True)
    assert decides_as_the_reference(stack, rows)
    with torch.no_grad():
        other.double().layers[1].synapses.bias.add_(0.5)
    assert decides_as_the_reference(stack, rows)
    stack.double()
    assert decides_as_the_reference(stack, rows.double())


def test_parameters_turned_round_in_place_are_seen() -> None:
    stack, rows = stack_of(widths=(5, 5)).eval(), torch.randn(3, 5)
    assert decides_as_the_reference(stack, rows)
    for layer in stack.layers:
        layer.synapses.weight.data = layer.synapses.weight.data.t()
    assert decides_as_the_reference(stack, rows)


def test_layers_that_are_others_now_are_seen() -> None:
    stack, rows = stack_of().eval(), torch.randn(3, 5)
    assert decides_as_the_reference(stack, rows)
    before = stack.decide(rows)
    stack.layers[0].neuron = Neuron(reset="zero")
    assert decides_as_the_reference(stack, rows)
    assert not torch.equal(stack.decide(rows), before)
    stack.layers[1] = stack_of(widths=(24, 9)).layers[1]
    assert decides_as_the_reference(stack, rows)
    stack.layers.append(SpikingLayer(nn.Linear(9, 4), Neuron(), (9,)))
    with torch.no_grad():
        stack.layers[2].synapses.bias.fill_(0.5)
    assert decides_as_the_reference(stack, rows)


def test_training_that_has_come_to_no_numbers_decides_all_the_same() -> None:
    """What the algorithm makes of them is its own: no decision is the place to stop it."""
    stack, rows = stack_of(kind="PLIF").eval(), torch.randn(3, 5)
    with torch.no_grad():
        stack.layers[1].synapses.weight.fill_(torch.nan)
        stack.layers[0].decay_logit.fill_(-200.0)
        alone = [stack(row[None]) for row in rows]
        assert torch.equal(stack(rows), torch.cat(alone))


def test_a_learned_decay_may_start_from_none_at_all() -> None:
    """Neurons without a leak take a shorter way, which ends where a leak is learned."""
    stack, rows = stack_of(kind="PLIF"), torch.randn(3, 5)
    for logit in (50.0, 0.0, 50.0):
        for layer in stack.layers:
            layer.decay_logit.data.fill_(logit)
        assert stack.layers[0].decay().detach()[0] == (1.0 if logit else 0.5)
        assert decides_as_the_reference(stack, rows)


@pytest.mark.parametrize("counts", [(1, 300), (600, 1, 257)])
def test_any_number_of_rows_decides_after_any_other(counts: tuple[int, ...]) -> None:
    stack = stack_of(kind="LIF")
    for count in counts:
        assert decides_as_the_reference(stack, torch.randn(count, 5))


def test_threads_may_share_a_stack() -> None:
    stack, rows = stack_of(widths=(200, 100)).eval(), torch.randn(40, 64, 5)
    with torch.no_grad():
        expected = [stack(each) for each in rows]

    def decide(each: Tensor) -> Tensor:
        with torch.no_grad():  # which is a thread's own
            found: Tensor = stack(each)
        return found

    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(decide, rows), expected, strict=True):
            assert torch.equal(found, alone)


@pytest.mark.parametrize("copied", [deepcopy, lambda stack: pickle.loads(pickle.dumps(stack))])
def test_a_copy_decides_by_its_own_weights(copied: Any) -> None:
    stack, rows = stack_of(), torch.randn(3, 5)
    assert decides_as_the_reference(stack, rows)
    twin = copied(stack)
    with torch.no_grad():
        for part in twin.parameters():
            part.mul_(-1.5)
    for one in (twin, stack):
        assert decides_as_the_reference(one, rows)


@pytest.mark.parametrize("rows", [1, 3, 8, 24])
def test_rows_that_are_joined_for_speed_stay_apart(rows: int) -> None:
    """The compiled loops take several rows as one where their number allows it."""
    stack = stack_of(kind="PLIF")
    x = torch.randn(rows, 5)
    together = stack(x)
    together.square().sum().backward()
    gradients = [part.grad for part in stack.parameters()]
    alone = [stack(row[None]) for row in x]
    assert torch.equal(together, torch.cat(alone))
    stack.zero_grad()
    sum(part.square().sum() for part in alone).backward()
    for part, gradient in zip(stack.parameters(), gradients, strict=True):
        assert gradient is not None
        assert torch.allclose(part.grad, gradient, rtol=1e-4, atol=1e-5)
