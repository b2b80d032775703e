"""The columns of a result table: what a row says, and which of it two runs must agree in.

Imports errors only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from spikerl.errors import SpikerlError

VERSION = 1  # of the columns below; a table of another version is refused

COLUMNS: dict[str, type] = {
    "format": int,
    "cell": str,  # SHA-256 of what the cell is
    "status": str,  # "done" or "failed"
    "error": str,
    "agent": str,
    "algorithm": str,
    "environment": str,
    "conversion": str,
    "settings": str,  # JSON: keywords of convert(), and distill
    "backend": str,
    "backend_settings": str,  # JSON: name, isolation, python, options
    "sim_steps": int,
    "seed": int,
    "episodes": int,
    "steps_used": int,  # fewer than sim_steps where a search found them enough
    "neurons": int,
    "return": float,
    "return_low": float,
    "return_high": float,
    "returns": str,  # JSON: one per episode
    "original_return": float,
    "original_returns": str,
    "difference": float,  # spiking less original, seed by seed
    "p_value": float,
    "agreement": float,  # on the states the spiking agent visited
    "agreement_low": float,
    "agreement_high": float,
    "action_error": float,  # the same for continuous actions, in %
    "action_error_low": float,
    "action_error_high": float,
    "held_out": float,  # agreement, or action error in %, in the conversion's report
    "length": float,  # steps per episode
    "rates": str,  # JSON: spikes per neuron and step, by layer
    "synaptic_operations": float,  # per decision
    "warnings": str,  # JSON: what the conversion's report warns of
    "source_sha256": str,
    "vecnormalize_sha256": str,
    "agent_sha256": str,  # of the saved spiking agent
    "network_sha256": str,
    "spikerl": str,  # versions, from here on
    "python": str,
    "numpy": str,
    "gymnasium": str,
    "torch": str,
    "stable_baselines3": str,
    "simulator": str,
    "decisions_per_second": float,  # when and where, from here on
    "seconds": float,
    "seconds_converting": float,
    "started": str,  # UTC
    "host": str,
    "worker": str,
}
# What depends on when and where a cell ran; the rest is the same wherever and in whatever order.
WHEN_AND_WHERE = tuple(COLUMNS)[tuple(COLUMNS).index("decisions_per_second") :]

Row = dict[str, Any]


def made_row(values: Mapping[str, Any]) -> Row:
    """A row with every column; what is missing, or no finite number, is None.

    Raises SpikerlError for a value that is not of its column.
    """
    row: Row = {}
    for name, kind in COLUMNS.items():
        value = values.get(name)
        if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = float(value) if math.isfinite(value) else None
        elif kind is str and isinstance(value, str):
            value = " ".join(value.split())  # a row is one line
            value = value or None
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise SpikerlError(f"column {name} holds {kind.__name__}, found {value!r}")
        row[name] = value
    unknown = sorted(set(values) - set(COLUMNS))
    if unknown:
        raise SpikerlError(f"a result table has no column {', '.join(unknown)}")
    return row


def results(rows: Iterable[Row]) -> dict[str, Row]:
    """What runs must agree in: rows by cell, without when and where they came about."""
    return {
        str(row["cell"]): {key: row[key] for key in COLUMNS if key not in WHEN_AND_WHERE}
        for row in rows
    }
