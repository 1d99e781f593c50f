"""What the real env does from a snapshot, given actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from wmgym.data.steps import Step, columns, from_steps
from wmgym.data.transitions import Transitions, concat
from wmgym.tasks.ground_truth import Snapshot, restore
from wmgym.tasks.task import Task


def branch(
    task: Task, at: Snapshot, actions: np.ndarray, env: gym.Env[Any, Any] | None = None
) -> Transitions:
    """What the real env does from a snapshot, given actions; ends early where the env does.

    Args:
        task: the task of the env that was snapshot.
        at: where to start.
        actions: ``(steps, *action_shape)``.
        env: a live env of the task to use and leave wherever it ends; None makes one.
    """
    own = task.make() if env is None else env
    try:
        if env is None:
            own.reset(seed=0)
        restore(own, at)
        unwrapped: Any = own.unwrapped
        obs = np.array(unwrapped._get_obs())
        core, before = task.read_core(own, obs), task.read_unobserved(own)
        steps: list[Step] = []
        for step, action in enumerate(actions, start=1):
            next_obs, reward, terminated, truncated, _ = own.step(action)
            next_core, after = task.read_core(own, next_obs), task.read_unobserved(own)
            unobserved = task.unobserved_over(before, after)
            last = (bool(truncated) or step == len(actions)) and not terminated
            steps.append(Step(obs, action, reward, next_obs, terminated, last, core, next_core, unobserved))
            obs, core, before = np.array(next_obs), next_core, after
            if terminated or truncated:
                break
    finally:
        if env is None:
            own.close()
    return from_steps(task, [columns(steps)], seeds=(-1,), policies=("actions",))


def fork(task: Task, at: Snapshot, plans: Sequence[np.ndarray]) -> Transitions:
    """``branch`` for several sequences of actions, one episode each."""
    env = task.make()
    try:
        env.reset(seed=0)
        return concat([branch(task, at, actions, env) for actions in plans])
    finally:
        env.close()
