"""Steps per second of MuJoCo and of imagination, on the processor at hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np

from wmgym.envs.vector_env import ImaginedVectorEnv
from wmgym.evaluation.findings import Speed
from wmgym.models.world import WorldModel
from wmgym.tasks.actions import uniform
from wmgym.tasks.task import Task

MANY = 1_024
"""Imagined envs in one batch, as training in imagination runs them."""

_SECONDS, _WARM_UP = 0.05, 2


def clock(world: WorldModel) -> Callable[[], float]:
    """Seconds of this process's processor time; wall-clock ones where an accelerator does the work."""
    return time.process_time if world.device.type == "cpu" else time.perf_counter


def measure(
    world: WorldModel,
    real: tuple[int, float],
    imagined: tuple[int, float],
    side_by_side: int,
    limit: int,
    seed: int = 0,
) -> Speed:
    """Steps per second of episodes that have been run, and of either simulator on its own.

    Args:
        world: that imagined them.
        real: steps in the real env, and the processor seconds that they took.
        imagined: likewise.
        side_by_side: how many episodes were imagined in one batch.
        limit: steps after which an episode ends.
        seed: decides random actions.
    """
    rates = [steps / max(seconds, 1e-3) for steps, seconds in (real, imagined)]
    alone, many = (_imagined(world, count, limit, seed) for count in (1, MANY))
    return Speed(rates[0], _physics(world.task, seed), rates[1], side_by_side, alone, many)


def _imagined(world: WorldModel, count: int, limit: int, seed: int) -> float:
    """So many imagined envs under random actions."""
    env = ImaginedVectorEnv(world, count, max_episode_steps=limit)
    env.reset(seed=seed)
    rng, space = np.random.default_rng(seed), world.task.action_space
    return count * _rate(lambda: env.step(uniform(space, rng, count)), clock(world))


def _physics(task: Task, seed: int) -> float | None:
    """The simulator without Gymnasium; None where the real env is not one of Gymnasium's MuJoCo envs."""
    with closing(task.make()) as env:
        env.reset(seed=seed)
        simulator: Any = env.unwrapped
        if not (callable(getattr(simulator, "do_simulation", None)) and hasattr(simulator, "frame_skip")):
            return None
        action = np.zeros(simulator.model.nu)
        return _rate(lambda: simulator.do_simulation(action, simulator.frame_skip), time.process_time)


def _rate(step: Callable[[], object], now: Callable[[], float]) -> float:
    for _ in range(_WARM_UP):
        step()
    began, count = now(), 0
    while (spent := now() - began) < _SECONDS:
        step()
        count += 1
    return count / spent
