"""Spiking layers for torch, trained through surrogate gradients, exported exactly.

Imports torch and numba.
"""

from spikerl.nn.layer import SpikingLayer
from spikerl.nn.neurons import NEURONS, Neuron
from spikerl.nn.stack import SpikingMLP, SpikingStack
from spikerl.nn.surrogates import SURROGATES, Surrogate

__all__ = [
    "NEURONS",
    "SURROGATES",
    "Neuron",
    "SpikingLayer",
    "SpikingMLP",
    "SpikingStack",
    "Surrogate",
]
