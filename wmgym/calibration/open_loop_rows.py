"""Open-loop errors by the number of steps, beside the error bound and the constant-state baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wmgym.io.schema import STRICT, Amount, Count, Share

if TYPE_CHECKING:  # reports hold rows, and reading one takes no torch
    from wmgym.calibration.open_loop import OpenLoopStep
    from wmgym.data.transitions import Transitions
    from wmgym.models.dynamics import Propagation
    from wmgym.models.error_bounds import Calibration


@dataclass(frozen=True)
class OpenLoopRow:
    """What real actions make of a state after a number of steps in the world, against the real env.

    Errors and bounds are means over core dimensions in standard deviations of the calibration data.

    Attributes:
        steps: since the window's start, which is a real state.
        windows: number of windows that reach so far.
        error: median error of the state.
        error_90: 90 % quantile of it.
        bound: median bound given disagreement.
        coverage: share of errors inside the bound.
        constant_state: median error of the baseline that keeps the window's first state.
        reward_error: mean imagined minus mean real reward of this step; None where the data have no reward.
        reward_size: mean absolute real reward of this step; None likewise.
    """

    __pydantic_config__ = STRICT

    steps: Count
    windows: Count
    error: Amount
    error_90: Amount
    bound: Amount
    coverage: Share
    constant_state: Amount
    reward_error: float | None
    reward_size: float | None


def open_loop_rows(
    table: Calibration, data: Transitions, starts: np.ndarray, every: OpenLoopStep, propagation: Propagation
) -> tuple[OpenLoopRow, ...]:
    """Rows after 1, 2, 4, ... steps and after the last.

    Args:
        table: the world's error bounds.
        data: real episodes.
        starts: ``(n,)`` rows of ``data`` that windows start from.
        every: what came of them, stacked.
        propagation: with which it did.
    """
    unit, horizon = np.where(table.data_std > 0, table.data_std, 1.0), len(every.error)
    found = []
    for h in sorted({2**k for k in range(horizon.bit_length())} | {horizon}):
        there = ~np.isnan(every.error[h - 1, :, 0])
        error, core, given = (part[h - 1, there] for part in (every.error, every.core, every.disagreement))
        bound = table.error_bound(np.full(len(error), h), propagation, core, given)
        rows = starts[there] + h - 1
        held = np.abs(data.core[starts[there]] - data.next_core[rows])
        sizes = [(each / unit).mean(1) for each in (error, bound, held)]
        reward = None if data.reward is None else data.reward[rows]
        off = None if reward is None else float((every.reward[h - 1, there] - reward).mean())
        found.append(
            OpenLoopRow(
                steps=h,
                windows=len(error),
                error=float(np.median(sizes[0])),
                error_90=float(np.quantile(sizes[0], 0.9)),
                bound=float(np.median(sizes[1])),
                coverage=float((error <= bound).mean()),
                constant_state=float(np.median(sizes[2])),
                reward_error=off,
                reward_size=None if reward is None else float(np.abs(reward).mean()),
            )
        )
    return tuple(found)


def mean_rows(each: Sequence[Sequence[OpenLoopRow]]) -> tuple[OpenLoopRow, ...]:
    """Rows of several policies as one table: the mean over policies at every number of steps."""
    by_steps: dict[int, list[OpenLoopRow]] = {}
    for row in (row for rows in each for row in rows):
        by_steps.setdefault(row.steps, []).append(row)
    return tuple(
        OpenLoopRow(
            steps,
            sum(row.windows for row in rows),
            *(
                float(np.mean([getattr(row, name) for row in rows]))
                for name in ("error", "error_90", "bound", "coverage", "constant_state")
            ),
            *(
                None if any(value is None for value in values) else float(np.mean(values))
                for values in (
                    [getattr(row, name) for row in rows] for name in ("reward_error", "reward_size")
                )
            ),
        )
        for steps, rows in sorted(by_steps.items())
    )
