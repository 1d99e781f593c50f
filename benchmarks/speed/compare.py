"""Is this checkout as fast as an earlier one, and do the shipped worlds predict the same?

Both checkouts do the same work through their public API, in fresh processes that take turns; every number is
the median over the rounds of the ratio of two processes that ran one after the other. A ratio above 1 is an
improvement. Run it on an idle machine. With --fidelity the shipped worlds of both replay the same held-out
episodes open loop.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.metrics import core_error, spread
from benchmarks.harness.results import ROOT, RUNS, Row, target
from benchmarks.harness.runner import Benchmark, Work
from benchmarks.harness.worlds import Setup
from wmgym.tasks.task import make_task

FAST, FAITHFUL = ("HalfCheetah-v5", "Hopper-v5"), ("Hopper-v5", "HalfCheetah-v5", "Ant-v5")
SIZES, HORIZONS = [1, 16, 256, 1_024], (1, 8, 32)
WORKLOAD = ROOT / "benchmarks" / "harness" / "workload.py"
SECTIONS = ("start", "steps", "fit", "fidelity")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", required=True, metavar="PATH_OR_COMMIT", help="the earlier checkout")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="all but fidelity by default")
    parser.add_argument("--fidelity", action="store_true", help="only compare what shipped worlds predict")


def units(setup: Setup, args: argparse.Namespace) -> dict[str, Work]:
    base, rounds = checkout(args.base), setup.size(7, 2)
    sections = ["fidelity"] if args.fidelity else args.only or SECTIONS[:-1]
    found: dict[str, Work] = {}
    if "start" in sections:
        found["start"] = functools.partial(compare, base, rounds, "start", {"env_id": "Hopper-v5"})
    for env_id in (e for e in args.env if "steps" in sections and e in FAST):
        given = {"env_id": env_id, "sizes": SIZES, "seconds": setup.size(10, 2) / 10}
        found[f"steps-{env_id}"] = functools.partial(compare, base, rounds, "steps", given)
    for env_id in (e for e in args.env if "fit" in sections and e in FAST):
        given = {"env_id": env_id, "transitions": setup.size(10_000, 2_000),
                 "updates": setup.size(600, 50), "horizon": setup.size(200, 20)}  # fmt: skip
        found[f"fit-{env_id}"] = functools.partial(compare, base, rounds, "fit", given)
    for env_id in (e for e in args.env if "fidelity" in sections and e in FAITHFUL):
        found[f"fidelity-{env_id}"] = functools.partial(fidelity, base, env_id, setup)
    return found


def checkout(base: str) -> Path:
    """The folder of the earlier checkout; a commit is unpacked under ``runs/``."""
    if Path(base).is_dir():
        return Path(base).resolve()
    folder = RUNS / "checkouts" / base
    if not (folder / "wmgym").exists():
        folder.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(["git", "archive", base, "wmgym"], cwd=ROOT, capture_output=True, check=True)
        subprocess.run(["tar", "--extract", "--directory", str(folder)], input=packed.stdout, check=True)
    return folder


def process(folder: Path, kind: str, given: dict[str, Any]) -> dict[str, float]:
    """One fresh process of one checkout."""
    done = subprocess.run(
        [sys.executable, "-P", str(WORKLOAD), str(folder), kind, json.dumps(given)],
        env={**os.environ, "PYTHONPATH": str(folder)}, cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{kind} failed in {folder}:\n{done.stderr[-2_000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(base: Path, rounds: int, kind: str, given: dict[str, Any]) -> list[Row]:
    """Both checkouts in turn; who goes first alternates."""
    seen: dict[Path, list[dict[str, float]]] = {base: [], ROOT: []}
    for index in range(rounds):
        for folder in (base, ROOT) if index % 2 else (ROOT, base):
            seen[folder].append(process(folder, kind, given))
    rows = []
    for what in seen[ROOT][0]:
        old, new = (np.array([one[what] for one in seen[folder]]) for folder in (base, ROOT))
        faster = new / old if kind == "steps" else old / new
        rows.append(
            {"section": kind, "env": given["env_id"], "what": what, "rounds": rounds,
             "unit_of_measure": "steps/s" if kind == "steps" else "s",
             "base": float(np.median(old)), "this": float(np.median(new)),
             "ratio": float(np.median(faster)), "ratios": [round(float(x), 4) for x in faster]}
        )  # fmt: skip
    return rows


def fidelity(base: Path, env_id: str, setup: Setup) -> list[Row]:
    """Errors of both checkouts' shipped worlds on the same episodes."""
    folder = RUNS / "compare"
    folder.mkdir(parents=True, exist_ok=True)
    test, horizon = setup.held_out(env_id), max(HORIZONS)
    starts = test.window_starts(horizon)
    starts = np.random.default_rng(0).choice(
        starts, size=min(setup.size(400, 100), len(starts)), replace=False
    )
    rows = starts[:, None] + np.arange(horizon)
    episodes = folder / f"{env_id}.npz"
    np.savez(episodes, state=test.state[starts], action=test.action[rows])
    real, std, task = test.next_core[rows].astype(np.float64), spread(test), make_task(env_id)
    found, errors = {}, {}
    for name, place in (("base", base), ("this", ROOT)):
        out = folder / f"{env_id}-{name}.npy"
        process(place, "open_loop", {"env_id": env_id, "episodes": str(episodes), "out": str(out)})
        found[name] = np.load(out).astype(np.float64)
        errors[name] = np.sqrt((((core_error(task, found[name].copy(), real)) / std) ** 2).mean(-1)).mean(0)
    return [
        {"section": "fidelity", "env": env_id, "h": h, "windows": len(starts),
         "error_base": float(errors["base"][h - 1]), "error_this": float(errors["this"][h - 1]),
         "largest_difference": float(np.abs(found["this"] - found["base"])[:, h - 1].max())}
        for h in HORIZONS
    ]  # fmt: skip


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""
    found = []

    def ratios(section: str, *names: str) -> dict[str, list[float]]:
        mine = [r for r in rows if r["section"] == section and r["what"].split(",")[0] in names]
        envs = dict.fromkeys(r["env"] for r in mine)
        return {e: [round(r["ratio"], 3) for r in mine if r["env"] == e] for e in envs}

    for section, names, what, least in (
        ("steps", ("256 envs", "1024 envs"), "steps/s at 256 and 1,024 envs, trust off and on each", 0.95),
        ("steps", ("1 envs", "16 envs"), "steps/s at 1 and 16 envs, trust off and on each", None),
        ("fit", ("fit",), "speed of a small fit", 0.95),
        ("fit", ("calibrate",), "speed of its calibration", 0.95),
        ("start", ("import", "first step"), "speed of import and of the first step", None),
    ):
        said = ratios(section, *names)
        if said:
            met = least is None or all(x >= least for each in said.values() for x in each)
            aim = "none set" if least is None else f">= {least}x"
            found.append(target(f"{what}, relative to the earlier checkout", aim, said, met))
    pairs = [r for r in rows if r["section"] == "fidelity"]
    if pairs:
        envs = dict.fromkeys(r["env"] for r in pairs)
        change = {
            e: [f"{r['error_base']:.4f} -> {r['error_this']:.4f}" for r in pairs if r["env"] == e]
            for e in envs
        }
        found.append(
            target("open-loop error of the shipped worlds after 1, 8 and 32 steps, earlier -> this checkout",
                   "unchanged", change, all(r["error_base"] == r["error_this"] for r in pairs))
        )  # fmt: skip
    return found


BENCHMARK = Benchmark(
    units,
    goals,
    collects="runs seven pairs of processes for every measurement",
    envs=tuple(dict.fromkeys((*FAST, *FAITHFUL))),
    arguments=arguments,
    threads=None,
)
