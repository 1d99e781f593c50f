"""Sixty million imagined steps: does memory stay where it is? And how long a first step takes.

    python benchmarks/soak.py     # then benchmarks/results/soak.json

The env is HalfCheetah's shipped world with bounds, 1,024 envs; resident memory is read every 100,000 steps
and its slope fitted after the first five million, in which the C library's pools fill; what these give back
and take again makes it go up and down by some ten megabytes. The first step is that of a fresh Python
process, imports and loading included, median of five.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from common import Row, Units, target

import wmgym

STEPS, WARM, EVERY, ENVS = 60_000_000, 5_000_000, 100_000, 1_024
FIRST = """
import gymnasium as gym
import wmgym
env = gym.make("wmgym/Hopper-v5")
env.reset(seed=0)
env.step(env.action_space.sample())
"""


def main() -> None:
    units = Units("soak")
    units.do("memory", memory)
    units.do("start", start)
    print(units.write(goals, [0]))


def memory() -> list[Row]:
    env = wmgym.ImaginedVectorEnv("HalfCheetah-v5", ENVS)
    env.reset(seed=0)
    env.action_space.seed(0)
    done, seen = 0, []
    while done < STEPS:
        for _ in range(EVERY // ENVS):
            env.step(env.action_space.sample())
            done += ENVS
        seen.append((done, resident()))
    steps, megabytes = np.array(seen, float).T
    late = steps >= WARM
    slope = np.polyfit(steps[late] / 1e6, megabytes[late], 1)[0]
    return [
        {"section": "memory", "env": "HalfCheetah-v5", "steps": done, "mb_per_million_steps": float(slope),
         "mb_first": float(megabytes[late][0]), "mb_last": float(megabytes[-1]),
         "mb_by_million": [round(float(megabytes[steps >= k * 1e6][0]), 1) for k in range(int(STEPS / 1e6))]}
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
    """The issue's targets beside what was measured."""
    found = []
    for r in rows:
        if r["section"] == "memory":
            slope = r["mb_per_million_steps"]
            found.append(
                target("soak of 60 million steps, slope of resident memory after 5", "< 1 MB per 1M steps",
                       round(slope, 3), slope < 1)
            )  # fmt: skip
        else:
            found.append(
                target('first gym.make("wmgym/Hopper-v5") in a fresh process to first step', "<= 3 s",
                       f"{r['seconds']:.2f} s", r["seconds"] <= 3)
            )  # fmt: skip
    return found


if __name__ == "__main__":
    main()
