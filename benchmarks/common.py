"""What every benchmark shares: one result file, unit by unit, and the facts that make a number checkable."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from wmgym.io import artifacts
from wmgym.io.provenance import cpu_seconds, library_versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
RUNS = ROOT / "runs"

Row = dict[str, Any]


class Units:
    """Finished units of one benchmark, each in its own file, so that two processes can work side by side."""

    def __init__(self, script: str) -> None:
        self.script = script
        self.folder = RUNS / script / "units"

    def do(self, name: str, work: Callable[[], list[Row]]) -> None:
        """Run a unit unless an earlier call finished it; its rows and cost are kept either way."""
        path = self.folder / f"{name}.json"
        if path.exists():
            print(f"{name}: done before", flush=True)
            return
        print(f"{name}: started", flush=True)
        wall, cpu = time.perf_counter(), cpu_seconds()
        rows = work()
        self.folder.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(
            path,
            {
                "unit": name,
                "rows": rows,
                "commit": commit(),
                "wall_s": round(time.perf_counter() - wall, 1),
                "cpu_s": round(cpu_seconds() - cpu, 1),
            },
        )
        for row in rows:
            print(f"  {row}", flush=True)

    def rows(self) -> tuple[list[Row], float, float]:
        """All rows of finished units, fresh ones before committed ones, with their wall and CPU seconds."""
        units = {path.stem: artifacts.read_json(path) for path in sorted(self.folder.glob("*.json"))}
        committed = RESULTS / f"{self.script}.json"
        if committed.exists():
            for unit in artifacts.read_json(committed)["units"]:
                units.setdefault(unit["unit"], unit)
        self.units = [units[name] for name in sorted(units)]
        rows = [{"unit": unit["unit"], **row} for unit in self.units for row in unit["rows"]]
        return rows, sum(u["wall_s"] for u in self.units), sum(u["cpu_s"] for u in self.units)

    def write(self, targets: Callable[[list[Row]], list[Row]], seeds: list[int]) -> Path:
        """Write ``benchmarks/results/<script>.json`` from all finished units."""
        rows, wall, cpu = self.rows()
        return artifacts.write_json(
            RESULTS / f"{self.script}.json",
            {
                "command": f"python benchmarks/{self.script}.py",
                "commit": commit(),
                "versions": {**library_versions(), "python": platform.python_version()},
                "hardware": hardware(),
                "seeds": seeds,
                "wall_s": round(wall, 1),
                "cpu_s": round(cpu, 1),
                "rows": rows,
                "units": self.units,
                "targets": targets(rows),
            },
        )


def target(what: str, aim: str, measured: Any, met: bool) -> Row:
    """One line of the issue's table beside what was measured."""
    return {"what": what, "target": aim, "measured": measured, "met": bool(met)}


def result_rows(script: str, **having: Any) -> list[Row]:
    """Rows of a committed result that have these values; none where there is no result."""
    path = RESULTS / f"{script}.json"
    every: list[Row] = artifacts.read_json(path)["rows"] if path.exists() else []
    return [r for r in every if all(r.get(key) == value for key, value in having.items())]


def break_even(rows: list[Row], env_id: str) -> int | None:
    """Of the sizes in ``throughput.py``'s rows the first at which imagined envs outrun mujoco.rollout."""
    rates = {
        (r["engine"], r["num_envs"]): r["steps_per_s"]
        for r in rows
        if r["env"] == env_id and r["precision"] != "bfloat16"
    }
    rollout = max(rate for (engine, _), rate in rates.items() if engine == "mujoco.rollout")
    ahead = [n for (engine, n), rate in rates.items() if engine == "ImaginedVectorEnv" and rate > rollout]
    return min(ahead, default=None)


def auroc(score: np.ndarray, label: np.ndarray) -> float | None:
    """Probability that a labelled row scores above another one; None where all are of one kind."""
    if label.all() or not label.any():
        return None
    ranked = stats.mannwhitneyu(score[label], score[~label]).statistic
    return float(ranked / (label.sum() * (~label).sum()))


def fair_width(error: np.ndarray, bound: np.ndarray, level: float = 0.9) -> float:
    """Mean width of bounds ``(n, dim)`` scaled so that they cover exactly ``level`` of the errors."""
    return float(np.quantile(error / np.maximum(bound, 1e-12), level) * bound.mean())


def commit() -> str:
    """The checkout's commit, marked where files differ from it."""
    try:
        head = subprocess.run(
            shlex.split("git rev-parse --short HEAD"), cwd=ROOT, capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            shlex.split("git status --porcelain wmgym benchmarks/*.py"),
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware() -> Row:
    """Processor, cores and memory."""
    model = platform.processor() or "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": model, "cores": os.cpu_count(), "memory_gib": round(memory), "system": sys.platform}
