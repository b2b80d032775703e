"""Nodes of NIR that others write: read as NIR defines them, or refused by name."""

from itertools import pairwise

import numpy as np
import pytest
from foreign import library

from spikerl.errors import ConversionError, ConversionWarning

nir = library("nir")
from spikerl.nir import from_nir  # noqa: E402


def by_list(*nodes):
    return nir.NIRGraph.from_list(*nodes)


def neurons(n=2, kind=nir.IF, **fields):
    ones = np.ones(n)
    given = {"r": ones, "v_threshold": ones, "v_reset": 0 * ones}
    if kind is nir.LIF:
        given |= {"tau": 4 * ones, "r": 4 * ones, "v_leak": 0 * ones}
    return kind(**{**given, **fields})


def test_the_nodes_of_others_are_read_as_nir_defines_them():
    weights = nir.Affine(weight=np.array([[1.0, 0.5], [0.25, 1.0]]), bias=np.array([0.0, 0.5]))
    lif = neurons(kind=nir.LIF, r=np.array([4.0, 2.0]))
    network = from_nir(by_list(weights, lif), dt=1.0)
    (layer,) = network.layers
    assert layer.reset == "zero"
    assert layer.decay == 0.75
    assert np.array_equal(layer.weight, [[1.0, 0.5], [0.125, 0.5]])  # r * dt / tau = 1 and 1/2
    assert np.array_equal(layer.bias, [0.0, 0.25])
    assert layer.v_threshold == np.nextafter(1.0, 2.0)  # NIR fires above its threshold
    assert network.dt_ms == 1000.0
    (layer,) = from_nir(by_list(weights, lif), dt=1.0, fires_at_threshold=True).layers
    assert layer.v_threshold == 1.0


def test_an_r_that_scales_the_input_is_told():
    graph = by_list(nir.Linear(weight=np.eye(2)), neurons(r=np.full(2, 100.0)))
    with pytest.warns(ConversionWarning, match=r"node 'if' \(IF\): r \* dt = 0\.1"):
        network = from_nir(graph, dt=1e-3)
    assert np.allclose(network.layers[0].weight, 0.1 * np.eye(2), rtol=1e-15)


def test_weights_at_the_end_become_a_readout_that_sums():
    graph = by_list(nir.Linear(weight=np.eye(2)), neurons(), nir.Linear(weight=np.eye(2)))
    with pytest.warns(ConversionWarning, match="'linear_1'.* a read-out sums"):
        network = from_nir(graph, dt=1.0)
    assert not network.readout.spiking


def chain(*nodes):
    """A graph whose types nobody checks, as old files are."""
    names = {f"n{i}": node for i, node in enumerate(nodes)}
    return nir.NIRGraph(names, list(zip(names, list(names)[1:], strict=False)), type_check=False)


ROW = np.array([2])
IN, OUT = nir.Input(ROW), nir.Output(ROW)
MAP = nir.Input(np.array([1, 4, 4]))
EYE = nir.Linear(weight=np.eye(2))


def conv(**fields):
    given = {"input_shape": (4, 4), "weight": np.ones((1, 1, 2, 2)), "stride": 1, "padding": 0}
    return nir.Conv2d(**{**given, "dilation": 1, "groups": 1, "bias": np.zeros(1), **fields})


def pool(padding=0):
    two = np.array([2, 2])
    return nir.AvgPool2d(kernel_size=two, stride=two, padding=np.array([padding] * 2))


def cuba(n=2):
    ones = np.ones(n)
    return nir.CubaLIF(tau_syn=ones, tau_mem=ones, r=ones, v_leak=ones, v_threshold=ones, w_in=ones)


def test_delays_add_up():
    delays = [nir.Delay(np.full(2, steps)) for steps in (1.0, 2.0)]
    graph = chain(IN, EYE, neurons(), *delays, EYE, neurons(), OUT)
    assert from_nir(graph, dt=1.0).layers[0].delay_steps == 3


def looped(*after):
    names = {"in": IN, "a": EYE, "s": neurons(), "loop": EYE}
    names |= {f"n{i}": node for i, node in enumerate(after)}
    order = [name for name in names if name != "loop"]
    edges = [*pairwise(order), ("s", "loop"), ("loop", "s")]
    return nir.NIRGraph(names, edges, type_check=False)


REFUSED = {
    "delayed loop": (
        looped(nir.Delay(np.full(2, 2.0)), EYE, neurons(), OUT),
        "longer for the others than for themselves",
    ),
    "another neuron": (chain(IN, EYE, cuba(), OUT), "CubaLIF has no counterpart"),
    "no output": (chain(IN, EYE, neurons()), "0 Output nodes"),
    "no weights": (chain(IN, neurons(), OUT), "has no weights of its own"),
    "two weights": (chain(IN, EYE, EYE, neurons(), OUT), "without neurons between them"),
    "v_reset": (chain(IN, EYE, neurons(v_reset=np.ones(2)), OUT), "v_reset != 0"),
    "v_leak": (chain(IN, EYE, neurons(kind=nir.LIF, v_leak=np.ones(2)), OUT), "v_leak != 0"),
    "short tau": (chain(IN, EYE, neurons(kind=nir.LIF, tau=np.ones(2)), OUT), "tau <= dt"),
    "width": (chain(nir.Input(np.array([3])), EYE, neurons(), OUT), "reads 2 numbers where 3"),
    "delay": (chain(IN, nir.Delay(np.ones(2)), EYE, neurons(), OUT), "does not follow neurons"),
    "half a step": (
        chain(IN, EYE, neurons(), nir.Delay(np.full(2, 0.5)), EYE, neurons(), OUT),
        "not one whole number of steps",
    ),
    "pool of rows": (chain(IN, pool(), EYE, neurons(), OUT), "wanted a map"),
    "padded pool": (chain(MAP, pool(1), nir.Flatten(None), OUT), "has padding"),
    "pool after weights": (chain(MAP, conv(), pool(), OUT), "stands between"),
    "groups": (chain(MAP, conv(groups=2), neurons(9), OUT), "groups=2"),
    "dilation": (chain(MAP, conv(dilation=2), neurons(4), OUT), "dilation="),
    "same": (chain(MAP, conv(padding="same"), neurons(16), OUT), "padding='same'"),
    "part flattened": (chain(MAP, nir.Flatten(None, 1, -1), OUT), "not all"),
    "r in a channel": (
        chain(MAP, conv(), neurons(9, r=np.arange(1.0, 10.0)), OUT),
        "differently within a channel",
    ),
    "no shape": (chain(nir.Input(None), conv(input_shape=None), neurons(9), OUT), "does not say"),
    "no neurons": (chain(MAP, nir.Flatten(None, 0), OUT), "no neurons or weights at the end"),
    "an integrator in the middle": (
        chain(IN, EYE, nir.I(np.ones(2)), EYE, neurons(), OUT),
        "never fires, so nothing may come after it",
    ),
    "branch": (
        nir.NIRGraph(
            {"in": IN, "a": EYE, "b": EYE, "s": neurons(), "out": OUT},
            [("in", "a"), ("in", "b"), ("a", "s"), ("b", "s"), ("s", "out")],
            type_check=False,
        ),
        "goes to 2 nodes",
    ),
    "loop of neurons": (
        nir.NIRGraph(
            {"in": IN, "a": EYE, "s": neurons(), "loop": neurons(), "out": OUT},
            [("in", "a"), ("a", "s"), ("s", "loop"), ("loop", "s"), ("s", "out")],
            type_check=False,
        ),
        "only one Linear around IF or LIF",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_contract_cannot_say_is_refused_by_name(name):
    graph, text = REFUSED[name]
    with pytest.raises(ConversionError) as caught:
        from_nir(graph, dt=1.0)
    assert text in str(caught.value)


def test_every_problem_of_a_graph_is_told_at_once():
    bad = neurons(kind=nir.LIF, v_leak=np.ones(2), v_reset=np.ones(2), tau=np.ones(2))
    with pytest.raises(ConversionError) as caught:
        from_nir(chain(IN, EYE, bad, EYE, EYE, bad, OUT), dt=1.0)
    assert len(caught.value.problems) == 7
