"""What an env remembers by an exact rule: the last action, what was shown some steps ago, counts, phases."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from wmgym.tasks.geometry import Rule
from wmgym.tasks.layout import Placement
from wmgym.tasks.mjcf.memory import Recorded
from wmgym.tasks.mjcf.search import Linear
from wmgym.tasks.mjcf.shown import Column

_ROUNDING = 4 * float(np.finfo(np.float32).eps)
_OF_CHANGE = 1e-2  # a rule must say much more of a column than that it hardly changes
LEAST_ROWS = 50


@dataclass(frozen=True)
class Remembered:
    """Columns that follow from a step by a rule.

    Attributes:
        columns: of each of them the sum that it is; its numbers are those of the physical state before the
            step, then after it, then all columns of the observation before it, then the action.
        dim: numbers of the physical state.
        obs_dim: columns.
    """

    columns: dict[int, Column]
    dim: int
    obs_dim: int

    @property
    def sources(self) -> set[int]:
        """Columns that others follow from, and that must be remembered for that."""
        first = 2 * self.dim
        every = {i for column in self.columns.values() for i, _ in column.terms or ()}
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
            Rule(
                before[k],
                tuple((source(i), factor) for i, factor in column.terms or ()),
                column.offset,
                column.low,
                column.high,
            )
            for k, column in self.columns.items()
        )


def find_remembered(steps: Recorded, open_: list[int], goals: list[int]) -> Remembered:
    """Which of the columns ``open_``, which are no function of the state, follow by a rule.

    They may follow from each other, from ``goals``, which stay through an episode, from the state before and
    after the step, and from the action.
    """
    dim, obs_dim = steps.core.shape[1], steps.obs.shape[1]
    found = Remembered({}, dim, obs_dim)
    if not open_ or len(steps.core) < LEAST_ROWS:
        return found
    values = np.concatenate([steps.core, steps.next_core, steps.obs, steps.action], 1)
    apart = {2 * dim + k for k in range(obs_dim) if k not in {*open_, *goals}}
    own = [i for i in range(2 * dim, values.shape[1]) if i not in apart]
    # What the actions and the memory tell is not sought in a velocity that only follows from them.
    for numbers in (own, [*range(2 * dim), *own]):
        left = [k for k in open_ if k not in found.columns]
        search = Linear(values, numbers)
        for k, column in zip(left, search.columns(steps.next_obs[:, left]), strict=True):
            stays = column.terms == ((2 * dim + k, 1.0),) and not column.offset
            y = steps.next_obs[:, k]
            if not column.terms or column.wrapped or stays:
                continue
            if search.off(column, y) <= allowed(steps.obs[:, k], y):
                found.columns[k] = column
    return found


def allowed(before: np.ndarray, after: np.ndarray) -> float:
    """Errors of rounding, in a column that changes by much more than that in a step."""
    change, rounding = float(np.abs(after - before).max()), _ROUNDING * float(np.abs(after).max())
    return min(max(rounding, 1e-6 * change), _OF_CHANGE * change)


def mirrored(
    rules: tuple[Rule, ...], dim: int, core: Placement, action: Placement, still: Collection[int]
) -> Placement | None:
    """Places in a mirror image of the numbers behind the physical state, where rules tell them.

    Args:
        rules: of a core of ``dim`` numbers.
        dim: their number.
        core: places of those of the physical state, the first ones.
        action: places of actions, as networks see them.
        still: numbers that stay through an episode, and as they are; all others have a rule.
    """
    places = dict(enumerate(core)) | {i: (i, 1) for i in still}
    left = {rule.number: rule for rule in rules}
    candidates = {*left}

    def image(i: int) -> tuple[int, int] | None:
        """Of a source of a rule."""
        if i >= 2 * dim:
            source, sign = action[i - 2 * dim]
            return source + 2 * dim, sign
        found = places.get(i % dim)
        return found and (found[0] + i - i % dim, found[1])

    def fits(rule: Rule, other: Rule, sign: int) -> bool:
        """Whether a mirrored step gives by one rule what the step gives by the other, with a sign."""
        terms, low, high = dict[int, float](), other.low, other.high
        for i, factor in rule.terms:
            source = (other.number, sign) if i == rule.number else image(i)
            if source is None:
                return False
            terms[source[0]] = factor * source[1]
        if sign < 0:
            low, high = None if high is None else -high, None if low is None else -low
        same = terms.keys() == {i for i, _ in other.terms}
        same &= all(np.isclose(terms.get(i, 0), sign * factor, rtol=1e-4) for i, factor in other.terms)
        ends = zip((rule.offset, rule.low, rule.high), (sign * other.offset, low, high), strict=True)
        return same and all(a == b or (a and b and np.isclose(a, b)) for a, b in ends)

    rule_of, before = dict(left), -1
    while left and len(places) > before:
        before = len(places)
        for number, rule in list(left.items()):
            pairs = ((k, sign) for k in sorted(candidates, key=number.__ne__) for sign in (1, -1))
            if found := next((pair for pair in pairs if fits(rule, rule_of[pair[0]], pair[1])), None):
                places[number] = found
                candidates.discard(found[0])
                del left[number]
    places |= {number: (number, 1) for number in left}  # clocks, of which each follows from others
    if not all(fits(rule, rule, 1) for rule in left.values()):
        return None
    return tuple(places[i] for i in range(len(core), dim))
