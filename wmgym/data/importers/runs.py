"""Rows cut into runs of consecutive steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from wmgym.data.importers.rows import Rows, refuse_alternating

_SHUFFLED = 0.1  # share of rows whose next_obs may disagree with the next row before the table is refused


@dataclass(frozen=True)
class Run:
    """Consecutive steps of one recording.

    Attributes:
        source: the recording.
        obs: ``(m + 1, obs_dim)`` float64, of ``m`` steps and where the last one leads.
        action: ``(m, k)``.
        reward: ``(m,)`` or None.
        unobserved: ``(m, unobserved_dim)``, reward inputs absent from the observation, or None.
        terminated: whether the last step ended the episode.
        time: ``(m + 1,)`` seconds, or None.
        period: usual time between two rows of the recording, seconds; 1 where there is no clock.
        turns: full turn of every observation column that wraps, by its number.
    """

    source: str
    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray | None
    unobserved: np.ndarray | None
    terminated: bool
    time: np.ndarray | None
    period: float = 1.0
    turns: Mapping[int, float] = field(default_factory=dict)


def after_gaps(rows: Rows, max_gap: float) -> Rows:
    """The rows, of which those more than ``max_gap`` seconds after the one before begin an episode."""
    assert rows.time is not None
    gap = (np.diff(rows.time, prepend=rows.time[:1]) > max_gap) & ~rows.begins
    rows.lost["gap"] += int(gap.sum())
    return replace(rows, begins=rows.begins | gap)


def cut(rows: Rows, step: float | None, turns: Mapping[int, float]) -> list[Run]:
    """The runs of a table: cut where episodes begin, steps are unknown or next_obs differs.

    Args:
        rows: of the table.
        step: usual time between its rows, seconds; None where there is no clock.
        turns: see ``Run``.

    Raises:
        ValueError: ``next_obs`` has little to do with the next row.
    """
    n, begins = len(rows.obs), rows.begins.copy()
    carried = np.zeros(n, bool)  # next_obs is the next episode's first observation
    if rows.next_obs is not None and n > 1:
        same = _same(rows.next_obs[:-1], rows.obs[1:])
        torn = ~same & ~begins[1:]
        if torn.sum() > _SHUFFLED * n:
            refuse_alternating(rows.source, rows.obs)
            row = int(np.argmax(torn))
            raise ValueError(
                f"{rows.source}: next_obs is not the next row's obs in {torn.mean():.0%} of the rows, first "
                f"in row {row}; sort the rows by time, or name the episode column"
            )
        rows.lost["torn"] += int(torn.sum())
        at_ends = same & begins[1:] & ~_same(rows.next_obs[:-1], rows.obs[:-1])
        if at_ends.sum() > 0.5 * begins[1:].sum():
            carried[:-1] = at_ends
            rows.lost["carried"] += int(at_ends.sum())
        begins[1:] |= torn
    begins[1:] |= rows.stops[:-1]
    first = np.flatnonzero(begins)
    return [
        run
        for a, b in zip(first, [*first[1:], n], strict=True)
        if (run := _run(rows, int(a), int(b), carried, step, turns)) is not None
    ]


def _run(
    rows: Rows, a: int, b: int, carried: np.ndarray, step: float | None, turns: Mapping[int, float]
) -> Run | None:
    following = None if rows.next_obs is None or carried[b - 1] else rows.next_obs[b - 1 : b]
    steps = b - a - (following is None)
    if steps < 1:
        return None
    obs = rows.obs[a:b] if following is None else np.concatenate([rows.obs[a:b], following])
    time = None if rows.time is None else rows.time[a:b]
    if time is not None and following is not None:
        assert step is not None
        time = np.append(time, time[-1] + step)
    return Run(
        rows.source,
        obs,
        rows.action[a : a + steps],
        None if rows.reward is None else rows.reward[a : a + steps],
        None if rows.unobserved is None else rows.unobserved[a : a + steps],
        bool(rows.terminated[a + steps - 1]),
        time,
        step or 1.0,
        turns,
    )


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Rows that are equal but for rounding."""
    far = np.abs(one - other) > 1e-5 * (np.abs(other) + other.std(0) + 1e-12)
    return np.asarray(~far.any(1))
