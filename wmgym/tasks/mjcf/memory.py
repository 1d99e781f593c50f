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
_OF_MODES, _LIMITS = 0.1, 20  # share of variance, and limits of each action that are tried
_CHANGES = 10  # rows in which one changes at least, among those that are fitted and those held out
_SELDOM = 200  # rows that a sensor fires in at most, all of which are looked at
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
    next step no longer does; or it has few values, of which actions beyond some limit choose another.
    """
    if not open_ or len(steps.core) < 500:
        return []
    rows = _telling(steps.next_obs[:, open_])
    now, before = steps.next_obs[rows][:, open_], steps.obs[rows]
    repeats = np.array(
        [(np.abs(before - y[:, None]) <= _REPEATED * np.abs(y).max()).all(0).any() for y in now.T]
    )
    repeats &= np.ptp(now, axis=0) > 0
    whole = steps.episode[rows] % 4 == 3 if steps.episode[-1] >= 7 else np.arange(len(rows)) % 4 == 3
    after, action = [_turned(robot, steps.next_core[rows])], steps.action[rows]
    after += [places(steps.next_core[rows])] if places is not None else []
    told = np.concatenate([*after, _turned(robot, steps.core[rows]), action], 1)
    with_memory = np.concatenate([told, before[:, open_]], 1)
    without, beside = (_errors(each, now, whole) for each in (told, with_memory))
    # Rows like no other, of which a regression knows nothing, are not to decide alone.
    memory = (beside.mean(0) < _MEMORY * without.mean(0)) & (_usual(beside) < _MEMORY * _usual(without))
    memory &= (unknown := without.mean(0) > _UNEXPLAINED)
    lasting = np.median(np.abs(now - before[:, open_]), 0) < _LASTING * now.std(0)
    few = np.flatnonzero(np.arange(len(rows)) % 8 < 4)
    if (some := np.flatnonzero(unknown & ~memory & lasting)).size and whole[few].any():
        usual, beside = (
            _usual(_errors(each[few], now[few][:, some], whole[few], _TIMES)) for each in (told, with_memory)
        )
        memory[some] = (beside < _MEMORY * usual) & (usual > _UNEXPLAINED)
    # A readout sees the next state and the action; two states together may tell the command between them.
    as_readout = _unexplained(np.concatenate([*after, action], 1), now, whole)
    in_steps = _in_steps(before[:, open_], now) & (as_readout > _UNEXPLAINED)
    from_action = _unexplained(action, now, whole)
    by_action = (from_action < _MEMORY) & (now[whole].var(0) > _MEMORY * now.var(0))
    by_action &= as_readout > from_action / 2  # else it is a sensor, of which the state tells the rest
    by_action &= _unexplained(np.concatenate(after, 1), now, whole) > _MEMORY
    modes = _modes(before[:, open_], now, action, whole) & (as_readout > 2 * _OF_MODES)
    yes = repeats | memory | in_steps | by_action | modes
    return [k for k, each in zip(open_, yes, strict=True) if each]


def _telling(columns: np.ndarray) -> np.ndarray:
    """Some rows, and those in which a column is not what it mostly is, as a sensor that seldom fires."""
    rows = [np.linspace(0, len(columns) - 1, min(len(columns), _ROWS)).astype(np.int64)]
    for y in columns.T:
        other = np.flatnonzero(y != np.median(y))
        rows.append(other[:_SELDOM] if len(other) < _SELDOM else other[:0])
    return np.unique(np.concatenate(rows))


def _modes(before: np.ndarray, now: np.ndarray, action: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Which columns of few values follow from their last value and from actions beyond limits, all but."""
    found = np.zeros(now.shape[1], bool)
    limits = [np.unique(np.quantile(each, np.linspace(0, 1, _LIMITS + 1)[:-1])) for each in action.T]
    beyond = [a > limit for a, each in zip(action.T, limits, strict=True) for limit in each]
    chosen = np.stack([np.ones(len(now)), *beyond], 1)
    for k, (y, was) in enumerate(zip(now.T, before.T, strict=True)):
        told = min(((y != was) & part).sum() for part in (held, ~held)) >= _CHANGES
        if told and len(np.unique(y)) <= _MOST_VALUES:
            design = np.concatenate([chosen, chosen * was[:, None]], 1)
            found[k] = _left(design, y[:, None], held).mean() < _OF_MODES
    return found


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


def _unexplained(inputs: np.ndarray, targets: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Share of the targets' variance, on rows that are held out, that ridge regression leaves."""
    return np.asarray(_errors(inputs, targets, held).mean(0))


def _usual(errors: np.ndarray) -> np.ndarray:
    """The mean of sorted errors over the rows that are explained best."""
    return np.asarray(errors[: math.ceil(_USUAL * len(errors))].mean(0))


def _errors(inputs: np.ndarray, targets: np.ndarray, held: np.ndarray, times: int = 0) -> np.ndarray:
    """Squared errors of ridge regression on the rows held out, from the least on, in the targets' variances.

    So many ``times`` it then looks away from rows that it does not explain.
    """
    rng = np.random.default_rng(0)
    x = (inputs - inputs.mean(0)) / np.maximum(inputs.std(0), 1e-9)
    turn = rng.normal(size=(x.shape[1], _FEATURES)) / np.sqrt(x.shape[1])
    waves = np.cos(x @ turn + rng.uniform(0, 2 * np.pi, _FEATURES))
    return _left(np.concatenate([x, waves, np.ones((len(x), 1))], 1), targets, held, times)


def _left(design: np.ndarray, targets: np.ndarray, held: np.ndarray, times: int = 0) -> np.ndarray:
    """The same of a regression on the columns of ``design`` as they are."""
    y = (targets - targets.mean(0)) / np.maximum(targets.std(0), 1e-9)
    fit, known, ridge = design[~held], y[~held], 1e-3 * np.eye(design.shape[1])
    weights = np.linalg.solve(fit.T @ fit + ridge, fit.T @ known)
    for k in range(y.shape[1] if times else 0):
        for _ in range(times):
            error = np.abs(fit @ weights[:, k] - known[:, k])
            count = fit / np.maximum(error, 0.1 * np.median(error) + 1e-9)[:, None]  # absolute errors
            weights[:, k] = np.linalg.solve(count.T @ fit + ridge, count.T @ known[:, k])
    said = np.clip(design[held] @ weights, known.min(0), known.max(0))
    return np.asarray(np.sort(np.square(said - y[held]), 0))
