"""What ``from_log`` is given, before any file is read."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
from gymnasium import spaces

from wmgym.data.logs import refuse_no_task
from wmgym.io.arguments import short
from wmgym.tasks.actions import ActionSpace


def check_arguments(
    paths: object,
    names: Mapping[str, object],
    settings: Mapping[str, Any],
    task: object,
    observation_space: object,
    action_space: object,
) -> None:
    """Refuse arguments of other kinds than ``from_log`` takes.

    Raises:
        ValueError: names the argument and says what to pass.
    """
    known = list(paths) if isinstance(paths, Collection) else []  # Path.glob can be gone through once
    if not _is_path(paths) and not (isinstance(paths, Iterable) and all(map(_is_path, known))):
        raise ValueError(f"paths must be a path or a list of paths, got {short(paths)}")
    for role, given in names.items():
        several = isinstance(given, Collection) and all(isinstance(each, str) for each in given)
        if given is not None and not several:
            raise ValueError(f"{role} must be the name of a column, or a list of names, got {short(given)}")
        if isinstance(given, Collection) and not isinstance(given, str) and len({*given}) < len(given):
            raise ValueError(f"{role} names a column twice, {short(given)}; name each once")
    for name in ("dt", "max_gap"):
        value = settings[name]
        if value is not None and not (isinstance(value, Real) and 0 < float(value) < np.inf):
            raise ValueError(f"{name} must be a number of seconds above 0, or None, got {value!r}")
    limit = settings["max_episode_steps"]
    if limit is not None and (not isinstance(limit, Integral) or isinstance(limit, bool) or limit < 1):
        raise ValueError(f"max_episode_steps must be a whole number of at least 1, or None, got {limit!r}")
    scale = settings["scale"]
    if scale is not None and not isinstance(scale, Mapping):
        raise ValueError(f"scale must name columns, such as {{'q1': 3.1416 / 180}}, got {short(scale)}")
    if task is not None:
        refuse_no_task(task)
    for name, space, kinds, example in (
        ("observation_space", observation_space, spaces.Box, "Box(-np.inf, np.inf, (3,))"),
        ("action_space", action_space, ActionSpace, "Box(-1.0, 1.0, (1,))"),
    ):
        if space is not None and not isinstance(space, kinds):
            raise ValueError(f"{name} must be a space such as gymnasium.spaces.{example}, got {short(space)}")


def _is_path(given: object) -> bool:
    return isinstance(given, (str, os.PathLike))
