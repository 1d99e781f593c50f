"""Whether actions stand in the row in which they act."""

from __future__ import annotations

import numpy as np

from wmgym.data.transitions import Transitions
from wmgym.tasks.actions import whole as whole_numbers

_ROWS = 20_000
_CLEAR = 0.01  # share of the changes' variance that an action explains beyond what the others do


def out_of_step(data: Transitions) -> str | None:
    """Whether changes of the state answer to the action of the row "before" or "after" and not to their own.

    Changes are regressed on the state and the actions of the row before, the row itself and the row after.
    Where leaving out the row's own action costs less than a tenth of what leaving out the other's does, the
    columns are out of step.
    """
    starts = data.window_starts(3)
    if whole_numbers(data.task.action_space) or len(starts) < 500:
        return None
    rows = starts[np.linspace(0, len(starts) - 1, min(len(starts), _ROWS)).astype(int)] + 1
    state, change = data.core[rows].astype(np.float64), (data.next_core - data.core)[rows].astype(np.float64)
    actions = [data.action[rows + lag].astype(np.float64) for lag in (-1, 0, 1)]
    change = change[:, change.std(0) > 0]
    if not change.size:
        return None
    change = (change - change.mean(0)) / change.std(0)
    whole = unexplained(change, [state, *actions])
    cost = [unexplained(change, [state, *actions[:k], *actions[k + 1 :]]) - whole for k in range(3)]
    for k, found in ((0, "before"), (2, "after")):
        if cost[k] > _CLEAR and cost[1] < 0.1 * cost[k]:
            return found
    return None


def unexplained(change: np.ndarray, inputs: list[np.ndarray]) -> float:
    """Share of the variance of all columns together that a linear regression leaves."""
    x = np.concatenate([*inputs, np.ones((len(change), 1))], 1)
    weights, *_ = np.linalg.lstsq(x, change, rcond=None)
    return float(((change - x @ weights) ** 2).mean())
