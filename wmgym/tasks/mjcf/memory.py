"""What observations hold of the past, and whether they alone tell the future: seen in the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from wmgym.tasks.mjcf.robot import Robot

_REPEATED = 2e-6  # largest difference of equal numbers, relative to the column's largest
_ROWS = 4_000  # that are looked at
_FEATURES = 200  # random ones, of the regression
_AS_WELL = (
    1.1  # what observations alone leave of a column's variance, relative to what they leave with the state
)
_UNEXPLAINED, _MEMORY = 0.01, 0.05  # shares of a column's variance that decide in the test for memory

Places: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Of physical states ``(n, dim)`` where bodies are and how they are turned, as an env reads it ``(n, k)``."""


@dataclass(frozen=True)
class Recorded:
    """Steps of a robot as they were recorded, float64.

    Attributes:
        core: ``(n, dim)`` physical states.
        next_core: one step later.
        obs: ``(n, obs_dim)``.
        next_obs: one step later.
        action: ``(n, k)``.
        episode: ``(n,)``.
    """

    core: np.ndarray
    next_core: np.ndarray
    obs: np.ndarray
    next_obs: np.ndarray
    action: np.ndarray
    episode: np.ndarray


def remembered(robot: Robot, steps: Recorded, open_: list[int], places: Places | None = None) -> list[int]:
    """Columns that hold something of the past: a counter, a filter, an old observation.

    Either one repeats another column of the step before, or its own value of the step before tells most of
    what the states before and after the step, where these put bodies, and the action do not.
    """
    if not open_ or len(steps.core) < 500:
        return []
    rows = np.linspace(0, len(steps.core) - 1, min(len(steps.core), _ROWS)).astype(np.int64)
    now, before = steps.next_obs[rows][:, open_], steps.obs[rows]
    repeats = np.array(
        [(np.abs(before - y[:, None]) <= _REPEATED * np.abs(y).max()).all(0).any() for y in now.T]
    )
    whole = steps.episode[rows] % 4 == 3 if steps.episode[-1] >= 7 else np.arange(len(rows)) % 4 == 3
    states = [_turned(robot, steps.next_core[rows]), _turned(robot, steps.core[rows]), steps.action[rows]]
    states += [places(steps.next_core[rows])] if places is not None else []
    without = _unexplained(np.concatenate(states, 1), now, whole)
    beside = _unexplained(np.concatenate([*states, before[:, open_]], 1), now, whole)
    memory = (without > _UNEXPLAINED) & (beside < _MEMORY * without)
    return [k for k, yes in zip(open_, repeats | memory, strict=True) if yes]


def observations_tell(robot: Robot, steps: Recorded) -> bool:
    """Whether observations alone foresee the next ones as well as they do beside the whole state."""
    moving = np.flatnonzero((steps.next_obs != steps.obs).any(0))
    if len(steps.core) < 500 or not len(moving):
        return False
    rows = np.linspace(0, len(steps.core) - 1, min(len(steps.core), _ROWS)).astype(np.int64)
    whole = steps.episode[rows] % 4 == 3 if steps.episode[-1] >= 7 else np.arange(len(rows)) % 4 == 3
    change = (steps.next_obs - steps.obs)[rows][:, moving]
    alone = [steps.obs[rows], steps.action[rows]]
    without = _unexplained(np.concatenate(alone, 1), change, whole)
    beside = _unexplained(np.concatenate([*alone, _turned(robot, steps.core[rows])], 1), change, whole)
    return bool((without <= _AS_WELL * beside + _UNEXPLAINED).all())


def _turned(robot: Robot, core: np.ndarray) -> np.ndarray:
    """States ``(n, dim)`` with what smooth functions of angles and rotations are made of."""
    angles = [sum(factor * core[:, i] for i, factor in chain) for chain in robot.sums]
    parts = [*core.T, *map(np.sin, angles), *map(np.cos, angles)]
    for at in robot.rotations:
        quaternion = core[:, at : at + 4]
        parts += [quaternion[:, i] * quaternion[:, j] for i in range(4) for j in range(i, 4)]
    return np.stack(parts, 1)


def _unexplained(inputs: np.ndarray, targets: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Share of the targets' variance, on rows that are held out, that ridge regression leaves."""
    rng = np.random.default_rng(0)
    x = (inputs - inputs.mean(0)) / np.maximum(inputs.std(0), 1e-9)
    y = (targets - targets.mean(0)) / np.maximum(targets.std(0), 1e-9)
    turn = rng.normal(size=(x.shape[1], _FEATURES)) / np.sqrt(x.shape[1])
    design = np.concatenate(
        [x, np.cos(x @ turn + rng.uniform(0, 2 * np.pi, _FEATURES)), np.ones((len(x), 1))], 1
    )
    fit = design[~held]
    weights = np.linalg.solve(fit.T @ fit + 1e-3 * np.eye(fit.shape[1]), fit.T @ y[~held])
    return np.asarray(np.square(design[held] @ weights - y[held]).mean(0))
