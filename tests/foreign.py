"""Other libraries' neurons for tests: imported without their warnings, and run step by step."""

import importlib
import warnings

import numpy as np
import pytest


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
