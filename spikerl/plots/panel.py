"""Panel: a raster of the latest decisions at the right of a rendered frame. matplotlib late.

The axes are drawn once for each size of frame, the spikes are painted into them, so that a frame
costs some milliseconds and not a figure of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.errors import SpikerlError
from spikerl.network import FloatArray
from spikerl.plots.drawing import COLOURS, QUIET, check_installed, styled

Pixels = NDArray[np.uint8]
_WIDTH = 360  # pixels
_DPI = 100
_LEAST = 70  # pixels of height for each layer


@dataclass(frozen=True)
class _Background:
    """The empty panel, and for each layer the corner (top, left) and size of its axes in pixels."""

    image: Pixels
    boxes: tuple[tuple[int, int, int, int], ...]


class Panel:
    """Puts frames and spikes side by side.

    sizes:     neurons of each spiking layer.
    sim_steps: steps of a decision.
    decisions: how many are shown, the newest at the right; so many that a step has a pixel.
    Raises SpikerlError without matplotlib, or for a network without spiking layers.
    """

    def __init__(self, sizes: Sequence[int], sim_steps: int) -> None:
        check_installed()
        if not sizes:
            raise SpikerlError("the network has no spiking layers to draw")
        self.sizes, self.sim_steps = tuple(sizes), int(sim_steps)
        self.decisions = int(np.clip(280 // self.sim_steps, 1, 10))
        self._backgrounds: dict[int, _Background] = {}

    def beside(self, frame: object, spikes: Sequence[tuple[NDArray[np.bool_], ...]]) -> Pixels:
        """One picture [H, W, 3]: the frame at the left, spikes of decisions at the right.

        spikes: of each decision, oldest first, one [T, n] per layer. Small frames are enlarged by a
        whole factor; height and width are even, as video formats want them.
        Raises SpikerlError for a frame that is no [h, w, 3] of uint8.
        """
        picture = np.asarray(frame)
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise SpikerlError(
                f"render() gave {picture.dtype} {picture.shape}, wanted uint8 [height, width, 3]"
            )
        least = 60 + _LEAST * len(self.sizes)
        factor = -(-least // picture.shape[0])
        picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
        height = picture.shape[0] + picture.shape[0] % 2
        width = picture.shape[1] + _WIDTH + picture.shape[1] % 2
        whole = np.full((height, width, 3), 255, dtype=np.uint8)
        whole[: picture.shape[0], : picture.shape[1]] = picture
        whole[:, -_WIDTH:] = self._drawn(height, spikes[-self.decisions :])
        whole[:, -_WIDTH] = _rgb(QUIET)  # where the frame ends
        return whole

    def _drawn(self, height: int, spikes: Sequence[tuple[NDArray[np.bool_], ...]]) -> Pixels:
        if height not in self._backgrounds:
            self._backgrounds = {height: self._background(height)}  # a window may be resized
        background = self._backgrounds[height]
        panel = background.image.copy()
        shown = self.decisions * self.sim_steps
        for i, (top, left, rows, columns) in enumerate(background.boxes):
            fired = np.zeros((self.sizes[i], shown), dtype=np.float64)
            if spikes:
                latest = np.concatenate([layers[i] for layers in spikes]).T
                fired[:, shown - latest.shape[1] :] = latest
            share = shrunk(fired[::-1], (rows, columns))  # neuron 0 at the bottom
            for axis, n in enumerate(fired.shape):
                share *= _gaps(share.shape[axis], n).reshape((-1, 1) if axis == 0 else (1, -1))
            shade = np.where(share > 0, 0.35 + 0.65 * share, 0.0)[..., None]
            box = panel[top : top + rows, left : left + columns]
            ink = np.array(_rgb(COLOURS[i % 2]), dtype=np.float64)
            box[:] = np.rint(box * (1 - shade) + ink * shade).astype(np.uint8)
        return panel

    def _background(self, height: int) -> _Background:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        with styled(**{"font.size": 8}):
            figure = Figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
            ratios = [float(np.sqrt(n)) for n in self.sizes]
            grid = figure.subplots(
                len(self.sizes), 1, sharex=True, squeeze=False, height_ratios=ratios
            )[:, 0]
            for i, (axes, n) in enumerate(zip(grid, self.sizes, strict=True)):
                axes.set_xlim(-self.decisions, 0)
                axes.set_ylim(-0.5, n - 0.5)
                axes.set_yticks([0, n - 1] if n > 1 else [0])
                axes.set_ylabel(f"layer {i}: neuron")
                for k in range(1, self.decisions):
                    axes.axvline(-k, color=QUIET, lw=0.8)
            ago = sorted({self.decisions, self.decisions // 2, 0})
            axes.set_xticks([-k for k in ago], [str(k) for k in ago])
            axes.set_xlabel(f"decisions ago, {self.sim_steps} steps each")
            canvas: Any = FigureCanvasAgg(figure)
            canvas.draw()
            image = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        boxes = []
        for axes in grid:
            bounds = axes.get_window_extent()
            left, right = int(np.ceil(bounds.x0)) + 1, int(bounds.x1)
            top, bottom = int(height - bounds.y1), int(np.floor(height - bounds.y0))
            boxes.append((top, left, bottom - top, right - left))
        return _Background(image, tuple(boxes))


def shrunk(matrix: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """A matrix as a picture of that many pixels: each the mean of the entries it lies over."""
    for axis, size in enumerate(shape):
        n = matrix.shape[axis]
        low = np.arange(size) * n // size
        high = np.maximum(low + 1, -(-(np.arange(size) + 1) * n // size))
        sums = np.cumsum(matrix, axis=axis)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis=axis)
        widths = (high - low).reshape((-1, 1) if axis == 0 else (1, -1))
        matrix = (sums.take(high, axis) - sums.take(low, axis)) / widths
    return matrix


def _gaps(size: int, n: int) -> FloatArray:
    """Per pixel 0 in the gap after each of n entries, 1 elsewhere; none where pixels are few."""
    entry = np.arange(size) * n // size
    last = np.append(entry[1:] != entry[:-1], True)
    return np.where(last & (size >= 4 * n), 0.0, 1.0)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
