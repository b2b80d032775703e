"""Handing a quantised net over to samna, which programs a board.

samna is the vendor's, proprietary, and looked for through package metadata alone: it is imported by
Rockpool, on your call of configuration(), and never by spikerl. No board has run this yet.
"""

from __future__ import annotations

from typing import Any

from spikerl.backends.rockpool_imports import importing, samna_version
from spikerl.dynapse.quantization import Quantized
from spikerl.errors import BackendError


def configuration(quantized: Quantized) -> dict[str, Any]:
    """Rockpool's configuration of a Dynap-SE2 board: keys "config" and "input_channel_map".

    Pass it on as DynapseSamna(board, **configuration). Raises BackendError without samna.
    """
    if samna_version() is None:
        raise BackendError(
            "a Dynap-SE2 board is programmed through samna, which is not installed: get it from "
            "SynSense (PyPI's samna is a placeholder). Without it the quantised net can be "
            "simulated: spikerl.dynapse.counts(quantized.net, ...)"
        )
    with importing("dynapse"):
        from rockpool.devices.dynapse import config_from_specification
    made: dict[str, Any] = config_from_specification(**quantized.specification)
    return made
