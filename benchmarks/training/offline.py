"""What is a policy worth in MuJoCo that was trained in a shipped world alone, without a real step?

Every seed trains DynaSAC through the world's gradients, and SB3's SAC and PPO with their own defaults on
imagined episodes of the same world: SAC with as many updates, PPO for two million steps. Each policy then
plays episodes in MuJoCo and in the world, from the same start states, and others in MuJoCo whose actions are
replayed in the world: do its error bounds hold for a policy that was trained there? Beside them stands the
best of the repository's reference policies, which learned in MuJoCo; data of some of these are what the world
was fitted to. Settings were chosen on seeds 0 to 9. On Swimmer both discount by 0.999, so that they look as
far ahead as an episode is long.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import wmgym
from benchmarks.harness.bred import DISCOUNT
from benchmarks.harness.metrics import coverage_at
from benchmarks.harness.results import ROOT, Row, target
from benchmarks.harness.runner import Benchmark, Work
from benchmarks.harness.worlds import Setup, fit_of
from wmgym.data.policy import MLPPolicy
from wmgym.io.provenance import cpu_seconds

ENVS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Swimmer-v5", "Ant-v5")
UPDATES = 20_000
SEEDS = (100, 101, 102)
SETTINGS: dict[str, dict[str, Any]] = {
    "DynaSAC": {"num_envs": 16, "hyperparameters": {"gradient_steps": -1}},  # one a step, also of --quick
    "SAC": {"num_envs": 16},
    "PPO": {"num_envs": 16},
}
STEPS_AN_UPDATE = {"DynaSAC": 1, "SAC": 16, "PPO": 100}
SHARE, GAP, SHARE_OF = 0.8, 0.1, {"Ant-v5": 0.6}
COVERED, LEAST_COVERED = 0.85, 0.75
HORIZONS = (1, 8, 32, 128, 368)


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
    world = setup.calibrated(env_id)
    policy, cost = trained(env_id, algorithm, seed, updates, world)
    report = wmgym.score(world, {algorithm: policy}, setup.size(20, 3), seed=500_000 + seed, workers=1)
    found = next(score for score in report.scores if score.name == algorithm)
    real = wmgym.collect(
        env_id, {algorithm: policy}, episodes=setup.size(6, 1), seed=520_000 + seed, workers=1
    )
    name, best = best_reference(env_id)
    return [
        {
            "env": env_id, "algorithm": algorithm, "seed": seed, "updates": updates,
            "real": round(found.real_mean, 2),
            "real_min": round(min(found.real_returns), 2), "imagined": round(found.imagined_mean, 2),
            "gap": round(found.gap, 4), "diverged": round(found.diverged, 3),
            "best": round(best, 2), "best_policy": name,
            "coverage": coverage_at(world, real, HORIZONS), **cost,
        }
    ]  # fmt: skip


def trained(
    env_id: str, algorithm: str, seed: int, updates: int, world: wmgym.WorldModel
) -> tuple[MLPPolicy, Row]:
    """A policy trained in the world alone, and what that cost; kept, since bounds may be made anew."""
    path = ROOT / "runs" / "offline" / f"{env_id}-{algorithm}-{seed}-{updates}-{fit_of(world)}"
    if (path / "cost.json").exists():
        return wmgym.load_policy(path), json.loads((path / "cost.json").read_text())
    began, cpu = time.perf_counter(), cpu_seconds()
    steps = updates * STEPS_AN_UPDATE[algorithm]
    settings = SETTINGS[algorithm]
    if env_id in DISCOUNT:
        settings = settings | {
            "hyperparameters": {**settings.get("hyperparameters", {}), "gamma": DISCOUNT[env_id]}
        }
    agent = wmgym.train(world, algorithm=algorithm, steps=steps, seed=seed, **settings)
    cost = {
        "imagined_steps": agent.num_timesteps,
        "wall_s": round(time.perf_counter() - began, 1),
        "cpu_s": round(cpu_seconds() - cpu, 1),
    }
    policy = wmgym.sb3.export_policy(agent, path)
    (path / "cost.json").write_text(json.dumps(cost))
    return policy, cost


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
        least = SHARE_OF.get(env_id, SHARE)
        found.append(
            target(what, f">= {least * 100:.0f} %", f"{share:.0%}", so_far(share >= least, len(mine)))
        )
        what = f"DynaSAC's imagined minus real return as a share of the real one above random, {where}"
        found.append(target(what, "<= 10 %", f"{gap:+.0%}", so_far(gap <= GAP, len(mine))))
    covered = [row for row in rows if "coverage" in row]
    by_env = {
        env_id: [
            round(float(np.mean([r["coverage"][str(h)] for r in mine if str(h) in r["coverage"]])), 3)
            for h in HORIZONS
        ]
        for env_id in ENVS
        if (mine := [r for r in covered if r["env"] == env_id])
    }
    single = {
        f"{r['env']} {r['algorithm']} {r['seed']}": round(min(r["coverage"].values()), 3) for r in covered
    }
    at = f"h = {', '.join(map(str, HORIZONS))}"
    what = f"coverage of the 90 % bound over policies trained in the world alone, {at}"
    met = bool(by_env) and min(map(min, by_env.values())) >= COVERED
    found.append(target(what, ">= 85 %", by_env, so_far(met, 3 * len(by_env) // len(ENVS))))
    met = bool(single) and min(single.values()) >= LEAST_COVERED
    what = f"coverage of the 90 % bound over each single policy trained in the world alone, least over {at}"
    found.append(target(what, ">= 75 %", single, so_far(met, 3 * len(by_env) // len(ENVS))))
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
