"""Time stamps: where the clock breaks, whether its jitter is real, and runs on a regular grid of time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wmgym.data.importers.runs import Run

REGULAR = 0.01  # stamps that deviate by no more than this share of a period are regular
_SAMPLED = 0.5  # share of the stamps' jitter that the observations must follow for it to be real


def period(times: list[np.ndarray]) -> float:
    """The usual time between two rows, seconds: the median, of whole hertz where it is within 0.5 % of it.

    Raises:
        ValueError: fewer than two stamps, or stamps that do not advance.
    """
    steps = np.concatenate([np.diff(each) for each in times] or [np.zeros(0)])
    ahead = steps[steps > 0]
    if not len(ahead):
        raise ValueError("the time column never advances; pass time=[] and dt= if it is no clock")
    median = float(np.median(ahead))
    rate = round(1 / median)
    return 1 / rate if rate and abs(1 / median - rate) < 0.005 * rate else median


def jitter_is_real(runs: list[Run], step: float) -> bool:
    """Whether rows were sampled at the times that their stamps say, or regularly and only stamped late.

    Sampled later, an observation has moved on further: its change over a row is its local velocity times the
    stamped duration. The slope of that relation is 1 where jitter is real and 0 where it is not.
    """
    above = below = 0.0
    for run in runs:
        t, x = run.time, run.obs
        if t is None or len(t) < 4:
            continue
        velocity = (x[3:] - x[:-3]) / (t[3:] - t[:-3])[:, None]
        late = velocity * (np.diff(t)[1:-1] - step)[:, None]
        change = np.diff(x, axis=0)[1:-1] - velocity * step
        above, below = above + (late * change).sum(0), below + (late**2).sum(0)
    usable = np.asarray(below) > 0
    if not usable.any():
        return True
    return bool(np.median(np.asarray(above)[usable] / np.asarray(below)[usable]) > _SAMPLED)


def irregularity(runs: list[Run], step: float) -> tuple[float, float]:
    """How irregular stamps are, as shares of the usual period.

    Returns:
        The largest deviation of a duration from it, and of a stamp from a regular grid.
    """
    times = [run.time for run in runs if run.time is not None]
    one = max((np.abs(np.diff(t) - step).max() for t in times), default=0.0)
    grid = max((np.abs(t - t[0] - step * np.arange(len(t))).max() for t in times), default=0.0)
    return float(one) / step, float(grid) / step


def straightened(run: Run, step: float) -> Run:
    """The same run with the stamps that regular sampling would have given it."""
    assert run.time is not None
    return replace(run, time=run.time[0] + step * np.arange(len(run.time)))


def resample(run: Run, dt: float, step: float, held: bool = False) -> Run | None:
    """A run on the grid ``t0, t0 + dt, ...``; None where it is shorter than one step.

    An action holds from its row to the next, and becomes its mean over each new step. Observations are
    interpolated linearly, angles on the circle: between rows the velocities of a robot under a held action
    are close to linear, and have kinks at the rows, which smoother curves round off. Rewards are paid at a
    constant rate within a row.

    Args:
        run: with stamps.
        dt: of the grid, seconds.
        step: usual time between two rows.
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
        None if each is None else _mean_over(grid, t, each.reshape(len(each), -1)) * (dt / step)
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


def _mean_over(grid: np.ndarray, t: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Means of a piecewise constant signal, ``held[i]`` from ``t[i]`` to ``t[i + 1]``, over grid steps."""
    total = np.concatenate([np.zeros((1, held.shape[1])), np.cumsum(held * np.diff(t)[:, None], 0)])
    return np.diff(_linear(grid, t, total), axis=0) / np.diff(grid)[:, None]


def _linear(grid: np.ndarray, t: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(grid, t, column) for column in values.T], 1)
