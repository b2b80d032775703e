"""Plots of reports, evaluations and recorded episodes; matplotlib is loaded when one is drawn."""

from spikerl.plots.drawing import MARK, ORIGINAL, SPIKING, Drawing, check_installed
from spikerl.plots.episode import firing, potentials, raster, values
from spikerl.plots.learning import learning
from spikerl.plots.membranes import membranes
from spikerl.plots.report import by_steps, gaps, rates, returns

__all__ = [
    "MARK",
    "ORIGINAL",
    "SPIKING",
    "Drawing",
    "by_steps",
    "check_installed",
    "firing",
    "gaps",
    "learning",
    "membranes",
    "potentials",
    "raster",
    "rates",
    "returns",
    "values",
]
