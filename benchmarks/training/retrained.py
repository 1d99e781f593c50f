"""What is a policy worth on a changed robot once it was retrained in a world adapted to that robot?

MuJoCo plays the robot, see ``reality_gap``. A held-out policy of the pool, SAC after 250,000 steps of the
nominal robot, is deployed on it: 2,000 of its steps, half with action noise, adapt the shipped world and
identify the nominal model's parameters and drive; 1,000 make the world's bounds. DynaSAC goes on from the
policy in the adapted world, with its defaults, and the identified simulator keeps the best of ten policies on
the way (``EvalCallback`` of Stable-Baselines3): what one simulator gets wrong, the other one sees. Beside
that, DynaSAC learns from nothing in the identified simulator, from 15,000 of its steps. No step of the robot
is needed for either. All policies then run on the robot, from the same start states, beside SB3's SAC that
learned from as many real steps from nothing. The gate is the identified simulator: what earns most there is
deployed. Settings of the first way were chosen on Hopper with weak motors; that 15,000 steps are enough was
seen of DynaSAC on the nominal Hopper.
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
from wmgym.data.joining import concat
from wmgym.data.policy import MLPPolicy
from wmgym.data.transitions import Transitions
from wmgym.io.provenance import cpu_seconds

KINDS = ("strong", "unmodelled")
SHIFTS = {what: (kind, changes) for kind in KINDS for what, changes in wmgym.shifts(kind).items()}
POLICY, SEEDS = "sac-250k", (0,)
STEPS, CALIBRATION = 2_000, 1_000
NOISE = 0.2
UPDATES, CHECKS, CHECK_EPISODES = 4_000, 10, 3
CANDIDATES = ("deployed", "retrained", "learned")
LEARNED_STEPS = 15_000  # of the identified simulator
EPISODES, FIRST_SEED = 10, 900_000


def measure(env_id: str, what: str, seed: int, setup: Setup, kept: Row | None, keep: Any) -> None:
    """One changed robot: the policy as it is, retrained, and those that learned without it."""
    row: Row = dict(kept["rows"][0]) if kept is not None else {}
    if "learned" in row:
        return
    wall, cpu = time.perf_counter(), cpu_seconds()
    kind, changes = SHIFTS[what]
    robot, old = wmgym.make_task(wmgym.shift(env_id, **changes)), policies(env_id, "held-out")[POLICY]
    log = concat([deployed(robot, old, STEPS // 2, seed + i, noise) for i, noise in enumerate((0.0, NOISE))])
    known = wmgym.identify(log, env_id, seed=seed)
    every = {"learned": learned(known.simulator(), seed, setup)}
    if not row:
        calib = deployed(robot, old, CALIBRATION, seed + 2, 0.0)
        world = wmgym.adapt(wmgym.load(env_id), log, calib, seed=seed)
        last, new = retrained(world, known.simulator(), old, seed, setup)
        direct = stable_baselines3.SAC("MlpPolicy", wmgym.shift(env_id, **changes), seed=seed, device="cpu")
        direct.learn(setup.size(STEPS + CALIBRATION, 200))
        every |= {"deployed": old, "retrained": new, "last": last, "direct": wmgym.sb3.to_policy(direct)}
        row = {
            "env": env_id, "shift": what, "kind": kind, "seed": seed, "policy": POLICY, "updates": UPDATES,
            "how": world.provenance.fit["adapted"], "identified": round(known.error, 5), "judged": {},
        }  # fmt: skip
    candidates = [name for name in CANDIDATES if name in every]
    judged = {name: played(known.simulator(), every[name], CHECK_EPISODES)[0] for name in candidates}
    row["judged"] = judged = row["judged"] | judged
    row["gate"] = max(judged, key=lambda name: judged[name])
    for name, policy in every.items():
        row[name], row[f"{name}_se"] = played(robot, policy, setup.size(EPISODES, 2))
    said = ", ".join(f"{name} {row[name]:.0f}" for name in (*CANDIDATES, "last", "direct"))
    print(f"  {said}; gate: {row['gate']}", flush=True)
    cost = {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu}
    for name, value in cost.items():
        cost[name] = round(value + (kept[name] if kept is not None else 0.0), 1)
    keep({**cost, "rows": [row]})


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


def learned(simulator: Any, seed: int, setup: Setup) -> MLPPolicy:
    """What DynaSAC learns from nothing in a simulator."""
    agent = wmgym.sb3.DynaSAC("MlpPolicy", simulator, seed=seed)
    return wmgym.sb3.to_policy(agent.learn(setup.size(LEARNED_STEPS, 600)))


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
    every = 4 * len(SHIFTS)
    short, share = "score on the robot,", "share of shifts where it is better"
    unchanged = f"{short} against the policy deployed unchanged"
    retrained_one = "policy retrained in the adapted world,"
    some = f"; {len(rows)} of {every} robots, one seed"
    better = _share(rows, "retrained", "deployed")
    direct = _share(rows, "retrained", "direct")
    gated = float(np.mean([row[row["gate"]] >= row["deployed"] for row in rows]))
    both = [row for row in rows if "learned" in row]
    new = [row | {"new": row[max(CANDIDATES[1:], key=lambda name: row["judged"][name])]} for row in both]
    found = [
        target(f"{retrained_one} {unchanged}: {share}{some}", ">= 80 %", f"{better:.0%}",
               None if better >= 0.8 and len(rows) < every else better >= 0.8),
        target(f"{retrained_one} {short} against SAC on the robot with as many steps: {share}{some}", "all",
               f"{direct:.0%}", None if direct == 1 and len(rows) < every else direct == 1),
        target(f"policy that earns most in the identified simulator, {unchanged}, which it may be: share "
               f"where it is no worse{some}", "none set", f"{gated:.0%}", True),
    ]  # fmt: skip
    some = f"; {len(both)} of {every} robots, one seed"
    ways = {
        "policy that learned from nothing in the identified simulator,": (both, "learned"),
        "better of it and of the retrained policy in that simulator,": (new, "new"),
    }
    return found + [
        target(f"{who} {unchanged}: {share}{some}", "none set", f"{_share(of, name, 'deployed'):.0%}", True)
        for who, (of, name) in ways.items()
        if both
    ]


def _share(rows: list[Row], name: str, other: str) -> float:
    """Of the robots on which one policy is better than another one."""
    return float(np.mean([row[name] > row[other] for row in rows]))


BENCHMARK = Benchmark(
    units,
    goals,
    collects="drives a changed robot for 6,000 steps and plays 30 episodes on it for each shift and task",
    envs=("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5"),
    seeds=SEEDS,
    arguments=arguments,
    grows=True,
)
