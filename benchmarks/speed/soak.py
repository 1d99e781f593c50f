"""Does memory stay constant over sixty million imagined steps, and how long does a first step take?

The env is HalfCheetah's shipped world with bounds, 1,024 envs. Resident memory is read every 100,000 steps
and its slope fitted after the first twelfth of the run, in which the C library's pools fill. The first step
is that of a fresh Python process, imports and loading included, median of five.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import wmgym
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, Work
from benchmarks.harness.worlds import Setup

EVERY, ENVS = 100_000, 1_024
FIRST = """
import gymnasium as gym
import wmgym
env = gym.make("wmgym/Hopper-v5")
env.reset(seed=0)
env.step(env.action_space.sample())
"""


def units(setup: Setup, args: argparse.Namespace) -> dict[str, Work]:
    return {"memory": functools.partial(memory, setup.size(60_000_000, 6_000_000)), "start": start}


def memory(total: int) -> list[Row]:
    env = wmgym.ImaginedVectorEnv("HalfCheetah-v5", ENVS)
    env.reset(seed=0)
    env.action_space.seed(0)
    done, seen = 0, []
    while done < total:
        for _ in range(EVERY // ENVS):
            env.step(env.action_space.sample())
            done += ENVS
        seen.append((done, resident()))
    steps, megabytes = np.array(seen, float).T
    late = steps >= total / 12
    slope = np.polyfit(steps[late] / 1e6, megabytes[late], 1)[0]
    return [
        {"section": "memory", "env": "HalfCheetah-v5", "steps": done, "mb_per_million_steps": float(slope),
         "mb_first": float(megabytes[late][0]), "mb_last": float(megabytes[-1]),
         "mb_by_million": [round(float(megabytes[steps >= k * 1e6][0]), 1) for k in range(int(total / 1e6))]}
    ]  # fmt: skip


def resident() -> float:
    """Resident memory in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmRSS"))


def start() -> list[Row]:
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", FIRST], check=True)
        seconds.append(time.perf_counter() - began)
    return [{"section": "start", "env": "Hopper-v5", "seconds": float(np.median(seconds)), "all": seconds}]


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""
    found = []
    for r in rows:
        if r["section"] == "memory":
            slope = r["mb_per_million_steps"]
            found.append(
                target("60 million steps, slope of resident memory after the first 5 million",
                       "< 1 MB per 1M steps", round(slope, 3), slope < 1)
            )  # fmt: skip
        else:
            found.append(
                target('first gym.make("wmgym/Hopper-v5") in a fresh process to first step', "<= 3 s",
                       f"{r['seconds']:.2f} s", r["seconds"] <= 3)
            )  # fmt: skip
    return found


BENCHMARK = Benchmark(
    units,
    goals,
    collects="steps 1,024 imagined envs until 60 million steps are done and starts five processes",
    envs=("HalfCheetah-v5",),
    threads=None,
)
