"""What is a policy worth on a changed robot once it was retrained in a world adapted to that robot?

MuJoCo plays the robot, see ``reality_gap``. A held-out policy of the pool, SAC after 250,000 steps of the
nominal robot, is deployed on it: 2,000 of its steps, half with action noise, adapt the shipped world, and
1,000 make its bounds. DynaSAC goes on from the policy in that world. Its critics start from nothing, so
what they learn in a first training is put beside the old actor for a second one. Both policies then run on
the robot, from the same start states, beside SB3's SAC that learned from as many real steps from nothing.
The gate is the adapted world's own ranking of the two: the retrained policy is deployed where it wins
there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import stable_baselines3
import torch

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
UPDATES = (400, 1_000)  # of the first training, whose critics are kept, and of the second
EPISODES, FIRST_SEED = 10, 900_000
SETTINGS: dict[str, Any] = {
    "gradient_steps": -1,
    "learning_rate": 3e-4,
    "ent_coef": "auto_0.01",
    "policy_kwargs": {"net_arch": [256, 256], "activation_fn": torch.nn.ReLU},
}
"""The old policy's networks, updates that are small, and little noise, so that it is not unlearned first."""


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
    new = retrained(world, old, seed, setup)
    direct = stable_baselines3.SAC("MlpPolicy", wmgym.shift(env_id, **changes), seed=seed, device="cpu")
    direct.learn(setup.size(STEPS + CALIBRATION, 200))
    every = {"deployed": old, "retrained": new, "direct": wmgym.sb3.to_policy(direct)}
    episodes = setup.size(EPISODES, 2)
    report = wmgym.rank(world, {name: every[name] for name in ("deployed", "retrained")}, episodes=episodes)
    row: Row = {
        "env": env_id, "shift": what, "kind": kind, "seed": seed, "policy": POLICY,
        "how": world.provenance.fit["adapted"], "updates": list(UPDATES), "gate": report.names[0],
    }  # fmt: skip
    for name, policy in every.items():
        data = wmgym.collect(robot, {name: policy}, episodes=episodes, seed=FIRST_SEED, workers=1)
        assert data.reward is not None
        returns = np.add.reduceat(data.reward, data.first)
        row[name], row[f"{name}_se"] = float(returns.mean()), float(returns.std() / np.sqrt(episodes))
    print(
        "  " + ", ".join(f"{name} {row[name]:.0f}" for name in every) + f"; gate: {row['gate']}", flush=True
    )
    cost = {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu}
    keep({**{key: round(value, 1) for key, value in cost.items()}, "rows": [row]})


def deployed(robot: wmgym.Task, policy: MLPPolicy, steps: int, seed: int, noise: float) -> Transitions:
    """Steps of the robot under the old policy."""
    return wmgym.collect(robot, {POLICY: policy}, steps=steps, seed=1_000 + seed, noise=noise, workers=1)


def retrained(world: wmgym.WorldModel, old: MLPPolicy, seed: int, setup: Setup) -> MLPPolicy:
    """The old policy after more training in a world."""
    config = wmgym.TrainConfig(algorithm="DynaSAC", num_envs=16, hyperparameters=SETTINGS)
    fresh = wmgym.sb3.new_agent(wmgym.sb3.ImaginedVecEnv(world, 16), config, seed)
    begun = wmgym.sb3.agent_arrays(fresh) | as_actor(old)
    first, second = (setup.size(updates, 50) for updates in UPDATES)
    agent = wmgym.train(world, config, seed, steps=first, agent=begun)
    judged = {key: array for key, array in wmgym.sb3.agent_arrays(agent).items() if "critic" in key}
    agent = wmgym.train(world, config, seed, steps=second, agent=begun | judged)
    return wmgym.sb3.to_policy(agent)


def as_actor(policy: MLPPolicy) -> dict[str, np.ndarray]:
    """A policy of SAC as weights of DynaSAC's actor, which has the same layers."""
    assert policy.log_std_weight is not None
    assert policy.log_std_bias is not None
    layers = {
        name: (weight.T.copy(), bias)
        for name, weight, bias in zip(
            ("latent_pi.0", "latent_pi.2", "mu", "log_std"),
            (*policy.weights, policy.log_std_weight),
            (*policy.biases, policy.log_std_bias),
            strict=True,
        )
    }
    return {
        f"policy.{actor}.{name}.{part}": array
        for actor in ("actor", "averaged_actor")
        for name, both in layers.items()
        for part, array in zip(("weight", "bias"), both, strict=True)
    }


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
        target(f"{what}, deployed where it wins in that world: share where it is no worse{some}", "none set",
               f"{gated:.0%}", True),
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
