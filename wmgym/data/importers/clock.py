"""Time stamps: where the clock breaks, how irregular it is, and runs on a regular grid of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wmgym.data.importers.rows import Rows
from wmgym.data.importers.runs import Run

REGULAR = 0.01  # stamps that deviate by no more than this share of a period are regular
_GAP = 1.5  # periods without a row after which a new run begins, so that no step of a run is made up
_FEW = 5  # steps of a recording from which it has a period of its own
_MEASURED = 1_000.0  # squares of rows' places in their runs from which these tell the time between rows


def period(times: list[np.ndarray]) -> float:
    """The usual time between two rows, seconds: the median, of whole hertz where it is within 0.5 % of it.

    Raises:
        ValueError: fewer than two stamps, or stamps that do not advance.
    """
    steps = np.concatenate([np.diff(each) for each in times] or [np.zeros(0)])
    ahead = steps[steps > 0]
    if not len(ahead):
        raise ValueError("the time column never advances; pass time=[] and dt= if it is no clock")
    return _whole_hertz(float(np.median(ahead)))


def periods(rows: Sequence[Rows], step: float) -> list[float]:
    """Seconds between the rows of every recording: ``step`` but where its own are other by half and more."""
    found = []
    for each in rows:
        assert each.time is not None
        steps = np.diff(each.time)[~each.begins[1:]]
        own = period([each.time]) if (steps > 0).sum() >= _FEW else step
        found.append(own if max(own / step, step / own) > _GAP else step)
    return found


def longest(
    rows: Sequence[Rows], own: Sequence[float], step: float, dt: float, max_gap: float | None
) -> list[float]:
    """The longest time between two rows of a run, in every recording.

    Args:
        rows: of every recording.
        own: seconds between them.
        step: likewise, over all recordings.
        dt: seconds a step.
        max_gap: the caller's, or None.

    Raises:
        ValueError: the usual time between the rows of a recording is a gap, or longer than the steps.
    """
    usual = max_gap or _GAP * step
    slow = [k for k, each in enumerate(own) if each > usual]
    if slow and (max_gap is not None or max(own) * (1 - REGULAR) > dt):
        apart = max(own[k] for k in slow)
        where = rows[slow[0]].source + (f" and {len(slow) - 1} more" if len(slow) > 1 else "")
        said = f"{where}: recorded every {own[slow[0]]:.6g} s, "
        if max_gap is not None:
            raise ValueError(
                f"{said}so that max_gap={max_gap:g} makes a gap of every row; pass max_gap={_GAP * apart:.6g}"
            )
        raise ValueError(
            f"{said}others every {step:.6g} s; pass dt={apart:.6g}, so that all steps take that long, "
            "or leave it out"
        )
    return [max(usual, _GAP * each) if max_gap is None else max_gap for each in own]


def settled(runs: Sequence[Run], step: float) -> tuple[list[Run], float]:
    """Runs, and the time between their rows, now that a line through the stamps of each can tell it.

    Jitter of single stamps moves the median of their differences, and hardly that line.
    """
    above = below = 0.0
    for run in runs:
        if run.time is not None and run.period == step:
            place = np.arange(len(run.time)) - (len(run.time) - 1) / 2
            above, below = above + float(place @ (run.time - run.time[0])), below + float(place @ place)
    if below < _MEASURED:
        return list(runs), step
    found = _whole_hertz(above / below)
    return [replace(run, period=found) if run.period == step else run for run in runs], found


def irregularity(runs: list[Run]) -> tuple[float, float]:
    """How irregular stamps are, as shares of the usual period.

    Returns:
        The largest deviation of a duration from it, and of a stamp from a regular grid.
    """
    times = [((run.time - run.time[0]) / run.period) for run in runs if run.time is not None]
    one = max((np.abs(np.diff(t) - 1).max() for t in times), default=0.0)
    grid = max((np.abs(t - np.arange(len(t))).max() for t in times), default=0.0)
    return float(one), float(grid)


def straightened(run: Run) -> Run:
    """The same run with the stamps that regular sampling would have given it."""
    assert run.time is not None
    return replace(run, time=run.time[0] + run.period * np.arange(len(run.time)))


def resample(run: Run, dt: float, held: bool = False) -> Run | None:
    """A run on the grid ``t0, t0 + dt, ...``; None where it is shorter than one step.

    An action holds from its row to the next, and becomes its mean over each new step. Observations are
    interpolated linearly, angles on the circle: between rows the velocities of a robot under a held action
    are close to linear, and have kinks at the rows, which smoother curves round off. Rewards are paid at a
    constant rate within a row.

    Args:
        run: with stamps.
        dt: of the grid, seconds.
        held: take the action at the start of each step instead of its mean (Discrete actions).
    """
    t = run.time
    assert t is not None
    count = int(np.floor((t[-1] - t[0]) / dt + 1e-6))
    if count < 1:
        return None
    grid = t[0] + dt * np.arange(count + 1)
    grid[-1] = min(grid[-1], t[-1])
    obs = run.obs.copy()
    for k, turn in run.turns.items():
        obs[:, k] = np.unwrap(obs[:, k], period=turn)
    new = _linear(grid, t, obs)
    for k, turn in run.turns.items():
        low = run.obs[:, k].min()
        new[:, k] = np.where(new[:, k] < low, new[:, k] + turn, new[:, k])
        new[:, k] = low + np.mod(new[:, k] - low, turn)
    at = np.clip(np.searchsorted(t, grid[:-1] + 1e-9, side="right") - 1, 0, len(t) - 2)
    paid, moved = (
        None if each is None else _mean_over(grid, t, each.reshape(len(each), -1)) * (dt / run.period)
        for each in (run.reward, run.unobserved)
    )
    return replace(
        run,
        obs=new,
        action=run.action[at] if held else _mean_over(grid, t, run.action),
        reward=None if paid is None else paid[:, 0],
        unobserved=moved,
        time=grid,
    )


def _whole_hertz(period: float) -> float:
    rate = round(1 / period)
    return 1 / rate if rate and abs(1 / period - rate) < 0.005 * rate else period


def _mean_over(grid: np.ndarray, t: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Means of a piecewise constant signal, ``held[i]`` from ``t[i]`` to ``t[i + 1]``, over grid steps."""
    total = np.concatenate([np.zeros((1, held.shape[1])), np.cumsum(held * np.diff(t)[:, None], 0)])
    return np.diff(_linear(grid, t, total), axis=0) / np.diff(grid)[:, None]


def _linear(grid: np.ndarray, t: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(grid, t, column) for column in values.T], 1)
