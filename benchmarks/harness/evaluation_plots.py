"""Plots of what evaluation in imagination is worth: small ones of a task each, for ``plots.grid``."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness.results import result_rows

EPISODES = {"real": 200, "imagined": 1_000}  # of a policy, behind each mean of the ranking


def ranking(axis: Any, env_id: str) -> None:
    """Real against imagined mean returns, a point a policy, with 95 % intervals and the diagonal."""
    every = [r for r in result_rows("ranking", section="policy", env=env_id) if "imagined" in r]
    kinds = (False, "0.45", "in fit or calibration"), (True, "C0", "held out of both")
    for held_out, color, label in kinds:
        mine = [r for r in every if r["held_out"] is held_out]
        means, half = zip(*((side(mine, name)) for name in ("real", "imagined")), strict=True)
        axis.errorbar(*means, xerr=half[0], yerr=half[1], fmt="o", ms=3, lw=0.8, color=color, label=label)
    ends = [f([r[s] for r in every for s in ("real", "imagined")]) for f in (min, max)]
    axis.plot(ends, ends, "--", color="0.6", lw=0.8, label="imagined = real", zorder=0)
    axis.set(xlabel="real mean return", ylabel="imagined mean return")


def side(rows: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Means and half-widths of their 95 % intervals."""
    std = np.array([r[f"{name}_std"] for r in rows])
    return np.array([r[name] for r in rows]), 1.96 * std / EPISODES[name] ** 0.5


def interval_coverage(axis: Any, env_id: str) -> None:
    """How often intervals at 10 real episodes hold the true mean, policy by policy."""
    rows = result_rows("prediction_powered", section="interval", env=env_id)
    rows = sorted(rows, key=lambda r: r["coverage"])
    place = np.arange(len(rows))
    axis.axhspan(0.93, 0.97, color="0.88", label="target for the mean: 93 to 97 %")
    plain, powered = ([r[name] for r in rows] for name in ("coverage_of_t", "coverage"))
    axis.plot(place, plain, "x", ms=4, color="C1", label="t interval, real episodes alone")
    axis.plot(place, powered, "o", ms=4, color="C0", label="prediction-powered interval")
    axis.axhline(np.mean(powered), color="C0", lw=0.8, label="its mean over policies")
    axis.set(xlabel="policy, in order of coverage", ylabel="coverage of 95 %", ylim=(0.5, 1.02), xticks=[])
