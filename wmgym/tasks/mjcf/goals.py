"""Columns that show joints a moment ago, or what is left from a place to a goal, be it shown or not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wmgym.tasks.mjcf.memory import Recorded
from wmgym.tasks.mjcf.robot import Chain
from wmgym.tasks.mjcf.search import EXACT, Parts
from wmgym.tasks.mjcf.shown import Column


def add_further(
    columns: list[Column],
    of_goals: dict[int, Chain],
    parts: Parts,
    steps: Recorded,
    goals: list[int],
) -> None:
    """Add to ``columns`` what shows joints a moment ago, and what shows ``goals`` beside joints.

    Goals are columns that do not change within an episode; ``of_goals`` gets their terms. After a step an env
    may read of a moment ago, at a start it reads of the start.
    """
    open_ = [k for k, column in enumerate(columns) if column.terms is None and k not in goals]
    if not open_:
        return
    dim = steps.core.shape[1]
    first, started = _starts(parts, steps)
    after = np.concatenate([steps.next_core, steps.next_obs[:, goals]], 1)
    found = parts.search(after, ago=True).columns(steps.next_obs[:, open_])
    starts = parts.search(np.concatenate([started, steps.obs[first][:, goals]], 1), ago=True)
    for k, column in zip(open_, found, strict=True):
        if not column.terms or not starts.holds(column, steps.obs[first, k]):
            continue
        here = tuple(
            (i - len(goals) * (i >= dim), f) for i, f in column.terms if not 0 <= i - dim < len(goals)
        )
        columns[k] = replace(column, terms=here)
        of_goals[k] = tuple((goals[i - dim], f) for i, f in column.terms if 0 <= i - dim < len(goals))


def add_hidden_goals(columns: list[Column], parts: Parts, steps: Recorded) -> list[int]:
    """Add to ``columns`` what an episode's own constant is added to, as to what is left to a goal not shown.

    Such columns change within every episode as exact functions of the state do. Returns which they are.
    """
    open_ = [k for k, column in enumerate(columns) if column.terms is None]
    first, started = _starts(parts, steps)
    if not open_ or len(first) < 2:  # the constant of one episode is that of the column
        return []
    lengths = np.diff(first, append=len(steps.episode))

    def since_first(values: np.ndarray) -> np.ndarray:
        return np.asarray(values - np.repeat(values[first], lengths, 0))

    search = parts.search(steps.next_core, ago=True)
    values = search.values
    search.change(since_first(values))
    begun = parts.search(started, ago=True).values
    found = []
    for k, column in zip(open_, search.columns(since_first(steps.next_obs[:, open_])), strict=True):
        plain = (column.low, column.high, column.wrapped, column.offset) == (None, None, False, 0.0)
        if not column.terms or not plain:
            continue
        moved = sum(factor * (begun - values[first])[:, i] for i, factor in column.terms)
        apart = np.abs(steps.obs[first, k] - steps.next_obs[first, k] - moved).max()
        if apart <= EXACT * np.abs(steps.next_obs[:, k]).max():
            columns[k] = column
            found.append(k)
    return found


def _starts(parts: Parts, steps: Recorded) -> tuple[np.ndarray, np.ndarray]:
    """Rows in which episodes begin, and the states there, at rest where an env reads of a moment ago.

    So a moment ago is now, as it is for what an env reads at a start.
    """
    first = np.flatnonzero(np.append(True, steps.episode[1:] != steps.episode[:-1]))
    started, (nq, nv) = steps.core[first].copy(), parts.robot.sizes[:2]
    if parts.late:
        started[:, nq : nq + nv] = 0
    return first, started
