"""The columns that transitions are made of: their names, shapes and checks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from gymnasium import spaces

from wmgym.tasks.task import Task

PER_STEP = (
    "obs", "action", "reward", "next_obs", "terminated", "truncated", "core", "next_core", "unobserved",
    "episode",
)  # fmt: skip
"""The columns of transitions, in order."""


def check_columns(task: Task, arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse columns of wrong shapes, values that are not finite, and episodes that are torn apart.

    Raises:
        ValueError: names the column, and the row where there is one.
    """
    episode = arrays["episode"]
    n = len(episode)
    if n == 0:
        raise ValueError("no transitions; collect at least one step")
    core = task.core
    widths = {"obs": task.obs_dim, "core": core.dim, "unobserved": core.unobserved_dim}
    if not isinstance(task.action_space, spaces.Discrete):
        widths["action"] = task.action_dim
    for name, array in arrays.items():
        width = widths.get(name.removeprefix("next_"))
        expected = (n,) if width is None else (n, width)
        if array.shape != expected:
            raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array.reshape(n, -1)).all(1))[0, 0])
            raise ValueError(f"{name} is not finite in row {row}; drop that episode before use")
    steps = np.diff(episode)
    if episode[0] != 0 or not np.isin(steps, (0, 1)).all():
        raise ValueError("episode must count 0, 0, ..., 1, 1, ... without gaps; sort rows by episode")
    inside = (arrays["terminated"] | arrays["truncated"])[:-1] & (steps == 0)
    if inside.any():
        raise ValueError(f"row {int(np.argmax(inside))} ends an episode that goes on; give the rest a new id")


def store_action(task: Task, action: np.ndarray) -> np.ndarray:
    """Actions as stored: ``(n, action_dim)`` float32, or ``(n,)`` int64 counted from 0 for Discrete."""
    space = task.action_space
    if not isinstance(space, spaces.Discrete):
        return np.array(action, np.float32).reshape(len(action), -1)
    counted = action.astype(np.int64) - int(space.start)
    if (
        action.dtype.kind not in "iu"
        or action.size != len(action)
        or not np.isin(counted, range(space.n)).all()
    ):
        raise ValueError(f"actions must be one integer a row, inside {space}")
    return counted.reshape(len(action))
