"""The document of a saved agent: which types a file may hold, and every field of each.

Imports the numpy core, agent and fields. A part is {"type": tag, field: ...} with a tag of the
tables below and exactly the fields of its dataclass. What is not in a table cannot be written or
read; reading calls these dataclasses and nothing else.
"""

from __future__ import annotations

import math
from typing import Any

from spikerl import decoding, encoding, network, preprocessing
from spikerl.agent import SpikingAgent
from spikerl.errors import FileFormatError
from spikerl.fields import (
    Array,
    BySteps,
    Flag,
    Kind,
    Many,
    Maybe,
    Number,
    Plain,
    Record,
    SpaceKind,
    Tagged,
    Text,
    Whole,
    Wholes,
)
from spikerl.report import ConversionReport, GapReport, LayerReport
from spikerl.statistics import Estimate

MAX_STEPS = 2**20  # time steps of a decision, a delay or a refractory time
MAX_UNITS = 2**28  # inputs or outputs of one layer


def _check_layer(layer: Any, where: str) -> None:
    """Sizes of maps are numbers in the document, not bounded by the length of the file."""
    if problems := layer.problems():
        raise FileFormatError(f"{where} is not sound: {problems[0]}")
    sizes = [layer.n_in, layer.n_out]
    if isinstance(layer, network.Conv2d):
        channels, *sides = layer.input_shape
        sizes.append(
            channels * math.prod(s + 2 * p for s, p in zip(sides, layer.padding, strict=True))
        )
    if max(sizes) > MAX_UNITS:
        raise FileFormatError(f"{where} has a map of {max(sizes)} numbers, too many for an agent")


def _check_report(report: Any, where: str) -> None:
    if (report.agreement is None) == (report.action_error is None):
        raise FileFormatError(f"{where} must have an agreement or an action error, one of them")


def _check_gaps(gaps: Any, where: str) -> None:
    if len(gaps.edges) != len(gaps.counts) + 1 or sorted(set(gaps.edges)) != list(gaps.edges):
        raise FileFormatError(f"{where} must have rising edges, one more than counts")


_NEURON: dict[str, Kind] = {
    "decay": Array(),
    "v_threshold": Array(),
    "reset": Text(network.RESETS),
    "v_init": Array(),
    "delay_steps": Whole(0, MAX_STEPS),
    "refractory_steps": Whole(0, MAX_STEPS),
    "v_min": Maybe(Number()),
    "spiking": Flag(),
    "current_decay": Array(),
    "adaptation": Array(),
    "adaptation_decay": Array(),
}
_WEIGHT = Array(inline=False)
LAYERS = Tagged(
    {
        "dense": Record(
            network.Dense,
            {"weight": _WEIGHT, "bias": _WEIGHT, "recurrent": Maybe(_WEIGHT), **_NEURON},
            _check_layer,
        ),
        "conv2d": Record(
            network.Conv2d,
            {
                "weight": _WEIGHT,
                "bias": _WEIGHT,
                "input_shape": Wholes(3, 1, MAX_UNITS),
                "stride": Wholes(2, 1, MAX_UNITS),
                "padding": Wholes(2, 0, MAX_UNITS),
                **_NEURON,
            },
            _check_layer,
        ),
        "avg_pool2d": Record(
            network.AvgPool2d,
            {
                "input_shape": Wholes(3, 1, MAX_UNITS),
                "kernel_size": Wholes(2, 1, MAX_UNITS),
                "stride": Wholes(2, 1, MAX_UNITS),
            },
            _check_layer,
        ),
        "flatten": Record(
            network.Flatten, {"input_shape": Wholes(None, 1, MAX_UNITS)}, _check_layer
        ),
    }
)
STEPS = Tagged(
    {
        "normalize": Record(
            preprocessing.Normalize,
            {
                "mean": Array(),
                "var": Array(),
                "epsilon": Number(0.0),
                "clip": Number(0.0, special=True),
            },
        ),
        "one_hot": Record(preprocessing.OneHot, {"nvec": Wholes(None, 1, MAX_UNITS)}),
        "scale": Record(preprocessing.Scale, {"factor": Number()}),
    }
)
_SPIKES: dict[str, Kind] = {"scale": Array(), "signed": Flag()}
ENCODERS = Tagged(
    {
        "constant": Record(encoding.ConstantCurrent, {}),
        "poisson": Record(encoding.PoissonSpikes, _SPIKES),
        "equidistant": Record(encoding.EquidistantSpikes, _SPIKES),
        "latency": Record(encoding.LatencySpike, _SPIKES),
        "population": Record(
            encoding.PopulationCode,
            {
                "n_neurons": Whole(2, MAX_UNITS),
                "low": Array(),
                "high": Array(),
                "sigma": Number(),
                "spikes": Text(("none", "equidistant", "poisson")),
            },
        ),
        "receptive_fields": Record(
            encoding.ReceptiveFields,
            {
                "centres": _WEIGHT,
                "widths": _WEIGHT,
                "squash": Text(encoding.SQUASHES),
                "spikes": Text(("none", "equidistant")),
            },
        ),
    }
)
READS = Tagged(
    {
        "final_potential": Record(
            decoding.FinalPotential,
            {"v_init": Array(), "scale": Array(), "offset": Array(), "average": Flag()},
        ),
        "spike_count": Record(
            decoding.SpikeCount, {"scale": Array(), "offset": Array(), "signed": Flag()}
        ),
        "first_spike": Record(decoding.FirstSpike, {}),
        "weighted_count": Record(decoding.WeightedCount, {"weight": _WEIGHT, "bias": _WEIGHT}),
        "residual_potential": Record(
            decoding.ResidualPotential,
            {"weight": _WEIGHT, "bias": _WEIGHT, "v_threshold": Array(), "v_init": Array()},
        ),
    }
)
HEADS = Tagged(
    {
        "categorical": Record(
            decoding.Categorical,
            {
                "nvec": Wholes(None, 1, MAX_UNITS),
                "multi": Flag(),
                "sampling": Text(("none", "softmax", "epsilon")),
                "epsilon": Number(0.0, 1.0),
            },
        ),
        "binary": Record(decoding.Binary, {"n": Whole(1, MAX_UNITS)}),
        "gaussian": Record(
            decoding.Gaussian,
            {
                "low": Array(infinite=True, inline=False),
                "high": Array(infinite=True, inline=False),
                "squash": Text(("clip", "tanh")),
                "mean_limit": Maybe(Number(0.0)),
                "noise": Text(("none", "fixed", "read", "unknown")),
                "log_std": Maybe(Array()),
            },
        ),
    }
)
_MEASURE = Number(special=True)
_ESTIMATE = Record(
    Estimate,
    {"value": _MEASURE, "low": _MEASURE, "high": _MEASURE, "n": Whole(), "method": Text()},
)
REPORT = Record(
    ConversionReport,
    {
        "sim_steps": Whole(1, MAX_STEPS),
        "agreement": Maybe(_ESTIMATE),
        "action_error": Maybe(_ESTIMATE),
        "value_error": Maybe(_MEASURE),
        "by_steps": BySteps(_ESTIMATE),
        "target": _MEASURE,
        "steps_needed": Maybe(Whole(1, MAX_STEPS)),
        "coarse": Maybe(_MEASURE),
        "layers": Many(
            Record(
                LayerReport,
                {
                    "name": Text(),
                    "neurons": Whole(),
                    "rate": _MEASURE,
                    "saturated": Whole(),
                    "silent": Whole(),
                },
            )
        ),
        "calibration": Whole(),
        "held_out": Whole(),
        "episodes": Whole(),
        "warnings": Many(Text()),
        "gaps": Maybe(
            Record(
                GapReport,
                {
                    "edges": Many(Number()),
                    "counts": Many(Whole()),
                    "resolution": _MEASURE,
                },
                _check_gaps,
            )
        ),
    },
    _check_report,
)
_INPUT = Record(
    preprocessing.Input, {"space": SpaceKind(), "steps": Many(STEPS), "key": Maybe(Text())}
)
AGENT = Record(
    SpikingAgent,
    {
        "network": Record(network.SpikingNetwork, {"layers": Many(LAYERS), "dt_ms": Number()}),
        "preprocessing": Record(preprocessing.Preprocessing, {"inputs": Many(_INPUT)}),
        "encoder": ENCODERS,
        "decoder": Record(decoding.Decoder, {"read": READS, "head": HEADS}),
        "sim_steps": Whole(1, MAX_STEPS),
        "observation_space": SpaceKind(),
        "action_space": SpaceKind(),
        "provenance": Plain(),
        "report": Maybe(REPORT),
        "stateful": Flag(),
    },
)
