"""What observations hold of the past, and whether they alone tell the future: seen in the data."""

from __future__ import annotations

import math
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
_USUAL = 0.75  # share of the rows that this test looks at: in others, a command may be drawn anew
_LASTING = 0.5  # of a column's spread, that one which lasts changes by in most steps at most
_TIMES = 3  # that a regression looks away from rows which it does not explain
_OFTEN = 0.2  # share of rows in which a column takes one and the same step
_COMMON = 0.05  # share of rows with a value that a sensor without a reading might have
_MOST_VALUES = 32  # more may be a finely stepped reading, which rounding at every step would hold fast
_HEAD = 1_000  # rows that settle most questions

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
    """Columns that hold something of the past: a counter, a filter, an old observation, a command.

    One repeats another column of the step before; or its own value of the step before tells, in most rows,
    most of what the states before and after the step, where these put bodies, and the action do not; or it
    stays, or moves by the same step, in many rows; or the action alone tells most of it, which a state of the
    next step no longer does.
    """
    if not open_ or len(steps.core) < 500:
        return []
    rows = np.linspace(0, len(steps.core) - 1, min(len(steps.core), _ROWS)).astype(np.int64)
    now, before = steps.next_obs[rows][:, open_], steps.obs[rows]
    repeats = np.array(
        [(np.abs(before - y[:, None]) <= _REPEATED * np.abs(y).max()).all(0).any() for y in now.T]
    )
    whole = steps.episode[rows] % 4 == 3 if steps.episode[-1] >= 7 else np.arange(len(rows)) % 4 == 3
    after, action = [_turned(robot, steps.next_core[rows])], steps.action[rows]
    after += [places(steps.next_core[rows])] if places is not None else []
    told = np.concatenate([*after, _turned(robot, steps.core[rows]), action], 1)
    with_memory = np.concatenate([told, before[:, open_]], 1)
    without = _unexplained(told, now, whole)
    memory = _unexplained(with_memory, now, whole) < _MEMORY * without
    lasting = np.median(np.abs(now - before[:, open_]), 0) < _LASTING * now.std(0)
    if (some := np.flatnonzero((without > _UNEXPLAINED) & ~memory & lasting)).size:
        few = np.flatnonzero(np.arange(len(rows)) % 8 < 4)
        usual, beside = (
            _unexplained(each[few], now[few][:, some], whole[few], _USUAL) for each in (told, with_memory)
        )
        memory[some] = beside < _MEMORY * usual
    # A readout sees the next state and the action; two states together may tell the command between them.
    as_readout = _unexplained(np.concatenate([*after, action], 1), now, whole)
    in_steps = _in_steps(before[:, open_], now) & (as_readout > _UNEXPLAINED)
    by_action = _unexplained(action, now, whole) < _MEMORY
    by_action &= _unexplained(np.concatenate(after, 1), now, whole) > _MEMORY
    yes = repeats | (memory & (without > _UNEXPLAINED)) | in_steps | by_action
    return [k for k, each in zip(open_, yes, strict=True) if each]


def _in_steps(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Which columns stay, or move by one and the same step, in many rows: held commands, clocks, ramps.

    A sensor that reads nothing stays too, at a value that is common.
    """
    found = np.zeros(now.shape[1], bool)
    for k, (y, was) in enumerate(zip(now.T, before.T, strict=True)):
        grain = _REPEATED * max(float(np.abs(y).max()), 1e-12)
        values, place, count = np.unique(np.rint(y / grain), return_inverse=True, return_counts=True)
        rare = count[place.reshape(-1)] <= _COMMON * len(y)
        steps, share = np.unique(np.rint((y - was) / grain), return_counts=True)
        moved = share[steps != 0].max(initial=0) > _OFTEN * len(y)
        stays = (rare & (np.abs(y - was) <= grain)).sum() > _OFTEN * len(y)
        found[k] = len(values) > 2 and (moved or stays)
    return found


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


def counts(column: np.ndarray) -> bool:
    """Whether a column holds a few whole numbers."""
    whole = all((part == np.rint(part)).all() for part in (column[:_HEAD], column))
    return whole and len(np.unique(column)) <= _MOST_VALUES


def _turned(robot: Robot, core: np.ndarray) -> np.ndarray:
    """States ``(n, dim)`` with what smooth functions of angles and rotations are made of."""
    angles = [sum(factor * core[:, i] for i, factor in chain) for chain in robot.sums]
    parts = [*core.T, *map(np.sin, angles), *map(np.cos, angles)]
    for at in robot.rotations:
        quaternion = core[:, at : at + 4]
        parts += [quaternion[:, i] * quaternion[:, j] for i in range(4) for j in range(i, 4)]
    return np.stack(parts, 1)


def _unexplained(inputs: np.ndarray, targets: np.ndarray, held: np.ndarray, usual: float = 1.0) -> np.ndarray:
    """Share of the targets' variance, on rows that are held out, that ridge regression leaves.

    With ``usual`` below 1 the regression looks away from rows that it does not explain, and the share is that
    of the rows which it explains best, so many of them.
    """
    rng = np.random.default_rng(0)
    x = (inputs - inputs.mean(0)) / np.maximum(inputs.std(0), 1e-9)
    y = (targets - targets.mean(0)) / np.maximum(targets.std(0), 1e-9)
    turn = rng.normal(size=(x.shape[1], _FEATURES)) / np.sqrt(x.shape[1])
    design = np.concatenate(
        [x, np.cos(x @ turn + rng.uniform(0, 2 * np.pi, _FEATURES)), np.ones((len(x), 1))], 1
    )
    fit, ridge = design[~held], 1e-3 * np.eye(design.shape[1])
    weights = np.linalg.solve(fit.T @ fit + ridge, fit.T @ y[~held])
    for k in range(y.shape[1] if usual < 1 else 0):
        for _ in range(_TIMES):
            error = np.abs(fit @ weights[:, k] - y[~held, k])
            count = fit / np.maximum(error, 0.1 * np.median(error) + 1e-9)[:, None]  # absolute errors
            weights[:, k] = np.linalg.solve(count.T @ fit + ridge, count.T @ y[~held, k])
    left = np.sort(np.square(design[held] @ weights - y[held]), 0)
    return np.asarray(left[: math.ceil(usual * len(left))].mean(0))
