"""NIR: what is written comes back as it was, and other programs' readers compute the same."""

import warnings

import numpy as np
import pytest
from foreign import library, outputs, quarters
from small_agents import pole

from spikerl.errors import ConversionError, ConversionWarning, SpikerlError
from spikerl.network import AvgPool2d, Conv2d, Dense, Flatten, SpikingNetwork
from spikerl.reference import simulate

nir = library("nir")
from spikerl.nir import from_nir, read, to_nir, write  # noqa: E402

HARD = {"reset": "zero"}


def dense(rng, n_out, n_in, **fields):
    bias = rng.integers(-2, 5, n_out) / 8.0
    return Dense(quarters(rng, n_out, n_in), bias, **fields)


def rows(seed=1):
    """Two hidden layers and an output that fires; every number dyadic, every threshold met."""
    rng = np.random.default_rng(seed)
    thresholds = rng.integers(2, 6, 12) / 4.0
    layers = [
        dense(rng, 12, 5, v_threshold=thresholds, **HARD),
        dense(rng, 9, 12, v_threshold=0.75, **HARD),
        dense(rng, 4, 9, **HARD),
    ]
    return SpikingNetwork(layers, dt_ms=0.1)


def uniform(network):
    """The same with one threshold per layer, which SpikingJelly's reader wants."""
    first = network.layers[0]
    same = Dense(first.weight, first.bias, v_threshold=1.25, **HARD)
    return SpikingNetwork((same, *network.layers[1:]), network.dt_ms)


def maps():
    rng = np.random.default_rng(2)
    first = Conv2d(quarters(rng, 3, 2, 3, 3), (2, 6, 5), stride=(1, 2), padding=(1, 1), **HARD)
    return SpikingNetwork(
        [
            first,
            AvgPool2d((3, 6, 3), (2, 2), (2, 1)),
            Conv2d(quarters(rng, 4, 3, 2, 2), (3, 3, 2), quarters(rng, 4), **HARD),
            Flatten((4, 2, 1)),
            dense(rng, 3, 8, **HARD),
        ],
        dt_ms=0.1,
    )


def everything():
    """Every field that the contract has, in one network."""
    rng = np.random.default_rng(3)
    return SpikingNetwork(
        [
            Conv2d(quarters(rng, 3, 2, 2, 2), (2, 4, 4), v_init=quarters(rng, 27), delay_steps=3),
            dense(rng, 7, 27, decay=rng.uniform(0.1, 0.99, 7), refractory_steps=2, **HARD),
            dense(rng, 6, 7, recurrent=quarters(rng, 6, 6), delay_steps=1, v_min=-1, decay=0.9),
            dense(rng, 3, 6, decay=0.7, v_init=0.1, spiking=False),
        ],
        dt_ms=0.3,
    )


def two_layers():
    """Two layers that a delay node lies between."""
    rng = np.random.default_rng(4)
    layers = [dense(rng, 4, 4, delay_steps=3, **HARD), dense(rng, 3, 4, **HARD)]
    return SpikingNetwork(layers)


def drive(network, sim_steps=20, n_rows=3, seed=5):
    return quarters(np.random.default_rng(seed), sim_steps, n_rows, network.n_in, low=-4, high=8)


def quietly(function, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        return function(*arguments, **options)


@pytest.mark.parametrize("readout", ["node", "current"])
@pytest.mark.parametrize("make", [rows, maps, everything])
def test_a_network_comes_back_as_it_was(make, readout, tmp_path):
    network = make()
    for dt in (None, 1e-4, 0.37):
        graph = quietly(to_nir, network, readout=readout, dt=dt)
        assert from_nir(graph).fingerprint() == network.fingerprint()
        quietly(write, network, tmp_path / "net.nir", readout=readout, dt=dt)
        assert read(tmp_path / "net.nir").fingerprint() == network.fingerprint()


def test_the_time_step_is_the_networks_own_or_the_one_asked_for():
    own, asked = to_nir(rows()), to_nir(rows(), dt=1e-3)
    assert own.metadata["dt"] == pytest.approx(1e-4)
    assert own.nodes["if_0"].r == pytest.approx(1e4)
    assert asked.metadata["dt"] == 1e-3
    assert (asked.nodes["if_0"].r == 1e3).all()


def test_a_leak_is_written_as_its_time_constant():
    network = SpikingNetwork([Dense([[0.5]], decay=0.75, **HARD)])
    node = to_nir(network, dt=0.001).nodes["lif_0"]
    assert node.tau == pytest.approx(0.004)
    assert node.r == pytest.approx(4)
    assert not node.v_leak.any()


def test_an_agents_network_is_written_with_its_steps():
    agent = pole()
    graph = quietly(to_nir, agent)
    assert graph.metadata["spikerl"]["sim_steps"] == agent.sim_steps
    assert from_nir(graph).fingerprint() == agent.network.fingerprint()


def test_a_warning_names_all_that_only_the_metadata_say():
    network = everything()
    wanted = [
        "layer 0: reset='subtract'",
        "layer 0: v_init",
        "layer 1: refractory_steps=2",
        "layer 2: reset='subtract'",
        "layer 2: v_min=-1",
        "layer 3: v_init",
    ]
    with pytest.warns(ConversionWarning) as caught:
        to_nir(network)
    (text,) = [str(warning.message) for warning in caught]
    assert [line[4:].split(";")[0] for line in text.splitlines()[1:]] == wanted
    with pytest.raises(ConversionError) as refused:
        to_nir(network, portable=True)
    assert len(refused.value.problems) == len(wanted)
    to_nir(rows(), portable=True)


def test_what_cannot_be_written_is_refused_all_at_once():
    wide = np.ones((1, 1, 2, 3))
    network = SpikingNetwork(
        [
            Dense(np.eye(9), decay=np.linspace(0.5, 1, 9)),
            Conv2d(wide, (1, 3, 3)),
            Dense(np.ones((2, 2)), recurrent=np.ones((2, 2)), delay_steps=2),
            Dense(np.ones((1, 2))),
        ]
    )
    with pytest.raises(ConversionError) as caught:
        to_nir(network)
    told = caught.value.problems
    assert len(told) == 4
    assert "some neurons leak and some do not" in told[0]
    assert "reads (9,) as a map of (1, 3, 3)" in told[1]
    assert "only square kernels" in told[2]
    assert "delay_steps must be 0 or 1" in told[3]
    for options, text in (
        ({"dt": 0.0}, "found 0.0"),
        ({"dt": float("nan")}, "found nan"),
        ({"readout": "potential"}, "wanted 'node' or 'current'"),
    ):
        with pytest.raises(ConversionError, match=text):
            to_nir(rows(), **options)
    with pytest.raises(SpikerlError, match="found str, wanted a SpikingNetwork"):
        to_nir("agent.spk")


def test_a_file_is_read_only_with_a_time_step_and_metadata_that_fit_it():
    graph = to_nir(rows())
    with pytest.raises(ConversionError, match=r"written with dt=0\.0001.*found dt=0\.001"):
        from_nir(graph, dt=0.001)
    graph.nodes["if_1"].v_threshold = graph.nodes["if_1"].v_threshold * 2
    with pytest.raises(ConversionError, match=r"'if_1' \(IF\) has another v_threshold"):
        from_nir(graph)
    plain = from_nir(graph, metadata=False)
    assert plain.layers[1].v_threshold == pytest.approx(1.5)
    delayed = to_nir(two_layers())
    delayed.nodes["delay_0"].delay = delayed.nodes["delay_0"].delay * 2
    with pytest.raises(ConversionError, match=r"'if_0' \(IF\) says delay_steps=3, and 6 follow"):
        from_nir(delayed)
    del graph.metadata["dt"]
    with pytest.raises(ConversionError, match="does not say its time step"):
        from_nir(graph, metadata=False)
    with pytest.raises(SpikerlError, match="found IF, wanted a nir"):
        from_nir(graph.nodes["if_0"])


def norse_spikes(network, x):
    torch, norse = library("torch"), library("norse.torch")
    library("nirtorch")
    dt = 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.jit, in norse
        model = norse.from_nir(to_nir(network, dt=dt, portable=True), dt=dt, ignore_warnings=True)
        return outputs(torch, model, x, torch.float32)


def spikingjelly_spikes(network, x):
    torch, exchange = library("torch"), library("spikingjelly.activation_based.nir_exchange")
    library("nirtorch")
    model = exchange.import_from_nir(
        to_nir(network, dt=1e-4, portable=True), dt=1e-4, dtype=torch.float32
    )
    shape = network.layers[0].input_shape if isinstance(network.layers[0], Conv2d) else (-1,)

    def step(row, state):
        return model(row.reshape(len(row), *shape), state)

    return outputs(torch, step, x, torch.float32)


def leaky():
    rng = np.random.default_rng(8)
    layers = [dense(rng, 8, 5, decay=0.5, **HARD), dense(rng, 4, 8, decay=0.75, **HARD)]
    return SpikingNetwork(layers, dt_ms=0.1)


def recurrent():
    rng = np.random.default_rng(9)
    layers = [dense(rng, 8, 5, recurrent=quarters(rng, 8, 8), **HARD), dense(rng, 4, 8, **HARD)]
    return SpikingNetwork(layers, dt_ms=0.1)


@pytest.mark.parametrize(
    ("reader", "network", "sim_steps"),
    [
        pytest.param(norse_spikes, rows(), 40, id="norse"),
        pytest.param(spikingjelly_spikes, uniform(rows()), 40, id="spikingjelly"),
        pytest.param(spikingjelly_spikes, maps(), 20, id="spikingjelly-maps"),
        pytest.param(spikingjelly_spikes, leaky(), 9, id="spikingjelly-leaky"),
        pytest.param(spikingjelly_spikes, recurrent(), 20, id="spikingjelly-recurrent"),
    ],
)
def test_readers_of_other_programs_compute_every_spike_of_ours(reader, network, sim_steps):
    x = drive(network, sim_steps)
    wanted = simulate(network, x)
    assert 0.05 < wanted.spikes[-1].mean() < 0.95
    assert np.array_equal(reader(network, x), wanted.spikes[-1])


def test_thresholds_are_met_exactly_in_what_the_readers_were_given():
    """Else the test above would not tell >= from >."""
    above = [
        Dense(layer.weight, layer.bias, v_threshold=layer.v_threshold + 2**-20, **HARD)
        for layer in rows().layers
    ]
    x = drive(rows(), 40)
    strict = simulate(SpikingNetwork(above), x)
    assert not np.array_equal(strict.spikes[-1], simulate(rows(), x).spikes[-1])


def test_synaptic_currents_and_adaptation_are_refused() -> None:
    network = SpikingNetwork((Dense([[1.0]], current_decay=0.5), Dense([[1.0]], adaptation=0.1)))
    with pytest.raises(ConversionError, match=r"(?s)layer 0: synaptic currents.*layer 1: synaptic"):
        to_nir(network, dt=1e-3)
