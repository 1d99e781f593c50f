"""What is a policy worth on a changed robot once it was retrained in a world adapted to that robot?

MuJoCo plays the robot, see ``reality_gap``. A held-out policy of the pool, SAC after 250,000 steps of the
nominal robot, is deployed on it: 2,000 of its steps, half with action noise, adapt the shipped world and
identify the nominal model's parameters and drive; 1,000 make the world's bounds. DynaSAC goes on from the
policy in the adapted world, with its defaults, and the identified simulator keeps the best of ten policies on
the way (``EvalCallback`` of Stable-Baselines3): what one simulator gets wrong, the other one sees. No step of
the robot is needed for either. All policies then run on the robot, from the same start states, beside SB3's
SAC that learned from as many real steps from nothing. The gate is the identified simulator: the retrained
policy is deployed where it earns more than the old one there. Settings were chosen on Hopper with weak
motors.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor

import wmgym
from benchmarks.harness.results import Growing, Row, target
from benchmarks.harness.runner import Benchmark
from benchmarks.harness.worlds import Setup, policies
from wmgym.data.policy import MLPPolicy
from wmgym.data.transitions import Transitions, concat
from wmgym.io.provenance import cpu_seconds

KINDS = ("strong", "unmodelled")
SHIFTS = {what: (kind, changes) for kind in KINDS for what, changes in wmgym.shifts(kind).items()}
POLICY, SEEDS = "sac-250k", (0,)
STEPS, CALIBRATION = 2_000, 1_000
NOISE = 0.2
UPDATES, CHECKS, CHECK_EPISODES = 4_000, 10, 3
EPISODES, FIRST_SEED = 10, 900_000


def measure(env_id: str, what: str, seed: int, setup: Setup, kept: Row | None, keep: Any) -> None:
    """One changed robot: the policy as it is, retrained, and one that learned on the robot itself."""
    if kept is not None:
        return
    wall, cpu = time.perf_counter(), cpu_seconds()
    kind, changes = SHIFTS[what]
    robot, old = wmgym.make_task(wmgym.shift(env_id, **changes)), policies(env_id, "held-out")[POLICY]
    log = concat([deployed(robot, old, STEPS // 2, seed + i, noise) for i, noise in enumerate((0.0, NOISE))])
    calib = deployed(robot, old, CALIBRATION, seed + 2, 0.0)
    world = wmgym.adapt(wmgym.load(env_id), log, calib, seed=seed)
    known = wmgym.identify(log, env_id, seed=seed)
    last, new = retrained(world, known.simulator(), old, seed, setup)
    direct = stable_baselines3.SAC("MlpPolicy", wmgym.shift(env_id, **changes), seed=seed, device="cpu")
    direct.learn(setup.size(STEPS + CALIBRATION, 200))
    every = {"deployed": old, "retrained": new, "last": last, "direct": wmgym.sb3.to_policy(direct)}
    episodes = setup.size(EPISODES, 2)
    judged = {name: played(known.simulator(), every[name], CHECK_EPISODES)[0] for name in list(every)[:2]}
    row: Row = {
        "env": env_id, "shift": what, "kind": kind, "seed": seed, "policy": POLICY, "updates": UPDATES,
        "how": world.provenance.fit["adapted"], "identified": round(known.error, 5),
        "judged": judged, "gate": max(judged, key=lambda name: judged[name]),
    }  # fmt: skip
    for name, policy in every.items():
        row[name], row[f"{name}_se"] = played(robot, policy, episodes)
    print(
        "  " + ", ".join(f"{name} {row[name]:.0f}" for name in every) + f"; gate: {row['gate']}", flush=True
    )
    cost = {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu}
    keep({**{key: round(value, 1) for key, value in cost.items()}, "rows": [row]})


def played(robot: Any, policy: MLPPolicy, episodes: int) -> tuple[float, float]:
    """Mean return on a robot and its standard error."""
    data = wmgym.collect(robot, {"it": policy}, episodes=episodes, seed=FIRST_SEED, workers=1)
    returns = data.returns
    return float(returns.mean()), float(returns.std() / np.sqrt(episodes))


def deployed(robot: wmgym.Task, policy: MLPPolicy, steps: int, seed: int, noise: float) -> Transitions:
    """Steps of the robot under the old policy."""
    return wmgym.collect(robot, {POLICY: policy}, steps=steps, seed=1_000 + seed, noise=noise, workers=1)


def retrained(
    world: wmgym.WorldModel, simulator: Any, old: MLPPolicy, seed: int, setup: Setup
) -> tuple[MLPPolicy, MLPPolicy]:
    """The old policy after more training in a world: the last one, and the best one in ``simulator``."""
    updates, envs = setup.size(UPDATES, 160), 16
    with tempfile.TemporaryDirectory() as folder:
        judge = EvalCallback(
            Monitor(simulator),
            n_eval_episodes=setup.size(CHECK_EPISODES, 1),
            eval_freq=updates // envs // CHECKS,
            best_model_save_path=folder,
            verbose=0,
            warn=False,
        )
        config = wmgym.TrainConfig("DynaSAC", updates, envs, hyperparameters={"gradient_steps": -1})
        agent = wmgym.train(world, config, seed, policy=old, callback=judge)
        best = wmgym.sb3.DynaSAC.load(Path(folder) / "best_model")
    return wmgym.sb3.to_policy(agent), wmgym.sb3.to_policy(best)


def units(setup: Setup, args: argparse.Namespace) -> Mapping[str, Growing]:
    return {
        f"{env_id}, {what}, seed {seed}": partial(measure, env_id, what, seed, setup)
        for seed in args.seed
        for env_id in args.env
        for what in args.shift
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shift", nargs="+", choices=list(SHIFTS), default=list(SHIFTS), metavar="SHIFT")
    parser.add_argument("--seed", nargs="+", type=int, default=list(SEEDS))


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""
    if not rows:
        return []
    whole = len(rows) >= 4 * len(SHIFTS)
    some = f"; {len(rows)} of {4 * len(SHIFTS)} robots, one seed"
    better = float(np.mean([row["retrained"] > row["deployed"] for row in rows]))
    gated = float(np.mean([row[row["gate"]] >= row["deployed"] for row in rows]))
    direct = float(np.mean([row["retrained"] > row["direct"] for row in rows]))
    short, share = (
        "policy retrained in the adapted world, score on the robot,",
        "share of shifts where it is better",
    )
    what = f"{short} against the policy deployed unchanged"
    return [
        target(f"{what}: {share}{some}", ">= 80 %", f"{better:.0%}",
               None if better >= 0.8 and not whole else better >= 0.8),
        target(f"{what}, deployed where it wins in the identified one: share where it is no worse{some}",
               "none set", f"{gated:.0%}", True),
        target(f"{short} against SAC on the robot with as many steps: {share}{some}", "all",
                f"{direct:.0%}", None if direct == 1 and not whole else direct == 1),
    ]  # fmt: skip


BENCHMARK = Benchmark(
    units,
    goals,
    collects="drives a changed robot for 6,000 steps and plays 30 episodes on it for each shift and task",
    envs=("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5"),
    seeds=SEEDS,
    arguments=arguments,
    grows=True,
)
