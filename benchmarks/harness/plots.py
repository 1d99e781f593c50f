"""Plots of the results, as SVG: the same results give the same file with the same matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.lines
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np

from benchmarks.harness import evaluation_plots, learning_curves
from benchmarks.harness.results import Row
from benchmarks.harness.results import result_rows as rows
from benchmarks.harness.tables import MUJOCO_START, ablation_ratios, mean_log, short, tasks
from benchmarks.harness.worlds import LARGE

mpl.use("Agg")
mpl.rcParams.update({"svg.hashsalt": "wmgym", "font.size": 9, "figure.facecolor": "white"})


def draw_all(folder: Path) -> list[Path]:
    """Write every plot; the files."""
    made = []
    for name, (result, draw, title) in GRIDS.items():
        envs = [env_id for env_id in tasks(result) if env_id in LARGE or result == "throughput"]
        made.append(grid(envs, draw, title, folder / f"{name}.svg"))
    made += [learning(x, folder / f"{name}.svg") for name, x in LEARNING.items()]
    return [*made, ablation(folder / "ablation.svg")]


def grid(names: list[str], draw: Callable[[Any, str], None], title: str, path: Path) -> Path:
    """One small plot a task, three in a row; the last place holds the legend."""
    height = -(-(len(names) + 1) // 3)
    figure, axes = plt.subplots(height, 3, figsize=(9, 2.7 * height), squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        draw(axis, name)
        axis.set_title(short(name), fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    axes.flat[len(names)].legend(handles, labels, loc="center", frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return save(figure, path)


def save(figure: Any, path: Path) -> Path:
    """Write without a date, so that nothing but the results changes the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    # matplotlib ends some lines with a space.
    path.write_text("".join(line.rstrip() + "\n" for line in path.read_text().splitlines()))
    return path


def open_loop(axis: Any, env_id: str) -> None:
    """Error by horizon."""
    for model, style in (("world", "-o"), ("constant state", "--"), ("linear", ":"), (MUJOCO_START, "-.")):
        mine = rows("open_loop", section="error", env=env_id, model=model)
        label = model.replace(" sigma", "\nsigma")
        axis.plot([r["h"] for r in mine], [r["error"] for r in mine], style, ms=3, lw=1.2, label=label)
    axis.set(xscale="log", yscale="log", xlabel="steps ahead", ylabel="error / std", ylim=(1e-3, 20))


def gradients(axis: Any, env_id: str) -> None:
    """Cosine of the return's gradient with MuJoCo's by horizon, with contact and without."""
    for group, color in (("contact", "C1"), ("flight", "C0")):
        mine = rows("jacobians", section="cosine", env=env_id, propagation="mean", group=group)
        steps = [r["h"] for r in mine]
        axis.plot(steps, [r["steered_median"] for r in mine], "-o", ms=3, lw=1.2, color=color,
                  label=f"{group}, median")  # fmt: skip
        axis.plot(steps, [r["steered_p10"] for r in mine], ":", lw=1.2, color=color,
                  label=f"{group}, 10th percentile")  # fmt: skip
    axis.axhline(0, color="0.6", lw=0.7)
    axis.set(xscale="log", xlim=(0.9, 18), ylim=(-0.6, 1.05), xlabel="steps", ylabel="cosine")
    axis.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    axis.set_xticks([], minor=True)


def coverage(axis: Any, env_id: str) -> None:
    """Coverage by horizon, of all policies together and of each."""
    mine = rows("coverage", section="bound", env=env_id, propagation="member")
    steps = [r["h"] for r in mine]
    axis.axhspan(0.88, 0.92, color="0.88", label="target: 88 to 92 %")
    for i, policy in enumerate(dict.fromkeys(p for r in mine for p in r["disagreement_policies"])):
        one = [r["disagreement_policies"].get(policy, np.nan) for r in mine]
        axis.plot(steps, one, color="0.6", lw=0.7, label="single policies" if i == 0 else None)
    axis.plot(steps, [r["step_coverage"] for r in mine], "--s", ms=3, lw=1.2, label="bound by the step alone")
    found = [r["disagreement_coverage"] for r in mine]
    axis.plot(steps, found, "-o", ms=3, lw=1.2, label="bound with disagreement")
    axis.set(xscale="log", ylim=(0.6, 1.01), xlabel="steps ahead", ylabel="coverage of 90 %")


def bound_against_error(axis: Any, env_id: str) -> None:
    """Width of the bound and error that came true, a point a window."""
    for r in rows("coverage", section="scatter", env=env_id):
        axis.scatter(r["width"], r["error"], s=3, alpha=0.6, label=f"after {r['h']} steps")
    axis.plot([1e-3, 10], [1e-3, 10], color="0.6", lw=0.7, label="error as large as the bound")
    axis.set(xscale="log", yscale="log", xlabel="bound / std", ylabel="error / std")


def risk(axis: Any, env_id: str) -> None:
    """Error of the steps that a threshold keeps, by the share that it keeps."""
    mine = [r for r in rows("coverage", section="threshold", env=env_id) if r["error_kept"] is not None]
    kept, error = [r["kept"] for r in mine], [r["error_kept"] for r in mine]
    axis.plot(kept, error, "-o", ms=3, lw=1.2, label="steps within the threshold\n(numbers: the threshold)")
    axis.axhline(mine[0]["error_all"], color="0.6", lw=0.7, ls="--", label="all steps")
    for r in mine:
        if r["threshold"] in (0.25, 0.75, 1.5):  # all of them would overlap
            at = {"textcoords": "offset points", "xytext": (-2, 5), "ha": "right"}
            axis.annotate(f"{r['threshold']:g}", (r["kept"], r["error_kept"]), fontsize=7, **at)
    axis.set(xlabel="share of steps kept", ylabel="error / std", xlim=(0, 1.02), ylim=(0, None))


def throughput(axis: Any, env_id: str) -> None:
    """Steps per second by number of envs."""
    for precision in ("float32", "bfloat16"):
        mine = rows("throughput", env=env_id, engine="ImaginedVectorEnv", precision=precision)
        sizes, rates = [r["num_envs"] for r in mine], [r["steps_per_s"] for r in mine]
        axis.plot(sizes, rates, "-o", ms=3, lw=1.2, label=f"ImaginedVectorEnv, {precision}")
    for engine, style in zip(("mujoco.rollout", "EnvPool", "AsyncVectorEnv", "Gymnasium env"),
                             ("-", "--", "-.", ":"), strict=True):  # fmt: skip
        best = max((r["steps_per_s"] for r in rows("throughput", env=env_id, engine=engine)), default=np.nan)
        axis.axhline(best, lw=1, ls=style, color="0.45", label=engine)
    axis.set(xscale="log", yscale="log", xlabel="number of envs", ylabel="steps per second")


def ablation(path: Path) -> Path:
    """Every change of which three tasks or more are measured: error relative to the base, a point a task."""
    ratio = {change: found for change, found in ablation_ratios().items() if len(found) > 2}
    ranked = sorted(ratio, key=lambda change: -mean_log(ratio[change].values()))
    figure, axis = plt.subplots(figsize=(9, 0.21 * len(ranked) + 1))
    for env_id in tasks("ablation"):
        points = [(ratio[c][env_id], y) for y, c in enumerate(ranked) if env_id in ratio[c]]
        axis.plot(*zip(*points, strict=True), "o", ms=4, alpha=0.7, label=short(env_id))
    means = [math.exp(mean_log(ratio[c].values())) for c in ranked]
    axis.plot(means, range(len(ranked)), "k|", ms=9, label="geometric mean")
    axis.axvline(1, color="0.6", lw=0.7)
    axis.set_yticks(range(len(ranked)), ranked, fontsize=8)
    axis.set(xscale="log", xlabel="error after 32 steps relative to the base; left of 1 is better")
    ticks = [0.25, 0.5, 1, 2, 4]
    axis.set_xticks(ticks, [f"x{tick:g}" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    figure.tight_layout()
    return save(figure, path)


def learning(x: str, path: Path) -> Path:
    """Return by real "step" or by "minutes" of training, a small plot a task, published curves behind."""
    figure, axes = plt.subplots(2, 3, figsize=(9, 6.2))
    ours = rows(learning_curves.NAME)
    for axis, env_id in zip(axes.flat, learning_curves.ENVS, strict=True):
        for algorithm, (color, style) in PUBLISHED.items():
            points = learning_curves.published(env_id).get(algorithm, [])
            points = [p for p in points if x == "step" or p["hours"]]
            at = [p["step"] if x == "step" else 60 * p["hours"] for p in points]
            axis.plot(at, [p["mean"] for p in points], style, color=color, lw=1, alpha=0.75, zorder=1)
        for order, (algorithm, color) in enumerate(MEASURED.items()):
            mine = [r for r in ours if (r["algorithm"], r["env"]) == (algorithm, env_id)]
            curves = [[r for r in mine if r["seed"] == seed] for seed in sorted({r["seed"] for r in mine})]
            for curve in curves:
                axis.plot(*points_of(curve, x), "-", color=color, lw=0.6, alpha=0.45, zorder=3 - order / 10)
            mean = learning_curves.curve(ours, algorithm, env_id)
            axis.plot(*points_of(mean, x), "-o", color=color, ms=3, lw=2, zorder=5 - order / 10)
        if x == "step":
            goals = [(step, aim) for env, step, _, aim, _ in learning_curves.RETURNS if env == env_id]
            axis.plot(*zip(*goals, strict=True), "*", color="black", ms=8, mew=0, zorder=6)
        axis.set_title(short(env_id), fontsize=10)
        axis.set(xscale="log", xlabel="real steps" if x == "step" else "minutes of training")
        axis.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5) if x == "step" else (1,)))
        axis.xaxis.set_major_formatter(axis_number)
        axis.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        axis.yaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("return")
    handles = [mpl.lines.Line2D([], [], color=color, lw=2, marker="o", ms=3) for color in MEASURED.values()]
    timed = learning_curves.published(learning_curves.ENVS[0])
    behind = {name: line for name, line in PUBLISHED.items() if x == "step" or timed[name][0]["hours"]}
    handles += [mpl.lines.Line2D([], [], color=color, lw=1, ls=style) for color, style in behind.values()]
    labels = [
        *(f"{name}, this machine" for name in MEASURED),
        *(f"{name}, published (v4)" for name in behind),
    ]
    if x == "step":
        handles.append(mpl.lines.Line2D([], [], color="black", marker="*", ms=8, mew=0, lw=0))
        labels.append("target")
    figure.suptitle("Return by real steps" if x == "step" else "Return by minutes of training", fontsize=11)
    figure.legend(
        handles, labels, loc="lower center", ncols=3 if x == "minutes" else 4, frameon=False, fontsize=7.5
    )
    figure.tight_layout(rect=(0, 0.11, 1, 1))
    return save(figure, path)


def axis_number(value: float, _: Any) -> str:
    """Thousands as k."""
    return f"{value / 1_000:g}k" if value >= 1_000 else f"{value:g}"


def points_of(curve: list[Row], x: str) -> tuple[list[float], list[float]]:
    """Where a curve goes."""
    return [r["step"] if x == "step" else r["wall_s"] / 60 for r in curve], [r["mean"] for r in curve]


LEARNING = {"return_by_steps": "step", "return_by_minutes": "minutes"}
MEASURED = {"DynaSAC": "tab:blue", "SAC": "tab:orange", "CrossQ": "tab:green"}
PUBLISHED = {
    "DHMBPO (2 updates/step)": ("tab:purple", "--"), "MACURA": ("tab:brown", "--"),
    "MBPO": ("tab:gray", "--"),
    "TD-MPC2 (tuned)": ("tab:pink", "--"), "SAC": ("tab:orange", ":"), "CrossQ": ("tab:green", ":"),
}  # fmt: skip
"""Colour and line of every published curve."""
GRIDS: dict[str, tuple[str, Callable[[Any, str], None], str]] = {
    "open_loop": ("open_loop", open_loop, "Open-loop error in episodes of held-out policies"),
    "gradients": (
        "jacobians",
        gradients,
        "Gradient of the return with respect to the actions, world and MuJoCo",
    ),
    "coverage": ("coverage", coverage, "Coverage of the 90 % bound by horizon"),
    "bound_against_error": ("coverage", bound_against_error, "Bound and error, held-out windows"),
    "risk": ("coverage", risk, "Error of the steps whose distrust is within a threshold"),
    "ranking": ("ranking", evaluation_plots.ranking, "Mean returns of the reference policies"),
    "interval_coverage": (
        "prediction_powered",
        evaluation_plots.interval_coverage,
        "Coverage of 95 % intervals of the real mean return, 10 real episodes",
    ),
    "throughput": ("throughput", throughput, "Steps per second on two cores"),
}
