"""Single values that no robot shows: one far outside all others, or one that stands for missing readings."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from wmgym.data.repeats import twice
from wmgym.data.series import Series

_FEWEST = 50  # rows from which it can be said what is usual
_FAR = 20.0  # times further from the median than all but 0.5 % of the rows
_FAR_REWARD = 100.0  # likewise of rewards, since a bonus is far from what other steps pay
_BONUS = 3  # rewards far from the others that are deliberate if they are alike
_COUNT = 3  # times that a placeholder is there at least
_SHARE = 0.3  # of the rows at most; a signal that is off for longer is one of two states
_DISTINCT = 20  # other values; fewer are levels or flags


def far_actions(log: Series) -> str | None:
    """An action far beyond all but a few, which widens an action space that is the range of the data."""
    for name, column in log.action.items():
        far, usual = _far(column, _FAR)
        if far.any():
            row = int(np.argmax(far))
            return (
                f"{name} is {column[row]:.4g} in {log.where(row)}{_more(far)}, where {usual}; if it is "
                "wrong, empty it in the file, else pass action_space=, the range that the robot takes"
            )
    return None


def far_rewards(log: Series) -> str | None:
    """A reward far beyond all but a few, unless it ends an episode or is paid again and again."""
    if log.reward is None:
        return None
    far, usual = _far(log.reward, _FAR_REWARD)
    far &= ~log.terminated
    paid = log.reward[far]
    if not len(paid) or (len(paid) >= _BONUS and np.ptp(paid) <= 0.1 * np.abs(paid).max()):
        return None
    row = int(np.argmax(far))
    return (
        f"the reward is {log.reward[row]:.4g} in {log.where(row)}{_more(far)}, where {usual}; if it is "
        "wrong, empty it in the file, since a world would learn it"
    )


def placeholders(log: Series) -> str | None:
    """An observation or action with one value, again and again, far outside all others.

    Further from them than their whole range, so that no clipped signal is meant, and with others before and
    after it in an episode, so that none is where all episodes start or end.
    """
    inside = ~log.begins[1:]
    for name, column in [*log.obs.items(), *log.action.items()]:
        for value in (column.min(), column.max()):
            there = column == value
            if not _COUNT <= there.sum() <= _SHARE * len(column):
                continue
            rest = column[~there]
            low, high = rest.min(), rest.max()
            gap = low - value if value < low else value - high
            if gap <= high - low or len(np.unique(rest)) < _DISTINCT:
                continue
            entered, left = there[1:] & ~there[:-1] & inside, there[:-1] & ~there[1:] & inside
            if entered.any() and left.any():
                first = log.where(int(np.argmax(there)))
                return (
                    f"{name} is {value:g} in {first}{_more(there)}, and within {low:.4g} and {high:.4g} in "
                    "all others: likely a placeholder for missing readings; empty these cells, or store NaN, "
                    "so that their rows are left out"
                )
    return None


LOOKS: Mapping[str, Callable[[Series], str | None]] = {
    "far actions": far_actions,
    "far rewards": far_rewards,
    "placeholders": placeholders,
    "repeated episodes": twice,
}
"""What is looked for, by what a finding is about."""


def _far(values: np.ndarray, times: float) -> tuple[np.ndarray, str]:
    """Which values ``(n,)`` are far from all but 0.5 % of them, and the range of these in words."""
    none = np.zeros(len(values), bool)
    if len(values) < _FEWEST:
        return none, ""
    away = np.abs(values.astype(np.float64) - np.median(values))
    usual, rare = np.quantile(away, (0.5, 0.995), method="lower")
    if rare == 0:  # nearly always the same, as where only some steps pay
        return none, ""
    inner = values[away <= rare]
    words = f"all but 0.5 % of the rows are within {inner.min():.4g} and {inner.max():.4g}"
    return away > times * rare + 100 * usual, words


def _more(rows: np.ndarray) -> str:
    count = int(rows.sum()) - 1
    return f" and {count:,} more" if count else ""
