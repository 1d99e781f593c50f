"""Charts of a report: SVG text to stand inside the page, whose style sheet colours it.

Matplotlib draws in placeholder colours, which become CSS variables, so that one picture serves a light and a
dark page. Text stays text.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from wmgym.calibration.open_loop_rows import OpenLoopRow
from wmgym.evaluation.gap_report import RANDOM, GapReport, PolicyScore
from wmgym.evaluation.reality import DimensionGap, StepGap

INK, MUTED, LINE, REAL, IMAGINED, BAD = ("#00f0f" + digit for digit in "123456")
_VARIABLES = {
    INK: "--ink", MUTED: "--muted", LINE: "--line", REAL: "--real", IMAGINED: "--imagined", BAD: "--bad"
}  # fmt: skip
_WIDTH = 5.0  # inches of 72 CSS pixels: a phone shows the text in its own size
_LONGEST_NAME = 32
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "wmgym", "font.size": 11, "text.parse_math": False,
    "axes.edgecolor": LINE, "axes.labelcolor": MUTED, "axes.labelsize": 11, "text.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": LINE, "grid.linewidth": 0.8,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "xtick.labelsize": 10, "ytick.labelsize": 10, "xtick.major.size": 0, "ytick.major.size": 0,
    "lines.linewidth": 2, "lines.solid_capstyle": "round", "axes.unicode_minus": True,
}  # fmt: skip
_PERCENT = PercentFormatter(1, decimals=0, symbol="\N{NO-BREAK SPACE}%")
_BESIDE: Any = {"textcoords": "offset points", "fontsize": 10}


def returns(report: GapReport) -> str:
    """Real against imagined mean returns, a point for each policy with 95 % intervals, and the diagonal."""
    titles = {}
    with rc_context(_STYLE):
        figure, (axes,) = _figure(4.3)
        reach = [
            end for s in report.scores for ends in (s.real_interval, s.imagined_interval) for end in ends
        ]
        pad = 0.04 * (max(reach) - min(reach) or 1.0)
        ends = (min(reach) - pad, max(reach) + pad)
        axes.plot(ends, ends, color=MUTED, linewidth=1, dashes=(4, 4))
        for index, s in enumerate(report.scores):
            at = (s.real_mean, s.imagined_mean)
            axes.plot(s.real_interval, (at[1], at[1]), color=REAL, linewidth=1.5, alpha=0.8)
            axes.plot((at[0], at[0]), s.imagined_interval, color=IMAGINED, linewidth=1.5, alpha=0.8)
            fill = "none" if s.name == RANDOM else INK
            mark, name = "^" if s.trained_in_world else "o", f"point-{index}"
            axes.plot([at[0]], [at[1]], mark, color=INK, markerfacecolor=fill, markersize=6, gid=name)
            titles[name] = f"{s.name}: real {s.real_mean:,.0f}, imagined {s.imagined_mean:,.0f}"
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        axes.set_xlabel("real mean return", color=REAL)
        axes.set_ylabel("imagined mean return", color=IMAGINED)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4))
            axis.set_major_formatter(FuncFormatter(_number))
        for entry in _labelled(report):
            left = entry.real_mean < np.mean(ends)
            axes.annotate(
                _short(entry.name),
                (entry.real_mean, entry.imagined_mean),
                xytext=(8 if left else -8, -12 if left else 8),
                ha="left" if left else "right",
                color=MUTED,
                **_BESIDE,
            )
        return _svg(figure, titles)


def coverage(report: GapReport) -> str | None:
    """Share of errors inside the bounds for each policy, beside the level that they promise."""
    shown = [s for s in report.scores if s.coverage is not None]
    if not shown:
        return None
    with rc_context(_STYLE):
        figure, (axes,) = _figure(0.75 + 0.24 * len(shown))
        rows = np.arange(len(shown))[::-1]
        if report.level is not None:
            axes.axvline(report.level, color=MUTED, linewidth=1, dashes=(4, 4))
        for row, s in zip(rows, shown, strict=True):
            color = BAD if s.stale else IMAGINED
            fill = "none" if s.calibrated_on else color
            axes.plot([s.coverage or 0.0], [row], "o", color=color, markerfacecolor=fill, markersize=7)
        axes.set_yticks(rows, [_short(s.name) for s in shown])
        axes.set(xlim=(min(0.78, *(s.coverage or 0.0 for s in shown)) - 0.02, 1.01), ylim=(-0.6, len(shown)))
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(_PERCENT)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        return _svg(figure)


def bounds(rows: Sequence[OpenLoopRow], level: float | None) -> str | None:
    """How wide the error bounds are, and the share of errors inside, by steps from a real state."""
    if len(rows) < 2:
        return None
    steps = [row.steps for row in rows]
    with rc_context(_STYLE):
        figure, (above, below) = _figure(4.2, rows=2)
        above.plot(steps, [row.bound for row in rows], "o-", color=IMAGINED, markersize=5)
        above.set(ylim=(0, 1.15 * max(row.bound for row in rows)), ylabel="half-width, std")
        if level is not None:
            below.axhline(level, color=MUTED, linewidth=1, dashes=(4, 4))
        shares = [row.coverage for row in rows]
        below.plot(steps, shares, "o-", color=IMAGINED, markersize=5)
        below.set(ylim=(min(0.75, *shares) - 0.02, 1.01), ylabel="inside")
        below.yaxis.set_major_formatter(_PERCENT)
        _by_steps(below, steps)
        for axes in (above, below):
            axes.yaxis.set_major_locator(MaxNLocator(4))
        return _svg(figure)


def open_loop(rows: Sequence[OpenLoopRow]) -> str | None:
    """Error by steps from a real state, with the bound and, as a ceiling, the constant-state baseline."""
    return _errors(rows, [row.bound for row in rows], 4.3, "error, std of the data")


def gap_by_steps(rows: Sequence[StepGap]) -> str | None:
    """Error of a simulator by steps from a real state, and of keeping that state."""
    return _errors(rows, [], 3.6, "error, std of the robot")


def _errors(
    rows: Sequence[OpenLoopRow] | Sequence[StepGap], bounds: list[float], height: float, label: str
) -> str | None:
    if len(rows) < 2:
        return None
    steps = [row.steps for row in rows]
    with rc_context(_STYLE):
        figure, (axes,) = _figure(height)
        axes.plot(steps, [row.constant_state for row in rows], color=MUTED, linewidth=1.5, dashes=(4, 3))
        if bounds:
            axes.fill_between(steps, bounds, color=IMAGINED, alpha=0.14, linewidth=0)
            axes.plot(steps, bounds, color=IMAGINED, linewidth=1.2)
        axes.plot(steps, [row.error_90 for row in rows], color=INK, linewidth=1, dashes=(2, 2))
        axes.plot(steps, [row.error for row in rows], color=INK)
        axes.set(ylabel=label)
        highest = max(1e-6, *bounds, *(max(row.constant_state, row.error_90) for row in rows))
        axes.set_ylim(0, 1.08 * highest)
        _by_steps(axes, steps)
        return _svg(figure)


def gap_by_dimension(rows: Sequence[DimensionGap]) -> str:
    """Error of each dimension after the last step, largest first."""
    with rc_context(_STYLE):
        figure, (axes,) = _figure(0.75 + 0.24 * len(rows))
        places = np.arange(len(rows))[::-1]
        axes.barh(places, [row.open_loop for row in rows], color=IMAGINED, height=0.6)
        axes.set_yticks(places, [_short(row.name) for row in rows])
        axes.set(xlabel="error, std of the robot", ylim=(-0.6, len(rows) - 0.4))
        axes.grid(axis="y", visible=False)
        return _svg(figure)


def _by_steps(axes: Axes, steps: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set(xlim=(steps[0], steps[-1]), xlabel="steps from a real state")
    axes.xaxis.set_major_formatter(FuncFormatter(_number))
    axes.tick_params(which="minor", length=0, labelbottom=False)


def learning(rows: Sequence[Mapping[str, float]]) -> str | None:
    """Returns while training, and the reward of a step on both sides where it is known."""
    rows = [row for row in rows if "return" in row]
    if len(rows) < 2:
        return None
    both = [row for row in rows if "real_reward" in row and "imagined_reward" in row]
    real = "real_steps" in rows[0]
    with rc_context(_STYLE):
        figure, axes = _figure(4.2 if both else 2.8, rows=2 if both else 1)
        key = "real_steps" if real else "imagined_steps"
        axes[0].plot(
            [row[key] for row in rows], [row["return"] for row in rows], color=REAL if real else IMAGINED
        )
        axes[0].set_ylabel("return")
        if both:
            for side, color in (("real", REAL), ("imagined", IMAGINED)):
                values = [row[f"{side}_reward"] for row in both]
                axes[1].plot([row[key] for row in both], values, color=color)
            axes[1].set_ylabel("reward a step")
        for each in axes:
            each.xaxis.set_major_formatter(FuncFormatter(_number))
            each.yaxis.set_major_formatter(FuncFormatter(_number))
            each.yaxis.set_major_locator(MaxNLocator(4))
            each.xaxis.set_major_locator(MaxNLocator(5))
        axes[-1].set_xlabel(key.replace("_", " "))
        return _svg(figure)


def _figure(height: float, rows: int = 1) -> tuple[Figure, tuple[Axes, ...]]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    figure.patch.set_visible(False)
    axes = tuple(np.atleast_1d(figure.subplots(rows, 1, sharex=rows > 1)))
    for each in axes:
        each.patch.set_visible(False)
    return figure, axes


def _labelled(report: GapReport) -> list[PolicyScore]:
    """The policies that a scatter names: the best, and the one that imagination is furthest off for."""
    own = [s for s in report.scores if s.name != RANDOM] or list(report.scores)
    worst = max(own, key=lambda s: abs(s.gap))
    return [own[0]] if worst is own[0] else [own[0], worst]


def _number(value: float, position: int | None = None) -> str:
    return f"{value:,.6g}".replace("-", "\N{MINUS SIGN}")


def _short(name: str) -> str:
    """A name, its middle left out where it is long: what tells checkpoints apart stands at the end."""
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


def _svg(figure: Figure, titles: Mapping[str, str] | None = None) -> str:
    """The drawing as an element of an HTML page; ``titles`` say what is under the pointer, by ``gid``."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser has fonts of its own
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = stream.getvalue()
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r" ?font-family: [^;\"]*;", "", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    for name, title in (titles or {}).items():
        text = text.replace(f'<g id="{name}">', f"<g><title>{html.escape(title)}</title>", 1)
    text = re.sub(r' id="(?:figure|axes|patch|line2d|text|[xy]tick|matplotlib|Line|Poly)[^"]*"', "", text)
    return re.sub(r"\n\s*", "\n", text)
