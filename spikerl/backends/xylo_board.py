"""A network for a real Xylo board: its numbers for Rockpool, and Rockpool's configuration of it.

Imports numpy and the core. specification() needs nothing else. configuration() imports Rockpool and
samna, the vendor's drivers, and is the only thing here that does; whether they are installed is
looked up in their metadata, because the samna of PyPI is a stub whose import runs pip.

No board has run any of this here.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from spikerl.backends.xylo_chip import AUDIO_2, Chip
from spikerl.backends.xylo_plan import EVENT, capabilities_of, plan, problems
from spikerl.errors import BackendError, UnsupportedNetwork
from spikerl.network import SpikingNetwork

COMPILED = (".so", ".pyd", ".dylib")


def specification(
    network: SpikingNetwork, chip: Chip = AUDIO_2, event: float = EVENT
) -> dict[str, Any]:
    """The arguments of Rockpool's config_from_specification() for a network.

    Raises UnsupportedNetwork with every problem.
    """
    if found := problems(network, chip, capabilities_of(chip)):
        raise UnsupportedNetwork(chip.name, found)
    core = plan(network, chip, event).core
    return {
        "weights_in": core.weights_in.transpose(1, 2, 0),
        "weights_rec": core.weights_rec.transpose(1, 2, 0),
        "weights_out": core.weights_out,
        "dash_mem": core.dash_mem,
        "dash_mem_out": core.dash_mem_out,
        "dash_syn": core.dash_syn,
        "dash_syn_2": core.dash_syn,
        "dash_syn_out": core.dash_syn_out,
        "threshold": core.threshold,
        "threshold_out": core.threshold_out,
        "bias_hidden": core.bias,
        "bias_out": core.bias_out,
        "weight_shift_in": core.shift_in,
        "weight_shift_rec": core.shift_rec,
        "weight_shift_out": core.shift_out,
    }


def configuration(network: SpikingNetwork, chip: Chip = AUDIO_2, event: float = EVENT) -> Any:
    """The chip's configuration, made and validated by Rockpool and samna.

    Raises UnsupportedNetwork with every problem; BackendError where Rockpool or samna is missing,
    or finds the configuration invalid.
    """
    numbers = specification(network, chip, event)
    if lacking := missing():
        raise BackendError(
            f"a configuration for {chip.name} cannot be made here: {lacking}. "
            "specification() gives the numbers without them"
        )
    support = import_module(f"rockpool.devices.xylo.{chip.support}")
    config, valid, message = support.config_from_specification(**numbers)
    if not valid:
        raise BackendError(f"samna finds the configuration for {chip.name} invalid: {message}")
    return config


def missing() -> str:
    """What a board needs and this machine lacks, "" if nothing; imports neither package."""
    found = []
    try:
        distribution("rockpool")
    except PackageNotFoundError:
        found.append("Rockpool is not installed (pip install rockpool)")
    try:
        files = distribution("samna").files or []
        if not any(file.name.endswith(COMPILED) for file in files):
            found.append(
                "the samna installed is the stub of PyPI, without drivers, which runs pip when it "
                "is imported: install samna from SynSense's own index"
            )
    except PackageNotFoundError:
        found.append("samna, the board's drivers, is not installed: SynSense's own index has it")
    return "; ".join(found)
