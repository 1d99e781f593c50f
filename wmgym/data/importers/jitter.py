"""Whether rows were sampled at the irregular times that their stamps say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wmgym.data.importers.runs import Run

_ROWS = 20_000  # that are looked at
_ENOUGH = 2  # steps a number that explains them
_CLEAR = 3.0  # log likelihood ratio from which few rows tell enough to change them


def jitter_is_real(runs: Sequence[Run]) -> bool:
    """Whether rows were sampled at the times that their stamps say, or regularly and only stamped late.

    The rate at which every column changes over a row is explained, once with the stamped durations and once
    with equal ones, by a linear regression on the observation in the middle of the row, which holds the
    velocities if anything does, and the action; and again with the rates in the rows beside it. The times
    that leave less of the changes unexplained are the right ones. Too few rows tell nothing: then False.
    """
    some, count = list[Run](), 0
    for run in runs:
        if run.time is not None and count < _ROWS:
            some.append(run)
            count += len(run.action)
    return sum(_evidence(some, beside) for beside in (False, True)) > _CLEAR


def _evidence(runs: Sequence[Run], beside: bool) -> float:
    """Log likelihood of the stamped durations over that of equal ones, all columns together."""
    unexplained = [_unexplained(runs, stamped, beside) for stamped in (False, True)]
    equal, stamped, steps = *(left for left, _ in unexplained), unexplained[0][1]
    told = (equal > 0) & (stamped > 0)
    return float(0.5 * steps * np.log(equal[told] / stamped[told]).sum())


def _unexplained(runs: Sequence[Run], stamped: bool, beside: bool) -> tuple[np.ndarray, int]:
    """What a regression leaves of the variance of every column's changes; number of steps."""
    rates, durations, known, around = ([], [], [], []) if runs else ([np.zeros((0, 1))],) * 4
    for run in runs:
        assert run.time is not None
        took = np.diff(run.time)[:, None] if stamped else np.full((len(run.action), 1), run.period)
        rate, middle = np.diff(run.obs, axis=0) / took, (run.obs[1:] + run.obs[:-1]) / 2
        inner = slice(1, -1) if beside else slice(None)
        rates.append(rate[inner])
        durations.append(took[inner])
        known.append(np.concatenate([middle, run.action], 1)[inner])
        around.append((rate[2:] + rate[:-2]) / 2 if beside else rate[:0])
    change, took, x, next_to = (np.concatenate(each) for each in (rates, durations, known, around))
    enough = len(x) >= _ENOUGH * (x.shape[1] + 1 + beside)
    if not len(x) or (not enough and not beside):
        return np.zeros(change.shape[1]), 0
    x = np.append(x * enough, np.ones((len(x), 1)), 1)
    left = []
    for k in range(change.shape[1]):
        inputs = np.append(x, next_to[:, [k]], 1) if beside else x
        inputs = inputs / np.maximum(np.abs(inputs).max(0), 1e-300) * took
        moved = change[:, k] * took[:, 0]
        weights, *_ = np.linalg.lstsq(inputs, moved, rcond=None)
        rest = ((moved - inputs @ weights) ** 2).mean()
        left.append(rest if rest > 1e-18 * (moved**2).mean() else 0.0)
    return np.array(left), len(x)
