"""Small experiments, and what the tests of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spikerl.experiment import Outcome, Row, Table, cells_of, make_grid, run_cells
from spikerl.experiment.cell import Cell
from spikerl.experiment.columns import VERSION, made_row
from spikerl.experiment.grid import AgentEntry, BackendEntry, ConversionEntry

AGENT = Path(__file__).parent.parent / "zoo" / "agents" / "dqn" / "CartPole-v1_1"
SMALL: dict[str, Any] = {
    "agents": [str(AGENT)],
    "conversions": [
        {"name": "usual", "n_calibration": 200},
        {"name": "zero", "reset": "zero", "n_calibration": 200},
    ],
    "backends": ["cpu", "reference"],
    "sim_steps": [4],
    "seeds": [0],
    "episodes": 1,
}


def small_cells(**other: Any) -> tuple[Cell, ...]:
    return cells_of(make_grid({**SMALL, **other}, Path.cwd()))


def made_up(number: int, backend: str = "cpu") -> Cell:
    """A cell that is only ever talked about; run by a crew that makes up its row."""
    origin = {"sha256": "0" * 64, "vecnormalize": None, "algorithm": "dqn", "environment": "E-v0"}
    entry = BackendEntry(backend, backend)
    return Cell(AgentEntry("a/E-v0_1", "/a"), ConversionEntry("c"), entry, 8, number, 1, origin)


def row_of(cell: Cell, **other: Any) -> Row:
    """A made-up row whose figures follow from the cell."""
    from spikerl.experiment.cell import described

    values = {"return": cell.seed / 3, "returns": f"[{cell.seed / 3}]", "worker": "nobody"}
    return made_row({**described(cell), "format": VERSION, **values, **other})


def done(path: Path, cells: list[Cell], crew: Any, **options: Any) -> Outcome:
    with Table(path) as table:
        return run_cells(cells, table, crew, **options)
