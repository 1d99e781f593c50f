"""What is a policy worth in MuJoCo that was trained in a shipped world alone, without a real step?

Every seed trains DynaSAC through the world's gradients, and SB3's SAC with its own defaults on imagined
episodes of the same world, with as many updates. Each policy then plays episodes in MuJoCo and in the world,
from the same start states. Beside them stands the best of the repository's reference policies, which learned
in MuJoCo; data of some of these are what the world was fitted to. Settings were chosen on seeds 0 to 9. On
Swimmer both discount by 0.999, so that they look as far ahead as an episode is long.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path
from typing import Any

import numpy as np

import wmgym
from benchmarks.harness.bred import DISCOUNT
from benchmarks.harness.results import ROOT, Row, target
from benchmarks.harness.runner import Benchmark, Work
from benchmarks.harness.worlds import Setup
from wmgym.io.provenance import cpu_seconds

ENVS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Swimmer-v5")
UPDATES = 20_000
SEEDS = (100, 101, 102)
SETTINGS: dict[str, dict[str, Any]] = {
    "DynaSAC": {"num_envs": 16, "hyperparameters": {"gradient_steps": -1}},  # one a step, also of --quick
    "SAC": {"num_envs": 16},
}
STEPS_AN_UPDATE = {"DynaSAC": 1, "SAC": 16}
SHARE, GAP = 0.8, 0.1


def units(setup: Setup, args: argparse.Namespace) -> dict[str, Work]:
    """One for each task, algorithm and seed, so that a run can be stopped between them."""
    updates = min(args.updates, 300) if setup.quick else args.updates
    return {
        f"{env_id}-{algorithm}-{seed}": functools.partial(measure, env_id, algorithm, seed, updates, setup)
        for seed in (args.seeds[:1] if setup.quick else args.seeds)
        for env_id in args.env
        for algorithm in args.algorithms
    }


def measure(env_id: str, algorithm: str, seed: int, updates: int, setup: Setup) -> list[Row]:
    world, began, cpu = setup.world(env_id), time.perf_counter(), cpu_seconds()
    steps = updates * STEPS_AN_UPDATE[algorithm]
    settings = SETTINGS[algorithm]
    if env_id in DISCOUNT:
        settings = settings | {
            "hyperparameters": {**settings.get("hyperparameters", {}), "gamma": DISCOUNT[env_id]}
        }
    agent = wmgym.train(world, algorithm=algorithm, steps=steps, seed=seed, **settings)
    wall, cpu = time.perf_counter() - began, cpu_seconds() - cpu
    policy = wmgym.sb3.export_policy(agent, ROOT / "runs" / "offline" / f"{env_id}-{algorithm}-{seed}")
    report = wmgym.score(world, {algorithm: policy}, setup.size(20, 3), seed=500_000 + seed, workers=1)
    found = next(score for score in report.scores if score.name == algorithm)
    name, best = best_reference(env_id)
    return [
        {
            "env": env_id, "algorithm": algorithm, "seed": seed, "updates": updates,
            "imagined_steps": agent.num_timesteps, "real": round(found.real_mean, 2),
            "real_min": round(min(found.real_returns), 2), "imagined": round(found.imagined_mean, 2),
            "gap": round(found.gap, 4), "diverged": round(found.diverged, 3),
            "best": round(best, 2), "best_policy": name,
            "wall_s": round(wall, 1), "cpu_s": round(cpu, 1),
        }
    ]  # fmt: skip


def best_reference(env_id: str) -> tuple[str, float]:
    """Name and mean return in MuJoCo of the best reference policy of a task."""
    every = wmgym.load_pool(Path(ROOT / "policies" / env_id), split=None)
    returns = {name: policy.card.return_mean for name, policy in every.items() if policy.card is not None}
    name = max(returns, key=lambda each: returns[each])
    return name, returns[name]


def goals(rows: list[Row]) -> list[Row]:
    found = []
    for env_id in ENVS:
        mine = [r for r in rows if (r["env"], r["algorithm"]) == (env_id, "DynaSAC")]
        if not mine:
            continue
        share = float(np.mean([r["real"] / r["best"] for r in mine]))
        gap = float(np.mean([r["gap"] for r in mine]))
        where = f"trained in the shipped world alone, mean of {len(mine)} of {len(SEEDS)} seeds, {env_id}"
        what = f"DynaSAC's real return as a share of the best reference policy's, {where}"
        found.append(target(what, ">= 80 %", f"{share:.0%}", so_far(share >= SHARE, len(mine))))
        what = f"DynaSAC's imagined minus real return as a share of the real one above random, {where}"
        found.append(target(what, "<= 10 %", f"{gap:+.0%}", so_far(gap <= GAP, len(mine))))
    return found


def so_far(met: bool, seeds: int) -> bool | None:
    """A target that is met by some of the seeds is not met yet."""
    return None if met and seeds < len(SEEDS) else met


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="default: %(default)s")
    parser.add_argument("--algorithms", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--updates", type=int, default=UPDATES, help="of every agent; default: %(default)s")


BENCHMARK = Benchmark(
    units,
    goals,
    collects="plays 20 episodes in MuJoCo for each task, algorithm and seed",
    envs=ENVS,
    seeds=SEEDS,
    arguments=arguments,
)
