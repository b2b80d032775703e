"""Whether a policy's neurons and layers can run where it is to be deployed. Imports torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from spikerl import backends
from spikerl.backends.base import Capabilities, capability_problems, rules_of
from spikerl.layers import Dense
from spikerl.network import SpikingNetwork
from spikerl.nn.foreign import ForeignNeuron, spiking_layer
from spikerl.nn.neurons import Neuron
from spikerl.nn.stack import SpikingStack


def target_rules(target: str) -> dict[str, Any]:
    """The fields of Neuron that a back end sets; raises BackendError for one nobody knows."""
    return _fields(rules_of(_capabilities(target)))


def target_problems(neuron: Neuron | ForeignNeuron, target: str) -> list[str]:
    """Every reason a target does not have this neuron, or no neuron that a policy could have."""
    capabilities = _capabilities(target)
    found = _problems(neuron, capabilities)
    if not found:
        return []
    if never := _never(capabilities):
        others = [name for name in backends.TABLE if not _never(_capabilities(name))]
        return [
            f"no policy can be trained for {target!r}: {'; '.join(never)} there, which the neurons "
            f"of a policy cannot have; policies can be trained for {', '.join(others)}"
        ]
    return [f"the neuron cannot run on {target!r}: {problem}" for problem in found]


def network_problems(stack: SpikingStack, n_values: int, target: str) -> list[str]:
    """Every reason a target does not have the layers of a stack, and a read-out of n_values."""
    layers = stack.to_layers()
    read_out = Dense(np.ones((n_values, stack.n_out)), spiking=False)
    found = capability_problems(_capabilities(target), SpikingNetwork((*layers, read_out)))
    return [f"the network cannot run on {target!r}: {problem}" for problem in found]


def _capabilities(target: str) -> Capabilities:
    backends.rules(target)  # raises, with what can be done, where there are none
    found = backends.capabilities(target)
    assert found is not None
    return found


def _fields(rules: dict[str, Any]) -> dict[str, Any]:
    # all layers of a policy have the same neurons
    return {name: value for name, value in rules.items() if name != "first_reset"}


def _never(capabilities: Capabilities) -> list[str]:
    """What no neuron of a policy has, though all that can be set is as the target wants it."""
    return _problems(Neuron(**_fields(rules_of(capabilities))), capabilities)


def _problems(neuron: Neuron | ForeignNeuron, capabilities: Capabilities) -> list[str]:
    one = spiking_layer(nn.Linear(1, 1), neuron, (1,)).to_layer()
    both = SpikingNetwork((one, replace(one)))  # a first layer and another one
    given = capability_problems(capabilities, both)
    found = [*dict.fromkeys(text.partition(": ")[2] or text for text in given)]
    bits, own = capabilities.weight_bits, neuron.weight_bits
    # steps of a neuron's own are finer than those a layer would be trained with: the chip rounds
    unrounded = own is None and capabilities.weight_steps == "layer"
    if bits is not None and (unrounded or (own is not None and own > bits)):
        found.append(f"weight_bits is {own}, at most {bits} are there")
    return found
