"""Dynap-SE2: recurrent nets of analogue neurons, trained on chips that differ, through Rockpool.

Not a back end: see policy.py. Rockpool (AGPL) and jax are imported when something is simulated.
"""

from spikerl.dynapse.board import configuration
from spikerl.dynapse.circuit import Chip
from spikerl.dynapse.imitation import imitate, returns_by_chip, visited
from spikerl.dynapse.net import DynapseNet
from spikerl.dynapse.policy import DynapsePolicy
from spikerl.dynapse.quantization import Quantized, quantize
from spikerl.dynapse.simulation import counts, counts_by_row, spikes
from spikerl.dynapse.training import Trained, train

__all__ = [
    "Chip",
    "DynapseNet",
    "DynapsePolicy",
    "Quantized",
    "Trained",
    "configuration",
    "counts",
    "counts_by_row",
    "imitate",
    "quantize",
    "returns_by_chip",
    "spikes",
    "train",
    "visited",
]
