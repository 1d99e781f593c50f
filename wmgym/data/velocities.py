"""Whether observations hold positions without velocities."""

from __future__ import annotations

import numpy as np

from wmgym.data.lags import unexplained
from wmgym.data.transitions import Transitions

_ROWS = 5_000
_ENOUGH = 200  # windows of two steps
_MOST = 40  # numbers of an observation and an action whose products are looked at
_OPEN = 0.4  # share of a change's variance that the row itself leaves open
_TOLD = 0.5  # share of that which is still open where the change before is known


def without_velocities(data: Transitions) -> list[int]:
    """The columns that go on as they went in the step before, which their own row does not tell.

    Each column's change is regressed on the row's numbers, their products, as of a sine and a rate, and the
    action, without and with the change before it. Empty unless that is so of most columns that move: some may
    be a function of the others that no regression finds.
    """
    starts = data.window_starts(2)
    if len(starts) < _ENOUGH or data.task.from_table:
        return []
    rows = starts[np.linspace(0, len(starts) - 1, min(len(starts), _ROWS)).astype(int)] + 1
    obs, before, after = (
        each.astype(np.float64) for each in (data.obs[rows], data.obs[rows - 1], data.next_obs[rows])
    )
    change, previous = after - obs, obs - before
    moving = np.flatnonzero(change.std(0) > 0)
    known = np.concatenate([obs, data.action[rows].reshape(len(rows), -1).astype(np.float64)], 1)
    found = _open(moving, known, change, previous)
    if 2 * len(found) > len(moving) and known.shape[1] <= _MOST:
        known = (known - known.mean(0)) / np.maximum(known.std(0), 1e-12)
        one, other = np.triu_indices(known.shape[1])
        found = _open(
            np.array(found), np.concatenate([known, known[:, one] * known[:, other]], 1), change, previous
        )
    return found if 2 * len(found) > len(moving) else []


def _open(columns: np.ndarray, known: np.ndarray, change: np.ndarray, previous: np.ndarray) -> list[int]:
    found = []
    for k in columns.tolist():
        moved = (change[:, [k]] - change[:, k].mean()) / change[:, k].std()
        left = unexplained(moved, [known])
        if left > _OPEN and unexplained(moved, [known, previous[:, [k]]]) < _TOLD * left:
            found.append(k)
    return found
