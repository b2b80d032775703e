"""The neuron contract as data: what is a valid network, and what is refused, all at once."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from spikerl.errors import NetworkError
from spikerl.network import (
    AvgPool2d,
    Conv2d,
    Dense,
    Flatten,
    NeuronLayer,
    Recording,
    SpikingNetwork,
)
from spikerl.reference import simulate


def net(*layers, **fields):
    return SpikingNetwork(layers or (Dense(weight=np.eye(2)),), **fields)


def problems(*layers, **fields):
    with pytest.raises(NetworkError) as caught:
        net(*layers, **fields)
    return caught.value.problems


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"weight": [[np.nan, 1.0], [0.0, np.inf]]},
            "weight has 2 values that are NaN or infinite",
        ),
        ({"weight": [1.0, 2.0]}, "weight must be [n_out, n_in] with both > 0, found shape (2,)"),
        ({"weight": np.zeros((0, 2))}, "weight must be [n_out, n_in] with both > 0"),
        ({"bias": [1.0]}, "bias has shape (1,), wanted (2,)"),
        ({"bias": [np.nan, 0.0]}, "bias has 1 values that are NaN"),
        ({"recurrent": np.eye(3)}, "recurrent has shape (3, 3), wanted (2, 2)"),
        ({"decay": 0.0}, "decay must be finite and in (0, 1], found 0"),
        ({"decay": 1.5}, "decay must be finite and in (0, 1], found 1.5"),
        ({"decay": [0.5, -1.0]}, "decay must be finite and in (0, 1], found -1..0.5"),
        ({"decay": np.nan}, "decay must be finite"),
        ({"decay": [0.5, 0.5, 0.5]}, "decay has shape (3,), wanted a scalar or (2,)"),
        ({"v_threshold": 0.0}, "v_threshold must be finite and in (0, inf]"),
        ({"v_threshold": np.inf}, "v_threshold must be finite"),
        ({"v_threshold": [1.0]}, "v_threshold has shape (1,), wanted a scalar or (2,)"),
        ({"v_init": np.nan}, "v_init must be finite"),
        ({"v_init": [0.0]}, "v_init has shape (1,), wanted a scalar or (2,)"),
        ({"reset": "hard"}, "reset is 'hard', wanted one of 'subtract', 'zero'"),
        ({"delay_steps": -1}, "delay_steps must be a whole number >= 0, found -1"),
        ({"delay_steps": 1.5}, "delay_steps must be a whole number >= 0, found 1.5"),
        ({"delay_steps": True}, "delay_steps must be a whole number >= 0, found True"),
        ({"refractory_steps": -2}, "refractory_steps must be a whole number >= 0, found -2"),
        ({"v_min": np.nan}, "v_min must be finite or None"),
        ({"v_min": 0.5}, "v_min 0.5 must not exceed v_init or reach v_threshold"),
        ({"spiking": False, "delay_steps": 1}, "a read-out never fires: delay_steps"),
        ({"spiking": False, "recurrent": np.eye(2)}, "a read-out never fires: recurrent"),
    ],
)
def test_a_dense_layer_that_breaks_the_contract_is_named(fields, said):
    found = problems(Dense(**{"weight": np.eye(2), **fields}))
    assert len(found) == 1
    assert said in found[0]
    assert found[0].startswith("layer 0 (Dense): ")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"weight": np.ones((2, 2))}, "weight must be [C_out, C_in, kh, kw]"),
        ({"weight": np.ones((2, 3, 1, 1))}, "weight reads 3 channels, input_shape has 1"),
        ({"weight": np.ones((2, 1, 5, 1))}, "kernel (5, 1) does not fit the map (1, 3, 3)"),
        ({"stride": (0, 1)}, "stride must be >= 1, found (0, 1)"),
        ({"padding": (-1, 0)}, "padding must be >= 0, found (-1, 0)"),
        ({"bias": [1.0]}, "bias has shape (1,), wanted (2,)"),
        ({"decay": 2.0}, "decay must be finite and in (0, 1]"),
        ({"input_shape": (1, 0, 3)}, "input_shape must be all > 0"),
    ],
)
def test_a_convolution_that_breaks_the_contract_is_named(fields, said):
    layer = Conv2d(**{"weight": np.ones((2, 1, 2, 2)), "input_shape": (1, 3, 3), **fields})
    assert said in problems(layer)[0]


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (AvgPool2d((1, 2, 2), (3, 1)), "kernel (3, 1) does not fit the map (1, 2, 2)"),
        (AvgPool2d((1, 2, 2), (0, 1), (1, 1)), "kernel_size must be >= 1"),
        (AvgPool2d((1, 2, 2), (1, 1), (0, 1)), "stride must be >= 1"),
        (Flatten((0, 2)), "input_shape must be all > 0"),
    ],
)
def test_a_map_without_neurons_that_breaks_the_contract_is_named(layer, said):
    found = problems(layer, Dense(weight=np.eye(4)))
    assert any(said in text for text in found)


def test_all_problems_of_all_layers_are_named_at_once():
    found = problems(
        Dense(weight=[[np.nan]], decay=2.0, reset="soft"),
        Dense(weight=np.eye(2), spiking=False),
        Dense(weight=np.eye(3), v_threshold=-1.0),
        dt_ms=0.0,
    )
    text = "\n".join(found)
    for said in ("dt_ms", "weight has 1", "decay", "reset", "only the last layer", "v_threshold"):
        assert said in text
    assert len(found) == 6


def test_layers_that_do_not_fit_each_other_are_named():
    found = problems(Dense(weight=np.ones((3, 2))), Dense(weight=np.ones((1, 4))))
    assert found == ("layer 1 expects 4 inputs, layer 0 has 3 outputs",)


@pytest.mark.parametrize("layers", [(), 7, "ab", None, [object()]])
def test_what_is_no_stack_of_layers_is_refused(layers):
    with pytest.raises(NetworkError, match="layer"):
        SpikingNetwork(layers)


def test_the_last_layer_must_have_neurons():
    assert "the last layer must have neurons" in problems(Flatten((2, 2)))[0]


@pytest.mark.parametrize("dt", [0.0, -1.0, np.nan, np.inf, "1"])
def test_a_step_must_last(dt):
    assert "dt_ms must be finite and > 0" in problems(dt_ms=dt)[0]


def test_what_is_no_array_of_numbers_is_refused_with_its_name():
    with pytest.raises(NetworkError, match="weight is not an array of numbers"):
        Dense(weight=[["a"]])
    with pytest.raises(NetworkError, match="bias is not an array of numbers"):
        Dense(weight=np.eye(2), bias=[[1.0], [1.0, 2.0]])
    with pytest.raises(NetworkError, match="stride must have 2 numbers"):
        Conv2d(weight=np.ones((1, 1, 1, 1)), input_shape=(1, 1, 1), stride=(1, 1, 1))
    with pytest.raises(NetworkError, match="input_shape must be whole numbers"):
        Flatten(3)


def test_arrays_are_read_only_copies():
    weight = np.eye(2)
    layer = Dense(weight=weight, recurrent=weight, decay=[0.5, 0.5])
    weight[0, 0] = 7.0
    assert layer.weight[0, 0] == 1.0
    for name in ("weight", "bias", "recurrent", "decay", "v_threshold", "v_init"):
        array = getattr(layer, name)
        assert array.dtype == np.float64
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0.0


def test_layers_and_networks_are_frozen():
    network = net()
    with pytest.raises(FrozenInstanceError):
        network.dt_ms = 2.0
    with pytest.raises(FrozenInstanceError):
        network.layers[0].reset = "zero"


def test_sizes_and_roles_of_the_layers():
    conv = Conv2d(
        weight=np.ones((4, 2, 3, 2)), input_shape=(2, 5, 6), stride=(2, 1), padding=(1, 0)
    )
    pool = AvgPool2d(conv.output_shape, (3, 2))
    network = net(
        conv, pool, Flatten(pool.output_shape), Dense(weight=np.ones((3, 8)), spiking=False)
    )
    assert conv.output_shape == (4, 3, 5)
    assert pool.output_shape == (4, 1, 2)
    assert (network.n_in, network.n_out) == (60, 3)
    assert network.neuron_layers == (conv, network.layers[-1])
    assert network.spiking_layers == (conv,)
    assert network.readout is network.layers[-1]


DENSE = Dense(weight=np.eye(2))
CONV = Conv2d(weight=np.ones((2, 1, 1, 2)), input_shape=(1, 2, 2))
POOL = AvgPool2d((1, 2, 2), (1, 1))


@pytest.mark.parametrize(
    ("layer", "change"),
    [
        (DENSE, {"weight": [[1.0, 0.0], [2.0**-40, 1.0]]}),
        (DENSE, {"bias": [0.0, 0.5]}),
        (DENSE, {"recurrent": np.zeros((2, 2))}),
        (DENSE, {"decay": 0.5}),
        (DENSE, {"decay": [1.0, 1.0]}),
        (DENSE, {"v_threshold": 2.0}),
        (DENSE, {"reset": "zero"}),
        (DENSE, {"v_init": 0.25}),
        (DENSE, {"delay_steps": 1}),
        (DENSE, {"refractory_steps": 1}),
        (DENSE, {"v_min": -1.0}),
        (DENSE, {"spiking": False}),
        (CONV, {"weight": np.full((2, 1, 1, 2), 2.0)}),
        (CONV, {"bias": [1.0, 0.0]}),
        (CONV, {"stride": (2, 1)}),
        (CONV, {"padding": (1, 0)}),
        (CONV, {"input_shape": (1, 4, 2)}),
        (CONV, {"decay": 0.5}),
        (POOL, {"kernel_size": (2, 1)}),
        (POOL, {"stride": (2, 1)}),
    ],
)
def test_the_fingerprint_changes_with_every_field(layer, change):
    def fingerprint(first):
        last = [] if isinstance(first, NeuronLayer) else [Dense(weight=np.ones((1, first.n_out)))]
        return net(first, *last).fingerprint()

    assert fingerprint(layer) == fingerprint(replace(layer))
    assert fingerprint(replace(layer, **change)) != fingerprint(layer)


def test_the_fingerprint_changes_with_the_step_and_the_kind_of_layer():
    flat = net(Flatten((1, 2, 2)), Dense(weight=np.ones((1, 4))))
    pool = net(POOL, Dense(weight=np.ones((1, 4))))
    assert flat.fingerprint() != pool.fingerprint()
    assert net().fingerprint() != net(dt_ms=0.5).fingerprint()
    assert net(dt_ms=1).fingerprint() == net(dt_ms=1.0).fingerprint()


def test_numpy_scalars_make_the_same_layer_as_plain_numbers():
    plain = replace(DENSE, delay_steps=1, refractory_steps=2, v_min=-1.0)
    numpy = replace(
        DENSE, delay_steps=np.int32(1), refractory_steps=np.int64(2), v_min=np.float32(-1)
    )
    assert net(plain).fingerprint() == net(numpy).fingerprint()


def test_recordings_of_parts_of_a_batch_join_to_that_of_the_batch():
    network = net(Dense(weight=np.eye(2)), Dense(weight=np.ones((1, 2)), spiking=False))
    drive = np.arange(24).reshape(3, 4, 2) / 8
    whole = simulate(network, drive)
    parts = [simulate(network, drive[:, :1]), simulate(network, drive[:, 1:])]
    joined = Recording.joined(parts)
    for name in ("counts", "potentials", "spikes"):
        for a, b in zip(getattr(joined, name), getattr(whole, name), strict=True):
            assert np.array_equal(a, b)
    without = [replace(part, spikes=None, potentials=(None, part.potential)) for part in parts]
    assert Recording.joined(without).spikes is None
    assert Recording.joined(without).potentials[0] is None
