"""The heading and the curves of a video: drawn once, then uncovered from left to right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise ImportError("a video needs matplotlib: pip install 'wmgym[report]'") from error

WIDTH, HEIGHT, GAP = 320, 240, 8  # pixels of a picture, and between two
_STRIP, _HEADING = 160, 36
_PAPER, _FAINT, _REAL, _IMAGINED = "#14181d", "#8e99a6", "#ff9f63", "#7cb6ff"


@dataclass(frozen=True)
class Episode:
    """One policy from one start state, in the real env and in imagination.

    Attributes:
        seconds: ``(n,)`` simulated time, from 0 to the imagined episode's end.
        real: ``(n_real, core_dim)`` states, with ``real_place`` ``(n_real, displacement_dim)`` of the root.
        imagined: ``(n, core_dim)`` likewise; never longer than the real one.
        error: ``(n,)`` mean absolute difference over core dimensions, in standard deviations of the data.
        bound: ``(n,)`` mean half-width of the world's error bounds in the same unit; None without bounds.
    """

    seconds: np.ndarray
    real: np.ndarray
    real_place: np.ndarray
    imagined: np.ndarray
    imagined_place: np.ndarray
    error: np.ndarray
    bound: np.ndarray | None


class Strip:
    """The curves below the pictures, drawn once and uncovered from left to right."""

    def __init__(self, episode: Episode, steps: int, dt: float) -> None:
        figure, heading = _canvas(_HEADING)
        for x, text, color in ((0.25, "MuJoCo", _REAL), (0.75, "imagined", _IMAGINED)):
            figure.text(x, 0.5, text, ha="center", va="center", color=color, fontsize=12, fontweight="bold")
        self.heading = _drawn(heading)
        figure, strip = _canvas(_STRIP)
        axes = figure.add_axes((0.055, 0.18, 0.92, 0.6), facecolor=_PAPER)
        both = [episode.error] if episode.bound is None else [episode.error, episode.bound]
        axes.set(xlim=(0, max(1, steps - 1) * dt), ylim=(0, 1.05 * max(1e-9, *(c.max() for c in both))))
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color("#3a434d")
        axes.tick_params(colors=_FAINT, labelsize=9, length=0)
        axes.grid(axis="y", color="#2a3139", linewidth=0.7)
        axes.locator_params(axis="y", nbins=3)
        axes.xaxis.set_major_formatter(lambda value, position: f"{value:g} s")
        labels = [("error in data std", _REAL)] + [("bound", _IMAGINED)] * (episode.bound is not None)
        for index, (text, color) in enumerate(labels):
            style: Any = {"color": color, "fontsize": 10, "transform": figure.transFigure}
            axes.text(0.055 + 0.21 * index, 0.86, text, **style)
        self.bare = _drawn(strip)
        if episode.bound is not None:
            axes.fill_between(episode.seconds, episode.bound, color=_IMAGINED, alpha=0.16, linewidth=0)
            axes.plot(episode.seconds, episode.bound, color=_IMAGINED, linewidth=1.2)
        axes.plot(episode.seconds, episode.error, color=_REAL, linewidth=1.6)
        self.full = _drawn(strip)
        left, right = axes.transAxes.transform([(0, 0), (1, 0)])[:, 0]
        self.columns = np.linspace(left, right, max(2, steps)).round().astype(int)
        self.paper = self.bare[0, 0]

    def at(self, step: int) -> np.ndarray:
        """The strip at a step, a line where that is."""
        column = int(self.columns[step])
        shown = np.concatenate([self.full[:, :column], self.bare[:, column:]], 1)
        shown[int(0.2 * _STRIP) : int(0.82 * _STRIP), column] = (200, 206, 214)
        return shown


def _canvas(height: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=((2 * WIDTH + GAP) / 100, height / 100), dpi=100, facecolor=_PAPER)
    return figure, FigureCanvasAgg(figure)


def _drawn(canvas: Any) -> np.ndarray:
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
