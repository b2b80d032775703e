"""NIR: what is written comes back as it was, and other programs' readers compute the same."""

import warnings
from itertools import pairwise

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
