"""Transitions from a log of one's own."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from wmgym.data.checks import check, refuse_torn
from wmgym.data.columns import in_float32, real_numbers, store_action
from wmgym.data.functions import try_functions
from wmgym.data.transitions import Transitions
from wmgym.io.arguments import short
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
    terminated: np.ndarray | Literal[False],
    reward: np.ndarray | None = None,
    unobserved: np.ndarray | None = None,
    policy_name: str = "log",
    source: Literal["real", "imagined"] = "real",
) -> Transitions:
    """Transitions from a log of one's own, one row a step.

    A warning names what is odd in them; see ``wmgym.data.checks.check``.

    Args:
        task: what the log is of.
        obs: ``(n, *obs_shape)``.
        action: ``(n, *action_shape)``, as the env took it.
        next_obs: ``(n, *obs_shape)``, at an episode's end its last observation, not the next one's first.
        episode: ``(n,)`` int, 0 for the rows of the first episode, then 1, and so on.
        terminated: ``(n,)`` bool; an episode whose last row is not terminated counts as truncated. False
            where nothing ends an episode but its time limit.
        reward: ``(n,)``, or None where the log has none.
        unobserved: ``(n, unobserved_dim)``, needed where the reward has inputs absent from the observation.
        policy_name: what the episodes are recorded under.
        source: "real" or "imagined".

    Raises:
        ValueError: wrong shapes, values that are not finite, ``next_obs`` that contradicts the rows that
            follow, or no ``unobserved`` where the reward has inputs absent from the observation.
    """
    never = terminated is False
    ends: Any = np.zeros(np.shape(episode)[:1], bool) if never else terminated
    if not never and np.ndim(ends) == 0:
        raise ValueError(
            f"terminated must be one bool a row, or False where nothing ends an episode but its time limit; "
            f"got {short(terminated)}"
        )
    columns = obs, action, next_obs, episode, ends, reward, unobserved
    data = assembled(task, *columns, policy_name=policy_name, source=source)
    refuse_torn(data)
    try_functions(data)
    for finding in check(data):
        if not (never and finding.about == "terminations" and task.terminated is None):
            warnings.warn(finding.text, stacklevel=3)
    return data


def assembled(
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
    """``from_arrays`` of rows that are known to follow each other: those of an env that was stepped."""
    refuse_no_task(task)
    ids = real_numbers("episode", episode).astype(np.int64)  # copies all: nothing of the caller's is frozen
    n = ids.size
    if n == 0:
        raise ValueError("no transitions; the log has no rows")
    if ids.shape != (n,):
        raise ValueError(f"episode has shape {ids.shape}, expected one number a row")
    flat_obs = in_float32(_column("obs", obs, n)).reshape(n, -1)
    flat_next = in_float32(_column("next_obs", next_obs, n)).reshape(n, -1)
    if flat_obs.shape[1] != task.obs_dim or flat_next.shape[1] != task.obs_dim:
        raise ValueError(f"obs has {flat_obs.shape[1]} values a row, the task's space has {task.obs_dim}")
    if unobserved is None and task.core.unobserved_dim:
        raise ValueError(
            f"{task.env_id} has reward inputs absent from the observation; pass unobserved= with "
            f"{task.core.unobserved_dim} columns, {task.core.displacement_dim} of displacement"
        )
    ended = np.array(_column("terminated", terminated, n), bool)
    last = np.diff(ids, append=ids[-1] + 1) != 0
    count = int(ids[-1]) + 1
    return Transitions(
        task=task,
        obs=flat_obs,
        action=store_action(task, _column("action", action, n)),
        reward=None if reward is None else np.array(_column("reward", reward, n), np.float64),
        next_obs=flat_next,
        terminated=ended,
        truncated=last & ~ended,
        core=in_float32(task.core.from_obs(flat_obs)[:, : task.core.dim]),
        next_core=in_float32(task.core.from_obs(flat_next)[:, : task.core.dim]),
        unobserved=np.zeros((n, 0))
        if unobserved is None
        else np.array(_column("unobserved", unobserved, n), np.float64),
        episode=ids,
        episode_seed=(-1,) * count,
        episode_policy=(policy_name,) * count,
        source=source,
        versions=library_versions(),
    )


def refuse_no_task(task: object) -> None:
    """Refuse what stands where a task belongs.

    Raises:
        ValueError: says how to make one.
    """
    if not isinstance(task, Task):
        given = repr(task) if isinstance(task, str) else "env" if isinstance(task, gym.Env) else "..."
        raise ValueError(
            f"task must be a Task, got {type(task).__name__}; pass wmgym.make_task({given}), or the task of "
            "a log, log.task"
        )


def _column(name: str, array: Any, n: int) -> np.ndarray:
    column = real_numbers(name, array)
    if name in ("terminated", "reward") and column.shape != (n,):  # (n, 1) would be broadcast to (n, n)
        raise ValueError(f"{name} has shape {column.shape}, expected ({n},)")
    if column.shape[:1] != (n,):
        raise ValueError(f"{name} has shape {column.shape}, episode has {n} rows")
    return column
