"""NIR graphs that other programs wrote, files that are none, and a machine without nir."""

import sys
import warnings

import numpy as np
import pytest
from foreign import MAP, drive, dyadic, library, maps, outputs, rows

from spikerl.errors import ConversionError, SpikerlError
from spikerl.network import Dense, SpikingNetwork
from spikerl.nir import from_nir, read, to_nir, write
from spikerl.reference import simulate


def step_of(net, shape):
    def step(row, state):
        return net(row if shape is None else row.reshape(-1, *shape)), None

    return step


NODES = {
    "IFNode": (lambda neuron: neuron.IFNode(), 30),
    "LIFNode": (lambda neuron: neuron.LIFNode(2.0, v_threshold=0.25), 10),
    "LIFNode input not scaled": (lambda neuron: neuron.LIFNode(2.0, decay_input=False), 10),
}


@pytest.mark.parametrize("shape", [None, MAP], ids=["rows", "maps"])
@pytest.mark.parametrize("name", NODES)
def test_graphs_of_spikingjelly_fire_in_the_same_steps(name, shape):
    library("nirtorch")
    torch, nn = library("torch"), library("torch.nn")
    here = "spikingjelly.activation_based"
    neuron, layer, exchange, functional = (
        library(f"{here}.{part}") for part in ("neuron", "layer", "nir_exchange", "functional")
    )
    make, sim_steps = NODES[name]
    build = (rows if shape is None else maps)(layer)
    net = dyadic(nn.Sequential(*build(lambda: make(neuron))))
    example = torch.zeros(1, *(shape or (5,)))
    graph = exchange.export_to_nir(net, example, dt=1e-4)
    functional.reset_net(net)
    network = from_nir(graph, dt=1e-4, fires_at_threshold=True)
    x = drive(network.n_in, sim_steps)
    wanted = simulate(network, x).spikes[-1]
    assert 0.03 < wanted.mean() < 0.97
    assert np.array_equal(outputs(torch, step_of(net, shape), x, torch.float32), wanted)


def test_graphs_of_norse_fire_in_the_same_steps_where_a_step_is_a_unit():
    library("nirtorch")
    torch, nn, norse = library("torch"), library("torch.nn"), library("norse.torch")
    net = dyadic(norse.SequentialState(*rows(nn)(norse.IAFCell)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = norse.to_nir(net, torch.zeros(5))
    network = from_nir(graph, dt=1.0)  # norse writes r = 1
    x = drive(5, 30)
    wanted = simulate(network, x).spikes[-1]
    assert 0.03 < wanted.mean() < 0.97
    assert np.array_equal(outputs(torch, net, x, torch.float32), wanted)


def test_what_is_no_nir_file_is_refused(tmp_path):
    nir = library("nir")
    path = tmp_path / "net.nir"
    with pytest.raises(FileNotFoundError):
        read(path)
    path.write_text("not HDF5")
    with pytest.raises(ConversionError, match=r"nir cannot read .*net\.nir"):
        read(path)
    shapes = {"in": nir.Input(np.array([3])), "out": nir.Output(np.array([2]))}
    nir.write(path, nir.NIRGraph(shapes, [("in", "out")], type_check=False))
    with pytest.raises(ConversionError, match="ValueError: Type inference error"):
        read(path)


def test_metadata_that_are_not_ours_are_left_alone_and_broken_ones_refused():
    library("nir")
    network = SpikingNetwork([Dense([[1.0]], reset="zero")], dt_ms=0.1)
    graph = to_nir(network)
    graph.nodes["if_0"].metadata["spikerl"]["delay_steps"] = "many"
    with pytest.raises(ConversionError, match="metadata delay_steps='many'"):
        from_nir(graph)
    graph.nodes["if_0"].metadata["spikerl"] = "rocks"
    assert from_nir(graph).layers[0].reset == "zero"


def test_without_nir_an_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "nir", None)
    network = SpikingNetwork([Dense([[1.0]], reset="zero")])
    for use in (lambda: to_nir(network), lambda: write(network, tmp_path / "a"), lambda: read("a")):
        with pytest.raises(SpikerlError, match=r"pip install 'spikerl\[nir\]'"):
            use()
