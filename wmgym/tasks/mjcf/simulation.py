"""The compiled model and the data inside a live env, whichever library made it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

PARTS = ("qpos", "qvel", "act", "mocap_pos", "mocap_quat")
"""The arrays of ``mjData`` that make up a robot's physical state, in the order in which they are read."""

_HOLDERS = ("", "_env.physics", "physics", "point_env", "ant_env", "sim")
"""Where envs keep them: Gymnasium and Gymnasium-Robotics themselves, Shimmy's dm_control, mazes, others."""


def simulation(env: gym.Env[Any, Any]) -> tuple[Any, Any] | None:
    """The ``MjModel`` and the ``MjData`` of an env; None where it has none."""
    for path in _HOLDERS:
        holder: Any = env.unwrapped
        for name in filter(None, path.split(".")):
            holder = getattr(holder, name, None)
        pair = tuple(_bare(getattr(holder, name, None)) for name in ("model", "data"))
        if [type(each).__name__ for each in pair] == ["MjModel", "MjData"]:
            return pair[0], pair[1]
    return None


def step_limit(env: gym.Env[Any, Any]) -> int | None:
    """The steps after which an env of dm_control ends its episodes itself; None of any other."""
    limit = getattr(getattr(env.unwrapped, "_env", None), "_step_limit", float("inf"))
    return int(limit) if 0 < limit < float("inf") else None


def physical_state(data: Any) -> np.ndarray:
    """All parts one after the other: ``(n,)`` float64, a copy."""
    parts = [np.asarray(getattr(data, name), np.float64).reshape(-1) for name in PARTS[:-1]]
    turns = np.asarray(data.mocap_quat, np.float64)  # of any length, as MuJoCo takes them
    parts.append((turns / np.linalg.norm(turns, axis=1, keepdims=True).clip(1e-12)).reshape(-1))
    return np.concatenate(parts)


def sizes(model: Any) -> tuple[int, ...]:
    """How many numbers each part has."""
    return int(model.nq), int(model.nv), int(model.na), 3 * int(model.nmocap), 4 * int(model.nmocap)


def _bare(holder: Any) -> Any:
    """The library's own object, out of the wrappers of dm_control and robosuite."""
    return getattr(holder, "ptr", getattr(holder, "_model", getattr(holder, "_data", holder)))
