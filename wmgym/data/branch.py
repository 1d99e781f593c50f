"""What the real env does from a snapshot, given actions."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from wmgym.data.joining import concat
from wmgym.data.steps import Episode, Recorder, Step, columns, from_episodes
from wmgym.data.transitions import Transitions
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
    if env is None:
        return fork(task, at, [actions])
    restore(env, at)
    unwrapped: Any = env.unwrapped
    return record(task, env, task.flat(unwrapped._get_obs()), actions)


def record(task: Task, env: gym.Env[Any, Any], obs: Any, actions: np.ndarray) -> Transitions:
    """What a live env, which has just returned ``obs``, does given actions; ends early where the env does."""
    recorder = Recorder(task, env)
    recorder.look(obs)
    steps: list[Step] = []
    for action in actions:
        steps.append(recorder.step(action))
        if steps[-1].terminated or steps[-1].truncated:
            break
    steps[-1] = steps[-1]._replace(truncated=not steps[-1].terminated)
    return from_episodes(task, [Episode(0, "actions", -1, columns(steps))])


def fork(task: Task, at: Snapshot, plans: Sequence[np.ndarray]) -> Transitions:
    """``branch`` for several sequences of actions, one episode each."""
    with contextlib.closing(task.make()) as env:
        env.reset(seed=0)
        return concat([branch(task, at, actions, env) for actions in plans])
