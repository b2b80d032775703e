"""Networks of other libraries fire in the same steps here as there."""

import numpy as np
import pytest
from foreign import (
    MAP,
    drive,
    dyadic,
    half_leaking,
    level,
    library,
    maps,
    outputs,
    rows,
    spikingjelly,
)

from spikerl.errors import ConversionError
from spikerl.reference import simulate

torch = library("torch")
from torch import nn  # noqa: E402

from spikerl.importers import from_norse, from_snntorch, from_spikingjelly  # noqa: E402


@pytest.fixture(scope="module")
def sj():
    return spikingjelly()


@pytest.fixture(scope="module")
def snn():
    return library("snntorch")


@pytest.fixture(scope="module")
def norse():
    return library("norse.torch")


def equal_spikes(network, x, found):
    wanted = simulate(network, x).spikes[-1]
    assert 0.03 < wanted.mean() < 0.97
    assert np.array_equal(found, wanted)


def ties_decide(network, x, by=2.0**-20):
    """Whether thresholds are met exactly: else a test could not tell >= from >."""
    from dataclasses import replace

    from spikerl.network import NeuronLayer, SpikingNetwork

    moved = [
        [
            replace(each, v_threshold=each.v_threshold + shift)
            if isinstance(each, NeuronLayer)
            else each
            for each in network.layers
        ]
        for shift in (by, -by)
    ]
    up, down = (simulate(SpikingNetwork(layers), x).spikes for layers in moved)
    return any((a != b).any() for a, b in zip(up, down, strict=True))


SPIKINGJELLY = {
    "IFNode": (lambda n: n.IFNode(), 40),
    "IFNode subtract": (lambda n: n.IFNode(v_threshold=0.75, v_reset=None), 40),
    "IFNode from -1/2": (lambda n: n.IFNode(v_reset=-0.5), 40),
    "SimpleIFNode": (lambda n: n.SimpleIFNode(v_threshold=1.25), 40),
    "HalfThresholdIFNode": (lambda n: n.HalfThresholdIFNode(), 40),
    "LIFNode": (lambda n: n.LIFNode(tau=2.0, v_threshold=0.25), 10),
    "LIFNode input not scaled": (lambda n: n.LIFNode(tau=4.0, decay_input=False), 7),
    "LIFNode subtract": (lambda n: n.LIFNode(tau=2.0, v_reset=None, v_threshold=0.25), 10),
    "LIFNode from 1/4": (lambda n: n.LIFNode(tau=2.0, v_reset=0.25, v_threshold=0.75), 10),
    "SimpleLIFNode": (lambda n: n.SimpleLIFNode(2.0, True, v_threshold=0.25), 10),
    "ParametricLIFNode": (lambda n: n.ParametricLIFNode(init_tau=2.0, v_threshold=0.5), 10),
    "ParametricLIFNode not scaled": (
        lambda n: n.ParametricLIFNode(init_tau=2.0, decay_input=False, v_reset=None),
        10,
    ),
}


@pytest.mark.parametrize("shape", [None, MAP], ids=["rows", "maps"])
@pytest.mark.parametrize("name", SPIKINGJELLY)
def test_spikingjelly_neurons_fire_in_the_same_steps(sj, name, shape):
    make, sim_steps = SPIKINGJELLY[name]
    build = (rows if shape is None else maps)(sj.layer)
    net = dyadic(nn.Sequential(*build(lambda: make(sj.neuron))))
    network = from_spikingjelly(net, input_shape=shape)
    x = drive(network.n_in, sim_steps)

    def step(row, state):
        return net(row if shape is None else row.reshape(-1, *shape)), None

    equal_spikes(network, x, outputs(torch, step, x, torch.float32))
    sj.functional.reset_net(net)
    sj.functional.set_step_mode(net, "m")
    simple = any(isinstance(m, sj.neuron.SimpleBaseNode) for m in net)
    if not simple:  # all steps at once
        whole = torch.tensor(x, dtype=torch.float32)
        with torch.no_grad():
            found = net(whole if shape is None else whole.reshape(*x.shape[:2], *shape))
        equal_spikes(from_spikingjelly(net, input_shape=shape), x, found.numpy())
    if shape is None and "from" not in name:
        assert ties_decide(network, x)


def test_spikingjelly_delays_containers_and_readouts(sj):
    layer, neuron = sj.layer, sj.neuron
    for last in (neuron.NonSpikingIFNode(), neuron.NonSpikingLIFNode(2.0, decode="last_mem")):
        net = dyadic(
            nn.Sequential(
                nn.Sequential(layer.Linear(5, 9), neuron.IFNode(), nn.Identity()),
                layer.Delay(2),
                layer.Dropout(),
                layer.SeqToANNContainer(nn.Linear(9, 3)),
                last,
            )
        )
        network = from_spikingjelly(net, dt_ms=0.5)
        assert network.dt_ms == 0.5
        assert network.layers[0].delay_steps == 2
        x = drive(5, 12)
        sj.functional.set_step_mode(net, "m")
        with torch.no_grad():
            found = net(torch.tensor(x, dtype=torch.float32))
        potential = found if last.decode else found[-1]
        assert np.array_equal(simulate(network, x).potential, potential.numpy())


SNNTORCH = {
    "Leaky beta 1": (lambda s: s.Leaky(beta=1.0, init_hidden=True), 40),
    "Leaky": (lambda s: s.Leaky(beta=0.5, init_hidden=True), 12),
    "Leaky beta 3/4": (lambda s: s.Leaky(beta=0.75, threshold=1.5, init_hidden=True), 6),
    "Leaky zero": (lambda s: s.Leaky(0.5, reset_mechanism="zero", init_hidden=True), 12),
    "Leaky zero at once": (
        lambda s: s.Leaky(0.5, reset_mechanism="zero", reset_delay=False, init_hidden=True),
        12,
    ),
    "Leaky surrogate": (
        lambda s: s.Leaky(0.5, spike_grad=s.surrogate.fast_sigmoid(), init_hidden=True),
        12,
    ),
    "Lapicque": (lambda s: s.Lapicque(R=1, C=2, threshold=0.25, init_hidden=True), 12),
    "Lapicque zero": (
        lambda s: s.Lapicque(R=1, C=2, threshold=0.25, reset_mechanism="zero", init_hidden=True),
        12,
    ),
}


@pytest.mark.parametrize("name", SNNTORCH)
def test_snntorch_neurons_fire_in_the_same_steps(snn, name):
    make, sim_steps = SNNTORCH[name]
    net = dyadic(nn.Sequential(*rows(nn)(lambda: make(snn))))
    network = from_snntorch(net)
    x = drive(5, sim_steps)
    equal_spikes(network, x, outputs(torch, lambda row, _: (net(row), None), x, torch.float32))
    assert ties_decide(network, x)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("loop", ["linear", "one to one"])
def test_recurrent_snntorch_neurons_fire_in_the_same_steps(snn, loop, reset):
    kinds = {"linear": {"linear_features": 8}, "one to one": {"all_to_all": False, "V": -0.5}}
    cell = snn.RLeaky(0.5, **kinds[loop], reset_mechanism=reset, init_hidden=True)
    net = dyadic(nn.Sequential(nn.Linear(5, 8), cell))
    network = from_snntorch(net)
    x = drive(5, 12)
    equal_spikes(network, x, outputs(torch, lambda row, _: (net(row), None), x, torch.float32))


@pytest.mark.parametrize("name", ["Leaky beta 1", "Leaky zero"])
def test_snntorch_maps_fire_in_the_same_steps(snn, name):
    make, sim_steps = SNNTORCH[name]
    net = dyadic(nn.Sequential(*maps(nn)(lambda: make(snn))))
    network = from_snntorch(net, input_shape=MAP)
    x = drive(network.n_in, sim_steps)

    def step(row, state):
        return net(row.reshape(-1, *MAP)), None

    equal_spikes(network, x, outputs(torch, step, x, torch.float32))


def test_a_list_of_modules_is_what_forward_goes_through_and_mem_the_readout(snn):
    first, last = dyadic(nn.Linear(5, 9)), dyadic(nn.Linear(9, 3), seed=4)
    hidden = snn.Leaky(beta=0.5, threshold=torch.linspace(0.5, 2.5, 9))
    readout = snn.Leaky(beta=0.75, reset_mechanism="none")
    network = from_snntorch([first, hidden, last, readout])
    x = drive(5, 6)

    def step(row, state):
        spikes, hidden_mem = hidden(first(row), state and state[0])
        _, mem = readout(last(spikes), state and state[1])
        return mem, (hidden_mem, mem)

    found = outputs(torch, step, x, torch.float32)
    assert np.array_equal(simulate(network, x).potential, found[-1])
    summed = from_snntorch([first, hidden, last])
    hidden.reset_mem()
    alone = outputs(
        torch,
        lambda row, state: (last(hidden(first(row), state)[0]), hidden.mem),
        x,
        torch.float32,
    )
    assert np.array_equal(simulate(summed, x).potential, alone.sum(axis=0))


def subtracting(norse):
    method = library("norse.torch.functional.reset").reset_subtract
    return half_leaking(norse, reset_method=method, v_th=torch.tensor(0.25))


NORSE = {
    "IAFCell": (lambda n: n.IAFCell(), 40),
    "IAFCell from -1/2": (lambda n: n.IAFCell(n.IAFParameters(v_reset=level(-0.5))), 40),
    "LIFBoxCell": (lambda n: half_leaking(n, v_th=level(0.25)), 12),
    "LIFBoxCell from 1/4": (
        lambda n: half_leaking(n, v_th=level(0.5), v_leak=level(0.25), v_reset=level(0.25)),
        12,
    ),
    "LIFBoxCell subtract": (subtracting, 12),
    "LIFBoxCell tanh": (lambda n: half_leaking(n, v_th=level(0.25), method="tanh"), 12),
}


@pytest.mark.parametrize("shape", [None, MAP], ids=["rows", "maps"])
@pytest.mark.parametrize("name", NORSE)
def test_norse_neurons_fire_in_the_same_steps(norse, name, shape):
    make, sim_steps = NORSE[name]
    build = (rows if shape is None else maps)(nn)
    net = dyadic(norse.SequentialState(*build(lambda: make(norse))))
    network = from_norse(net, input_shape=shape)
    x = drive(network.n_in, sim_steps)

    def step(row, state):
        return net(row if shape is None else row.reshape(-1, *shape), state)

    equal_spikes(network, x, outputs(torch, step, x, torch.float32))
    if shape is None:
        assert ties_decide(network, x)


def test_norse_readouts_lifted_modules_and_time_steps(norse):
    p = norse.LIBoxParameters(tau_mem_inv=torch.tensor(256.0))
    cells = [nn.Linear(5, 9), norse.IAFCell(dt=2.0**-10), nn.Linear(9, 3)]
    net = dyadic(norse.SequentialState(*cells, norse.LIBoxCell(p, dt=2.0**-10)))
    network = from_norse(net)
    assert network.dt_ms == 1000 / 1024
    x = drive(5, 8)
    found = outputs(torch, net, x, torch.float32)
    assert np.array_equal(simulate(network, x).potential, found[-1])
    lifted = [norse.Lift(net[0]), norse.IAF(), norse.Lift(net[2])]
    network = from_norse(lifted)
    with torch.no_grad():
        whole = torch.tensor(x, dtype=torch.float32)
        found = lifted[2](lifted[1](lifted[0](whole))[0])
    assert np.array_equal(simulate(network, x).potential, found.numpy().sum(axis=0))
    with pytest.raises(
        ConversionError, match=r"different dt, \[0\.0009765625, 0\.001\]: give dt_ms"
    ):
        from_norse([*cells[:2], nn.Linear(9, 3), norse.IAFCell()])
    assert from_norse([*cells[:2], nn.Linear(9, 3), norse.IAFCell()], dt_ms=2).dt_ms == 2
