"""Rows of a table that can be used, and where they do not follow each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces

from wmgym.data.importers.columns import Roles, matrix, seconds, vector
from wmgym.data.importers.ends import ends_of
from wmgym.data.importers.table import Table
from wmgym.data.odd_columns import taking_turns
from wmgym.tasks.goals import refuse_images

_UNSORTED = 0.2  # share of rows at which a clock is set back that no restarts of a logger explain
NO_IMAGES = "name the columns of the robot's state with obs=, or store the features of an encoder"
"""What to do where a log holds pictures."""

_ALTERNATE = 0.4  # share of rows that go on with another episode than the last row's
_WIDE = 30  # numbers a row from which an array of few rows is more likely transposed


@dataclass(frozen=True)
class Rows:
    """The usable rows of one table.

    Attributes:
        source: the recording.
        obs: ``(n, obs_dim)`` float64.
        next_obs: likewise, or None where the next row is what follows.
        action: ``(n, k)``; of rows in ``stops`` not to be used.
        reward: ``(n,)`` or None.
        unobserved: ``(n, unobserved_dim)`` or None.
        terminated: ``(n,)`` bool.
        time: ``(n,)`` seconds, or None.
        begins: ``(n,)`` bool, the row does not follow the one before it.
        stops: ``(n,)`` bool, nothing is known of the step from this row.
        number: ``(n,)`` int, its place in the table.
        lost: number of rows dropped or odd, by why.
    """

    source: str
    obs: np.ndarray
    next_obs: np.ndarray | None
    action: np.ndarray
    reward: np.ndarray | None
    unobserved: np.ndarray | None
    terminated: np.ndarray
    time: np.ndarray | None
    begins: np.ndarray
    stops: np.ndarray
    number: np.ndarray
    lost: Counter[str]


def usable_rows(table: Table, roles: Roles, scale: Mapping[str, Any]) -> Rows:
    """Take the columns with a role, and drop rows that cannot be used.

    Raises:
        ValueError: columns of different lengths, or no usable row.
    """
    obs, action = matrix(table, roles.obs, scale), matrix(table, roles.action, scale)
    following = matrix(table, roles.next_obs, scale) if roles.next_obs else None
    _check_shapes(table, roles, obs, action)
    n = len(action)
    if len(obs) == n + 1 and following is None:  # one episode with the observation that it ends with
        obs, following = obs[:-1], obs[1:]
    if len(obs) != n or (following is not None and following.shape != obs.shape):
        shapes = f"obs {obs.shape}, action {action.shape}" + (
            "" if following is None else f", next_obs {following.shape}"
        )
        raise ValueError(f"{table.name}: columns do not fit together: {shapes}")
    reward = vector(table, roles.reward, n, scale)
    episode = vector(table, roles.episode, n, {})
    _check_episodes(table, roles.episode, episode)
    ended, cut = (_flags(vector(table, name, n, {}), n) for name in (roles.terminated, roles.truncated))
    time = None if roles.time is None else seconds(table, roles.time, n, scale)
    begins, stops, lost = np.zeros(n, bool), np.zeros(n, bool), Counter[str]()
    begins[:1] = True
    if episode is not None:
        begins[1:] |= np.diff(episode) != 0
    if following is None:
        acted = np.isfinite(action).all(1)
        idle, named = (action == 0).all(1), episode is not None
        ends = ends_of(ended, cut, begins, acted, idle, obs, named)
        ended, begins, lost["end"] = ends.ended, ends.begins, ends.unknown
        unknown = ~acted | (False if reward is None else ~np.isfinite(reward))
        stops |= unknown
        bad = ~np.isfinite(obs).all(1)
        lost["step"] = int((unknown & ~bad & ~np.append(begins[1:], True)).sum())
    else:
        begins[1:] |= (ended | cut)[:-1]
        bad = ~(np.isfinite(obs).all(1) & np.isfinite(action).all(1) & np.isfinite(following).all(1))
        bad |= False if reward is None else ~np.isfinite(reward)
    if time is not None:
        bad |= ~np.isfinite(time)
    lost["missing"] = int(bad.sum())
    unobserved = matrix(table, roles.unobserved, scale) if roles.unobserved else None
    steps = obs, following, action, reward, unobserved, ended, time, begins, stops, np.arange(n)
    rows = Rows(table.name, *steps, lost)
    rows = _without(rows, bad, breaks=time is None)
    return _with_running_clock(rows) if time is not None else rows


def _check_shapes(table: Table, roles: Roles, obs: np.ndarray, action: np.ndarray) -> None:
    """Refuse arrays that do not hold a row a step."""
    if not len(action) or not len(obs):
        raise ValueError(f"{table.name}: it has no rows; leave it out")
    shapes = table.facts.get("shapes", {})
    deep = [shapes[name] for name in (roles.obs[0], roles.action[0]) if name in shapes]
    if len(deep) == 2 and deep[0][:2] == deep[1][:2]:
        raise ValueError(
            f"{table.name}: obs {tuple(deep[0])} and action {tuple(deep[1])} have episodes and steps in "
            "dimensions of their own; store a row a step, and an episode column that numbers the episodes"
        )
    for name in (name for name in roles.obs if name in shapes):
        column = np.nan_to_num(table.columns[name])
        if column.size and column.dtype != bool:
            held = spaces.Box(column.min(), column.max(), tuple(shapes[name][1:]), column.dtype.type)
            refuse_images(spaces.Dict({name: held}), NO_IMAGES)
    stored = len(roles.obs) == len(roles.action) == 1  # one array each
    if stored and all(len(each) * 10 < each.shape[1] > _WIDE for each in (obs, action)):
        raise ValueError(
            f"{table.name}: obs {obs.shape} and action {action.shape} have a column a step; transpose them"
        )


def _check_episodes(table: Table, name: str | None, episode: np.ndarray | None) -> None:
    """Refuse rows that say no episode: each would be one of its own, without a step."""
    if episode is None:
        return
    said = table.facts.get("text", {}).get(name, {})
    empty = said.get("missing", int(np.isnan(episode).sum()))
    if empty:
        raise ValueError(
            f"{table.name}: column {name!r} names no episode in {empty:,} of {len(episode):,} rows; "
            "fill them in, delete these rows, or pass episode=[] where the file is one episode"
        )
    begins = np.append(True, np.diff(episode) != 0)
    _, known = np.unique(episode, return_inverse=True)
    first = np.full(known.max() + 1, len(episode))
    np.minimum.at(first, known, np.arange(len(episode)))
    again = begins & (first[known] < np.arange(len(episode)))  # goes on with an episode after another's row
    if again.sum() > _ALTERNATE * len(episode):
        raise ValueError(
            f"{table.name}: rows of several episodes alternate; sort the rows by {name!r}, and "
            "within each by time"
        )


def wrapped(tables: Sequence[Rows]) -> dict[int, float]:
    """Observation columns that are angles wrapped into one turn, and that turn: 2 pi or 360."""
    found: dict[int, float] = {}
    low, high = (f([f(t.obs, axis=0) for t in tables], axis=0) for f in (np.min, np.max))
    for k, span in enumerate(high - low):
        for turn in (2 * np.pi, 360.0):
            if 0.9 * turn < span <= 1.001 * turn:
                change = np.concatenate([np.abs(np.diff(t.obs[:, k]))[~t.begins[1:]] for t in tables])
                if len(change) and (change > 0.8 * turn).any() and np.median(change) < 0.1 * turn:
                    found[k] = turn
    return found


def refuse_alternating(source: str, obs: np.ndarray) -> None:
    """Refuse observations ``(n, k)`` in which the rows of several recordings take turns.

    Raises:
        ValueError: they do; says how many.
    """
    if count := taking_turns(obs):
        raise ValueError(
            f"{source}: rows of {count} recordings take turns: each goes on from {count} rows before, not "
            "from the last; write an episode column that numbers the recordings, and sort the rows by it"
        )


def _with_running_clock(rows: Rows) -> Rows:
    """Without rows that repeat a stamp or come late; a clock that is set back begins a new run."""
    time = rows.time
    assert time is not None
    step = np.diff(time)
    again = np.append(False, (step == 0) & ~rows.begins[1:])
    if again.sum() > 0.05 * len(time):
        refuse_alternating(rows.source, rows.obs)
        raise ValueError(
            f"{rows.source}: {again.mean():.0%} of the time stamps repeat the one before; they are too "
            "coarse. Pass time=[] and dt=, the seconds from row to row"
        )
    rows.lost["repeated"] = int(again.sum())
    rows = _without(rows, again, breaks=False)
    time = rows.time
    assert time is not None
    back = np.append(False, (np.diff(time) < 0) & ~rows.begins[1:])
    late = np.zeros(len(time), bool)
    inner = np.flatnonzero(back[1:-1]) + 1
    late[inner[time[inner + 1] > time[inner - 1]]] = True  # alone behind its neighbours
    if back.sum() > _UNSORTED * len(time) and len(time) > _WIDE:
        raise ValueError(
            f"{rows.source}: the clock goes back in {back.mean():.0%} of the rows; sort them by their time, "
            "or name the column that tells recordings apart with episode="
        )
    rows.lost["late"] = int(late.sum())
    rows.lost["set back"] = int((back & ~late).sum())
    return _without(replace(rows, begins=rows.begins | (back & ~late)), late, breaks=False)


def _without(rows: Rows, bad: np.ndarray, breaks: bool) -> Rows:
    """Without some rows; what began there begins at the next one, and with ``breaks`` a new run does."""
    if not bad.any():
        return rows
    if bad.all():
        raise ValueError(f"{rows.source}: no row has all its values; is a column empty?")
    kept = np.flatnonzero(~bad)
    begun = np.cumsum(rows.begins | bad if breaks else rows.begins)  # a change since the last kept row
    begins = np.diff(begun[kept], prepend=-1) > 0

    def take(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array[kept]

    return replace(
        rows,
        obs=rows.obs[kept],
        next_obs=take(rows.next_obs),
        action=rows.action[kept],
        reward=take(rows.reward),
        unobserved=take(rows.unobserved),
        terminated=rows.terminated[kept],
        time=take(rows.time),
        begins=begins,
        stops=rows.stops[kept],
        number=rows.number[kept],
    )


def _flags(values: np.ndarray | None, n: int) -> np.ndarray:
    return np.zeros(n, bool) if values is None else np.not_equal(np.nan_to_num(values), 0)
