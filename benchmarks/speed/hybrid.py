"""How many steps a second does a hybrid env make, against MuJoCo alone on the same cores?

MuJoCo's step of 256 episodes plus a learned correction, readouts, reward and termination, in
``ImaginedVectorEnv``, against ``mujoco.rollout``. Both under random actions; medians of interleaved repeats.
Run it on an idle machine. The correction is as large as ``wmgym.adapt`` makes it and hardly trained, which
makes no difference to its speed.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import time

import numpy as np
import torch

import wmgym
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, Work
from benchmarks.harness.timing import calibrate, rollout
from benchmarks.harness.worlds import Setup
from wmgym.calibration.adapt import CORRECTION

ENVS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5")
NUM_ENVS, LEAST = 256, 0.6


def units(setup: Setup, args: argparse.Namespace) -> dict[str, Work]:
    torch.set_num_threads(os.cpu_count() or 1)
    return {env_id: functools.partial(measure, env_id, setup) for env_id in args.env}


def measure(env_id: str, setup: Setup) -> list[Row]:
    log = wmgym.collect(env_id, steps=2_000, seed=0, workers=1)
    config = dataclasses.replace(CORRECTION, max_updates=50)
    world = wmgym.fit(log, config, dynamics=wmgym.residual(env_id))
    env = wmgym.ImaginedVectorEnv(world, NUM_ENVS)
    env.reset(seed=0)
    space = world.task.action_space
    rng = np.random.default_rng(0)
    actions = rng.uniform(space.low, space.high, (64, NUM_ENVS, *(space.shape or ()))).astype(np.float32)
    count = 0

    def hybrid() -> None:
        nonlocal count
        env.step(actions[count % len(actions)])
        count += 1

    name, _, take, steps = rollout(env_id, os.cpu_count() or 1)
    contenders = {name: (take, steps), "hybrid": (hybrid, NUM_ENVS)}
    goes = {key: calibrate(each) for key, (each, _) in contenders.items()}
    seconds: dict[str, list[float]] = {key: [] for key in contenders}
    for _ in range(setup.size(11, 3)):
        for key, (each, count_of) in contenders.items():
            began = time.perf_counter()
            for _ in range(goes[key]):
                each()
            seconds[key].append((time.perf_counter() - began) / goes[key] / count_of)
    return [
        {
            "env": env_id, "engine": key, "num_envs": NUM_ENVS,
            "steps_per_s": round(1 / float(np.median(times)), 1),
            "spread": float(np.ptp(times) / np.median(times)),
        }
        for key, times in seconds.items()
    ]  # fmt: skip


def goals(rows: list[Row]) -> list[Row]:
    """The target beside what was measured."""
    rate = {(row["env"], row["engine"]): row["steps_per_s"] for row in rows}
    envs = [env_id for env_id in ENVS if (env_id, "hybrid") in rate]
    found = {e: round(rate[e, "hybrid"] / rate[e, "mujoco.rollout"], 2) for e in envs}
    met = min(found.values()) >= LEAST and len(envs) == len(ENVS)
    what = "hybrid env of 256 episodes against mujoco.rollout on all cores"
    return [target(what, f">= {LEAST}x", found, met)]


BENCHMARK = Benchmark(
    units,
    goals,
    collects="collects 2,000 steps a task, and times two engines in eleven interleaved repeats",
    envs=ENVS,
    threads=None,
)
