"""Experiments: one file names agents, conversions, back ends, steps and seeds; one table results.

    cells = read_cells("grid.yml")
    with Table("grid.csv") as table:
        outcome = run_cells(cells, table, Alone("grid.agents"))

Imports neither torch nor SB3 before a grid is read.
"""

from spikerl.experiment.cell import Cell, run_cell
from spikerl.experiment.checks import cells_of, read_cells
from spikerl.experiment.cluster import DaskCluster
from spikerl.experiment.columns import COLUMNS, WHEN_AND_WHERE, Row, results
from spikerl.experiment.crew import Alone, Crew, Processes
from spikerl.experiment.grid import Grid, make_grid, read_grid
from spikerl.experiment.run import Outcome, run_cells
from spikerl.experiment.table import Table, default_path

__all__ = [
    "COLUMNS",
    "WHEN_AND_WHERE",
    "Alone",
    "Cell",
    "Crew",
    "DaskCluster",
    "Grid",
    "Outcome",
    "Processes",
    "Row",
    "Table",
    "cells_of",
    "default_path",
    "make_grid",
    "read_cells",
    "read_grid",
    "results",
    "run_cell",
    "run_cells",
]
