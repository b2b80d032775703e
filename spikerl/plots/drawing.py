"""What all plots share: colours, style, and a drawing that becomes SVG or PNG. matplotlib late.

Figures are made without pyplot, so the program's own figures, back end and settings stay as they
are. Letters stay letters in SVG, drawn in the reader's font.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikerl.errors import SpikerlError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORIGINAL, SPIKING, MARK, QUIET = "#8a94a3", "#2458c5", "#c2410c", "#d7dce3"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "spikerl",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a94a3",
    "axes.labelcolor": "#39414d",
    "xtick.color": "#39414d",
    "ytick.color": "#39414d",
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
}
_WIDTH, _HEIGHT = 4.8, 2.8  # inches

# Okabe and Ito's colours, told apart by readers of every kind of colour vision; without the yellow,
# which is faint on white. Line styles repeat the distinction.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
STYLES = ("-", "--", "-.", ":")


class Drawing:
    """A figure and its axes, as SVG or PNG."""

    def __init__(self, figure: Figure, axes: list[Axes]) -> None:
        self.figure = figure
        self.all_axes = axes
        self.axes = axes[0]

    @property
    def svg(self) -> str:
        """SVG text."""
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        text = StringIO()
        # No date, so that the same figures give the same page.
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        with styled():
            FigureCanvasSVG(self.figure)
            self.figure.savefig(text, format="svg", metadata=nothing)
        return text.getvalue()

    def png(self, dpi: float = 150) -> bytes:
        """PNG file, opaque."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        data = BytesIO()
        with styled():
            FigureCanvasAgg(self.figure)
            self.figure.savefig(data, format="png", dpi=dpi, metadata={"Software": None})
        return data.getvalue()

    def save(self, path: str | os.PathLike[str], dpi: float = 150) -> None:
        """Write NAME.svg or NAME.png; raises SpikerlError for another ending."""
        kind = Path(path).suffix.lower()
        if kind not in (".svg", ".png"):
            raise SpikerlError(f"{os.fspath(path)} ends in {kind!r}; wanted .svg or .png")
        data = self.svg.encode() if kind == ".svg" else self.png(dpi)
        try:
            Path(path).write_bytes(data)
        except OSError as error:
            raise SpikerlError(f"{os.fspath(path)} cannot be written: {error.strerror}") from None


def check_installed() -> None:
    """Raises SpikerlError where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SpikerlError(
            "plots need matplotlib; install it: pip install 'spikerl[plots]'"
        ) from None


@contextmanager
def drawn(
    width: float = _WIDTH, height: float = _HEIGHT, rows: int = 1, ratios: list[float] | None = None
) -> Iterator[Drawing]:
    """A figure to draw on, of one or more axes below each other; sizes in inches."""
    check_installed()
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=ratios)
        yield Drawing(figure, list(axes[:, 0]))


@contextmanager
def styled(**more: Any) -> Iterator[None]:
    """matplotlib's settings for all plots, as long as the `with` lasts."""
    from matplotlib import rc_context

    settings: Any = {**_STYLE, **more}
    with rc_context(settings):
        yield
