"""Other libraries' neurons for tests: imported without their warnings, and run step by step."""

import importlib
import warnings

import numpy as np
import pytest

MAP = (2, 6, 5)


def library(name):
    """The module, or a skipped test; what it warns of while it is imported is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name.partition(".")[0])
        return importlib.import_module(name)


def quarters(rng, *shape, low=-4, high=4):
    return rng.integers(low, high + 1, shape) / 4.0


def outputs(torch, step, drive, dtype):
    """What step(x, state) -> (y, state) gives in every step of a drive [T, B, n]: [T, B, n]."""
    state, found = None, []
    with torch.no_grad():
        for x in drive:
            y, state = step(torch.tensor(x, dtype=dtype), state)
            found.append(y.double().numpy().reshape(len(x), -1))
    return np.array(found)


def dyadic(module, seed=0):
    """The module with multiples of 1/4 for weights and of 1/8 for biases; its neurons stay."""
    torch, nn = library("torch"), library("torch.nn")
    rng = np.random.default_rng(seed)
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            for parameter, unit in ((layer.weight, 4), (layer.bias, 8)):
                if parameter is not None:
                    values = rng.integers(-4, 6, tuple(parameter.shape)) / unit
                    parameter.data = torch.tensor(values, dtype=torch.float32)
    return module.eval()


def drive(n_in, sim_steps, seed=1, rows=4):
    rng = np.random.default_rng(seed)
    return rng.integers(-4, 9, (sim_steps, rows, n_in)) / 4.0


def maps(layer):
    """Convolutions around pooling, for neurons given by a function."""
    return lambda neurons: (
        layer.Conv2d(2, 3, (3, 2), stride=(1, 2), padding=(1, 0)),
        neurons(),
        layer.AvgPool2d(2, stride=(2, 1)),
        layer.Conv2d(3, 4, 1, bias=False),
        neurons(),
        layer.Flatten(),
        layer.Linear(12, 3),
        neurons(),
    )


def rows(layer):
    return lambda neurons: (layer.Linear(5, 12), neurons(), layer.Linear(12, 6), neurons())


def spikingjelly():
    """Its package, with the parts that are used of it."""
    for part in ("neuron", "layer", "functional", "surrogate"):
        library(f"spikingjelly.activation_based.{part}")
    return library("spikingjelly.activation_based")


def half_leaking(norse, **fields):
    """A cell of norse half of whose potential leaks in a step."""
    p = norse.LIFBoxParameters(tau_mem_inv=level(512), **fields)
    return norse.LIFBoxCell(p, dt=2.0**-10)


def level(value):
    return library("torch").tensor(float(value))
