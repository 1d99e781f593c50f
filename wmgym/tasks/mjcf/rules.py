"""What an env remembers by an exact rule: the last action, what was shown some steps ago, counts, phases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wmgym.tasks.geometry import Rule
from wmgym.tasks.mjcf.memory import Recorded
from wmgym.tasks.mjcf.search import Linear

_ROUNDING = 4 * float(np.finfo(np.float32).eps)
_OF_CHANGE = 1e-2  # a rule must say much more of a column than that it hardly changes
LEAST_ROWS = 50


@dataclass(frozen=True)
class Remembered:
    """Columns that follow from a step by a rule.

    Attributes:
        terms: of each of them ``(source, factor)``. Sources are numbers of the physical state before the
            step, then after it, then all columns of the observation before it, then the action.
        offset: added.
        dim: numbers of the physical state.
        obs_dim: columns.
    """

    terms: dict[int, tuple[tuple[int, float], ...]]
    offset: dict[int, float]
    dim: int
    obs_dim: int

    @property
    def sources(self) -> set[int]:
        """Columns that others follow from, and that must be remembered for that."""
        first = 2 * self.dim
        every = {i for terms in self.terms.values() for i, _ in terms}
        return {i - first for i in every if first <= i < first + self.obs_dim}

    def rules(self, kept: list[int]) -> tuple[Rule, ...]:
        """Of a core that is the physical state and the columns ``kept``."""
        dim = self.dim + len(kept)
        before = {column: self.dim + place for place, column in enumerate(kept)}

        def source(i: int) -> int:
            if i < self.dim:
                return i
            if i < 2 * self.dim:
                return dim + i - self.dim
            column = i - 2 * self.dim
            return before[column] if column < self.obs_dim else 2 * dim + column - self.obs_dim

        return tuple(
            Rule(before[k], tuple((source(i), factor) for i, factor in terms), self.offset[k])
            for k, terms in self.terms.items()
        )


def find_remembered(steps: Recorded, open_: list[int], goals: list[int]) -> Remembered:
    """Which of the columns ``open_``, which are no function of the state, follow by a rule.

    They may follow from each other, from ``goals``, which stay through an episode, from the state before and
    after the step, and from the action.
    """
    dim, obs_dim = steps.core.shape[1], steps.obs.shape[1]
    found = Remembered({}, {}, dim, obs_dim)
    if not open_ or len(steps.core) < LEAST_ROWS:
        return found
    values = np.concatenate([steps.core, steps.next_core, steps.obs, steps.action], 1)
    apart = set(range(obs_dim)) - {*open_, *goals}
    numbers = [i for i in range(values.shape[1]) if i - 2 * dim not in apart]
    search = Linear(values, numbers)
    columns = search.columns(steps.next_obs[:, open_])
    for k, column in zip(open_, columns, strict=True):
        plain = (column.low, column.high, column.wrapped) == (None, None, False)
        stays = column.terms and [i for i, _ in column.terms] == [2 * dim + k] and not column.offset
        y = steps.next_obs[:, k]
        if column.terms and plain and not stays and search.off(column, y) <= allowed(steps.obs[:, k], y):
            found.terms[k], found.offset[k] = column.terms, column.offset
    return found


def allowed(before: np.ndarray, after: np.ndarray) -> float:
    """Errors of rounding, in a column that changes by much more than that in a step."""
    change, rounding = float(np.abs(after - before).max()), _ROUNDING * float(np.abs(after).max())
    return min(max(rounding, 1e-6 * change), _OF_CHANGE * change)
