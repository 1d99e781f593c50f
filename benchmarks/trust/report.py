"""How long does a page of sixteen policies take, and how large is it?

``wmgym report`` scores sixteen reference policies in the shipped world, 20 real and 20 imagined episodes
each, and writes the page with two films. Beside the wall-clock time stand the processor seconds, which a
machine that others share does not change, and the load that it had.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import wmgym
from benchmarks.harness.results import ROOT, Row, target
from benchmarks.harness.runner import Benchmark, per_env
from benchmarks.harness.worlds import Setup
from wmgym.io.provenance import cpu_seconds

POLICIES, MINUTES, MEGABYTES = 16, 5, 8
IDLE = 0.5  # load of a machine that has its cores for this alone


def measure(env_id: str, setup: Setup) -> list[Row]:
    """One row: what the command took and left."""
    folder = ROOT / "policies" / env_id
    names = sorted(path.name for path in folder.iterdir())[: setup.size(POLICIES, 2)]
    chosen = [word for name in names for word in ("--policy", str(folder / name))]
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "page.html"
        command = [sys.executable, "-m", "wmgym", "report", env_id, *chosen, "--out", str(page)]
        load, cpu, began = os.getloadavg()[0], cpu_seconds(), time.perf_counter()
        subprocess.run(
            [*command, "--episodes", str(setup.size(20, 2))], check=True, stdout=subprocess.DEVNULL
        )
        wall = time.perf_counter() - began
        report = wmgym.GapReport.load(page.with_suffix(".json"))
        size, films = page.stat().st_size, page.read_text().count("<video ")
    assert report.origin is not None
    assert report.verdict is not None
    return [
        {
            "env": env_id, "policies": len(names), "episodes": report.episodes, "wall_s": round(wall, 1),
            "cpu_s": round(cpu_seconds() - cpu, 1), "score_cpu_s": round(report.origin.cpu_s, 1),
            "load_before": round(load, 2), "bytes": size, "films": films, "level": report.verdict.level,
        }
    ]  # fmt: skip


def goals(rows: list[Row]) -> list[Row]:
    row = max(rows, key=lambda each: each["wall_s"])
    cores = os.cpu_count() or 1
    took = (
        f"{row['wall_s'] / 60:.1f} minutes at a load of {row['load_before']:g} before;"
        f" {row['cpu_s']:.0f} CPU seconds, {row['cpu_s'] / cores / 60:.1f} minutes of {cores} whole cores"
    )
    met = True if row["wall_s"] <= 60 * MINUTES else False if row["load_before"] < IDLE else None
    size = max(each["bytes"] for each in rows) / 1e6
    what = f"page of {POLICIES} policies, 20 episodes of each kind"
    return [
        target(f"{what}, on two cores", f"<= {MINUTES} minutes", took, met),
        target(f"{what}: the file with {row['films']} films", f"<= {MEGABYTES} MB", f"{size:.1f} MB",
               size <= MEGABYTES),
    ]  # fmt: skip


BENCHMARK = Benchmark(
    per_env(measure),
    goals,
    collects="plays 20 real episodes of sixteen reference policies",
    envs=("HalfCheetah-v5",),
)
