"""The columns that transitions are made of: their names, shapes and checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wmgym.io.schema import ArraySpec, check_arrays
from wmgym.tasks import actions
from wmgym.tasks.task import Task

PER_STEP = (
    "obs", "action", "reward", "next_obs", "terminated", "truncated", "core", "next_core", "unobserved",
    "episode",
)  # fmt: skip
"""The columns of transitions, in order."""


LARGEST = 1e15
"""Squares of numbers up to this can be summed over a hundred million rows before float32 overflows."""


def real_numbers(name: str, given: Any) -> np.ndarray:
    """What was given as an array of real numbers, not copied where it is one.

    Raises:
        ValueError: it is of objects, text or complex numbers, or ragged.
    """
    try:
        array = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers: {str(error).splitlines()[0]}") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be real numbers, got an array of dtype {array.dtype}")
    return array


def bounded_numbers(name: str, given: Any) -> np.ndarray:
    """Likewise, of finite numbers that float32 arithmetic can work with.

    Raises:
        ValueError: as before, or a number that is not finite or beyond ``LARGEST``.
    """
    array = real_numbers(name, given)
    if not (np.abs(array) <= LARGEST).all():  # true of NaN
        raise ValueError(f"{name} must be finite and at most {LARGEST:g} in size; check what made them")
    return array


def state_rows(name: str, given: Any, dim: int) -> np.ndarray:
    """States ``(n, dim)`` float32 to start from.

    Raises:
        ValueError: as before, or of another shape.
    """
    rows = bounded_numbers(name, given).astype(np.float32)
    if rows.ndim != 2 or rows.shape[1] != dim or not len(rows):
        raise ValueError(f"{name} must have shape (n, {dim}), n >= 1, got {rows.shape}")
    return rows


def refuse_overflow(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse columns that float32 arithmetic cannot work with, though they are finite.

    Raises:
        ValueError: names the column and the row.
    """
    for name, array in arrays.items():
        if (
            array.dtype.kind == "f"
            and not (sound := (np.abs(array) <= LARGEST).reshape(len(array), -1)).all()
        ):
            row = int(np.argmin(sound.all(1)))
            raise ValueError(
                f"{name} is beyond {LARGEST:g} in row {row}, which float32 arithmetic overflows on; drop "
                "that episode, or mend the env"
            )


def check_columns(task: Task, arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse columns of wrong shapes, values that are not finite, and episodes that are torn apart.

    Raises:
        ValueError: names the column, and the row where there is one.
    """
    episode = arrays["episode"]
    if episode.ndim != 1 or not len(episode):
        raise ValueError("no transitions; collect at least one step")
    n, core = len(episode), task.core
    widths = {"obs": task.obs_dim, "core": core.dim, "unobserved": core.unobserved_dim}
    dtypes = dict.fromkeys(("reward", "unobserved"), "float64") | {"episode": "int64"}
    dtypes |= dict.fromkeys(("terminated", "truncated"), "bool")
    counted = actions.whole(task.action_space)
    if counted:
        dtypes["action"] = "int64"
    else:
        widths["action"] = task.action_dim
    for name in PER_STEP:
        array = arrays.get(name)
        if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array.reshape(len(array), -1)).all(1))[0, 0])
            raise ValueError(f"{name} is not finite in row {row}; drop that episode before use")
    specs = {}
    for name in PER_STEP if "reward" in arrays else (each for each in PER_STEP if each != "reward"):
        width = widths.get(name.removeprefix("next_"))
        specs[name] = ArraySpec((n,) if width is None else (n, width), dtypes.get(name, "float32"))
    if counted:
        most = actions.choices(task.action_space)
        specs["action"] = ArraySpec((n, *most.shape), "int64", low=0, high=int(most.max()) - 1)
    check_arrays(arrays, specs)
    steps = np.diff(episode)
    if episode[0] != 0 or not np.isin(steps, (0, 1)).all():
        raise ValueError("episode must count 0, 0, ..., 1, 1, ... without gaps; sort rows by episode")
    inside = (arrays["terminated"] | arrays["truncated"])[:-1] & (steps == 0)
    if inside.any():
        raise ValueError(f"row {int(np.argmax(inside))} ends an episode that goes on; give the rest a new id")


def store_action(task: Task, action: np.ndarray) -> np.ndarray:
    """Actions as stored: ``(n, action_dim)`` float32, or whole numbers counted from 0 in int64."""
    space = task.action_space
    if not actions.whole(space):
        return in_float32(action).reshape(len(action), -1)
    if action.size == len(action) * int(np.prod(space.shape or ())):
        action = action.reshape(len(action), *(space.shape or ()))
    return actions.stored(space, action)


def in_float32(array: np.ndarray) -> np.ndarray:
    """A copy in float32, infinite where it does not reach, so that checks find it."""
    with np.errstate(over="ignore"):
        return np.array(array, np.float32)
