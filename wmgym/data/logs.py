"""Transitions from a log of one's own."""

from __future__ import annotations

from typing import Literal

import numpy as np

from wmgym.data.columns import store_action
from wmgym.data.transitions import Transitions
from wmgym.io.deprecation import renamed
from wmgym.io.provenance import library_versions
from wmgym.tasks.task import Task


@renamed(hidden="unobserved")
def from_arrays(
    task: Task,
    obs: np.ndarray,
    action: np.ndarray,
    next_obs: np.ndarray,
    episode: np.ndarray,
    terminated: np.ndarray,
    reward: np.ndarray | None = None,
    unobserved: np.ndarray | None = None,
    policy_name: str = "log",
    source: Literal["real", "imagined"] = "real",
) -> Transitions:
    """Transitions from a log of one's own, one row a step.

    Args:
        task: what the log is of.
        obs: ``(n, *obs_shape)``.
        action: ``(n, *action_shape)``, as the env took it.
        next_obs: ``(n, *obs_shape)``, at an episode's end its last observation, not the next one's first.
        episode: ``(n,)`` int, 0 for the rows of the first episode, then 1, and so on.
        terminated: ``(n,)`` bool; an episode whose last row is not terminated counts as truncated.
        reward: ``(n,)``, or None where the log has none.
        unobserved: ``(n, unobserved_dim)``, needed where the reward has inputs absent from the observation.
        policy_name: what the episodes are recorded under.
        source: "real" or "imagined".

    Raises:
        ValueError: wrong shapes, values that are not finite, or no ``unobserved`` where the reward has inputs
            absent from the observation.
    """
    ids = np.array(episode, np.int64)  # copies all: nothing of the caller's is kept or frozen
    n = len(ids)
    if n == 0:
        raise ValueError("no transitions; the log has no rows")
    flat_obs = _copied("obs", obs, n, np.float32).reshape(n, -1)
    flat_next = _copied("next_obs", next_obs, n, np.float32).reshape(n, -1)
    if flat_obs.shape[1] != task.obs_dim or flat_next.shape[1] != task.obs_dim:
        raise ValueError(f"obs has {flat_obs.shape[1]} values a row, the task's space has {task.obs_dim}")
    if unobserved is None and task.core.unobserved_dim:
        raise ValueError(
            f"{task.env_id} has reward inputs absent from the observation; pass unobserved= with "
            f"{task.core.unobserved_dim} columns, {task.core.displacement_dim} of displacement"
        )
    ended = _copied("terminated", terminated, n, bool)
    last = np.diff(ids, append=ids[-1] + 1) != 0
    count = int(ids[-1]) + 1
    return Transitions(
        task=task,
        obs=flat_obs,
        action=store_action(task, _copied("action", action, n, None)),
        reward=None if reward is None else np.array(reward, np.float64),
        next_obs=flat_next,
        terminated=ended,
        truncated=last & ~ended,
        core=np.array(task.core.from_obs(flat_obs)[:, : task.core.dim], np.float32),
        next_core=np.array(task.core.from_obs(flat_next)[:, : task.core.dim], np.float32),
        unobserved=np.zeros((n, 0)) if unobserved is None else np.array(unobserved, np.float64),
        episode=ids,
        episode_seed=(-1,) * count,
        episode_policy=(policy_name,) * count,
        source=source,
        versions=library_versions(),
    )


def _copied(name: str, array: np.ndarray, n: int, dtype: type | None) -> np.ndarray:
    copy = np.array(array, dtype)
    if len(copy) != n:
        raise ValueError(f"{name} has {len(copy)} rows, episode has {n}")
    return copy
