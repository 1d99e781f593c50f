"""What timed benchmarks share: how many goes fill a repeat, and MuJoCo on all cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import gymnasium as gym
import mujoco
import mujoco.rollout
import numpy as np

SECONDS = 0.2  # of one repeat, about
Take = Callable[[], None]
K = TypeVar("K")


def calibrate(take: Take, seconds: float = SECONDS) -> int:
    """How many goes fill a repeat of so many ``seconds``; warms up on the way."""
    for _ in range(3):
        take()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds / 4:
        take()
        count += 1
    return max(1, round(4 * count))


def in_turns(takes: Mapping[K, Take], repeats: int, seconds: float = SECONDS) -> dict[K, list[float]]:
    """Seconds of a go, by contender and repeat; the contenders take turns."""
    goes = {key: calibrate(take, seconds) for key, take in takes.items()}
    times: dict[K, list[float]] = {key: [] for key in takes}
    for _ in range(repeats):
        for key, take in takes.items():
            began = time.perf_counter()
            for _ in range(goes[key]):
                take()
            times[key].append((time.perf_counter() - began) / goes[key])
    return times


def rollout(env_id: str, cores: int, copies: int = 64, steps: int = 20) -> tuple[str, int, Take, int]:
    """``mujoco.rollout`` from states met by random actions, since robots at rest are cheaper."""
    env: Any = gym.make(env_id).unwrapped
    model, skip, spec = env.model, env.frame_skip, mujoco.mjtState.mjSTATE_FULLPHYSICS
    initial = np.zeros((copies, mujoco.mj_stateSize(model, spec)))
    env.reset(seed=0)
    env.action_space.seed(0)
    for row in initial:
        for _ in range(5):
            if env.step(env.action_space.sample())[2]:
                env.reset()
        mujoco.mj_getState(model, env.data, row, spec)
    low, high = env.action_space.low, env.action_space.high
    control = np.random.default_rng(0).uniform(low, high, (copies, steps, len(low))).repeat(skip, axis=1)
    pool = mujoco.rollout.Rollout(nthread=cores)
    datas = [mujoco.MjData(model) for _ in range(cores)]
    return "mujoco.rollout", copies, lambda: pool.rollout(model, datas, initial, control), copies * steps
