"""Pictures of the results: ``benchmarks/results/*.json`` in, ``benchmarks/results/*.png`` out.

python benchmarks/plots.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from common import RESULTS
from common import result_rows as rows
from worlds import LARGE

mpl.use("Agg")
CEILING = "MuJoCo, start off by 1e-3 std"


def grid(names: list[str], draw: Callable[[Any, str], None], title: str, path: Path) -> None:
    """One small picture a name, side by side."""
    width = min(len(names), 4)
    height = -(-len(names) // width)
    figure, axes = plt.subplots(height, width, figsize=(3.1 * width, 2.7 * height), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names, strict=False):
        draw(axis, name)
        axis.set_title(name.removesuffix("-v5"), fontsize=9)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(fontsize=6, frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(path)


def open_loop(axis: Any, env_id: str) -> None:
    for model, style in (("world", "-o"), ("hold-last", "--"), ("linear", ":"), (CEILING, "-.")):
        mine = rows("open_loop", section="error", env=env_id, model=model)
        axis.plot([r["h"] for r in mine], [r["error"] for r in mine], style, ms=3, lw=1, label=model)
    axis.set(xscale="log", yscale="log", xlabel="steps ahead", ylabel="error / std", ylim=(1e-3, 20))


def reliability(axis: Any, env_id: str) -> None:
    mine = rows("calibration", section="bound", env=env_id, mode="member")
    steps = [r["h"] for r in mine]
    axis.axhspan(0.88, 0.92, color="0.9")
    for policy in dict.fromkeys(p for r in mine for p in r["doubt_policies"]):
        axis.plot(steps, [r["doubt_policies"].get(policy, np.nan) for r in mine], color="0.7", lw=0.7)
    axis.plot(steps, [r["step_coverage"] for r in mine], "--s", ms=3, lw=1, label="by the step")
    axis.plot(steps, [r["doubt_coverage"] for r in mine], "-o", ms=3, lw=1, label="given disagreement")
    axis.set(xscale="log", ylim=(0.6, 1.01), xlabel="steps ahead", ylabel="coverage of 90 %")


def scatter(axis: Any, env_id: str) -> None:
    for r in rows("calibration", section="scatter", env=env_id):
        axis.scatter(r["width"], r["error"], s=3, alpha=0.6, label=f"h = {r['h']}")
    axis.plot([1e-3, 10], [1e-3, 10], color="0.6", lw=0.7)
    axis.set(xscale="log", yscale="log", xlabel="bound / std", ylabel="error / std")


def risk(axis: Any, env_id: str) -> None:
    mine = [r for r in rows("calibration", section="tolerance", env=env_id) if r["error_kept"] is not None]
    axis.plot(
        [r["kept"] for r in mine], [r["error_kept"] for r in mine], "-o", ms=3, lw=1, label="kept steps"
    )
    axis.axhline(mine[0]["error_all"], color="0.6", lw=0.7, ls="--", label="all steps")
    for r in mine:
        axis.annotate(f"{r['tolerance']:g}", (r["kept"], r["error_kept"]), fontsize=6)
    axis.set(xlabel="share of steps kept", ylabel="error / std", xlim=(0, 1.02), ylim=(0, None))


def throughput(axis: Any, env_id: str) -> None:
    for precision in ("float32", "bfloat16"):
        mine = rows("throughput", env=env_id, engine="ImaginedVectorEnv", precision=precision, device="cpu")
        label = f"imagined, {precision}"
        axis.plot(
            [r["num_envs"] for r in mine], [r["steps_per_s"] for r in mine], "-o", ms=3, lw=1, label=label
        )
    for engine in ("mujoco.rollout", "EnvPool", "AsyncVectorEnv", "Gymnasium env"):
        best = max((r["steps_per_s"] for r in rows("throughput", env=env_id, engine=engine)), default=np.nan)
        axis.axhline(best, lw=0.7, ls="--", color="0.5")
        axis.annotate(engine, (1, best), fontsize=6)
    axis.set(xscale="log", yscale="log", xlabel="num_envs", ylabel="steps / s")


def main() -> None:
    pictures: dict[str, tuple[str, Callable[[Any, str], None], str]] = {
        "open_loop": ("open_loop", open_loop, "Open-loop error of held-out policies' episodes"),
        "calibration_reliability": ("calibration", reliability, "Coverage by horizon; grey: single policies"),
        "calibration_scatter": (
            "calibration",
            scatter,
            "Bound given disagreement against error, held-out windows",
        ),
        "calibration_risk": ("calibration", risk, "Error of the steps whose distrust is within a tolerance"),
        "throughput": ("throughput", throughput, "Steps a second on two cores"),
    }
    for name, (script, draw, title) in pictures.items():
        found = list(dict.fromkeys(r["env"] for r in rows(script)))
        found.sort(key=lambda env_id: (env_id not in LARGE, env_id))
        if found:
            grid(found, draw, title, RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
