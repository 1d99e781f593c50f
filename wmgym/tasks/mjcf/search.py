"""The search for exact functions of a few numbers that give back columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wmgym.tasks.mjcf.orientation import ANGLES, COUNT, LINEAR, Heading, Orientation, orientations
from wmgym.tasks.mjcf.robot import Chain, Robot
from wmgym.tasks.mjcf.shown import Column

EXACT = 2e-6  # largest error relative to the column's largest value; float32 rounds at 6e-8
_ROWS = 4_000  # that a search looks at; all are checked
_TERMS = 8  # a sum of more is no formula but a coincidence
_STILL = 1e-9  # of numbers of the size of 1
NOISE = 1e-10  # of what only rounding moves, such as the spin of a body about an axis that nothing turns
_TURNS = 2 * np.pi, 360.0, 1.0, 2.0  # in radians, degrees, turns and half turns
_LIKELY = 6  # candidates that are tried for each column


class Linear:
    """Columns as multiples or sums of some ``numbers`` of values ``(n, k)``.

    Attributes:
        circle: numbers that a column may wrap.
        summed: numbers of which there may be sums.
    """

    def __init__(
        self,
        values: np.ndarray,
        numbers: Sequence[int],
        summed: set[int] | None = None,
        circle: Sequence[int] = (),
    ) -> None:
        self.numbers, self.circle = list(numbers), list(circle)
        self.summed = set(numbers) if summed is None else summed
        self.change(values)

    def change(self, values: np.ndarray) -> None:
        """Take other values ``(n, numbers)`` of the same numbers."""
        self.values = values
        self.some = np.linspace(0, len(values) - 1, min(len(values), _ROWS)).astype(np.int64)
        seen = self.values[self.some]
        candidates = np.array(self.numbers, np.int64)
        self.moving = candidates[np.ptp(seen[:, candidates], axis=0) > NOISE]

    def columns(self, obs: np.ndarray) -> list[Column]:
        """What each column of ``obs`` ``(n, obs_dim)`` is; without terms where no function was found."""
        found = [self._single(y) for y in obs.T]
        rest = [k for k, column in enumerate(found) if column is None]
        sums = self._sums(obs[:, rest]) if rest else []
        for k, column in zip(rest, sums, strict=True):
            found[k] = column or self._clipped_sum(obs[:, k])
        return [column or Column() for column in found]

    def _clipped_sum(self, y: np.ndarray) -> Column | None:
        """A sum that is clipped, told by the rows where it is not."""
        low, high, inside = _ends(y)
        some = self.some[inside[self.some]]
        if (low, high) == (None, None) or len(some) < 20:
            return None
        column = Linear(self.values[some], self.numbers, self.summed)._sums(y[some][:, None])[0]
        column = column and replace(column, low=low, high=high)
        return column if column and self.holds(column, y) else None

    def _single(self, y: np.ndarray) -> Column | None:
        if np.ptp(y) <= NOISE:
            return Column(terms=(), offset=float(y[0]))
        if (column := self._line(y, np.ones(len(y), bool))) is not None:
            return column
        low, high, inside = _ends(y)
        if (low, high) != (None, None) and inside.sum() >= 20:
            column = self._line(y, inside)
            if column is not None and self.holds(clipped := replace(column, low=low, high=high), y):
                return clipped
        return self._wrapped(y)

    def _wrapped(self, y: np.ndarray) -> Column | None:
        """An angle within a full turn, in some unit, counted from some heading."""
        low, high = float(y.min()), float(y.max())
        some = self.some
        for turn in _TURNS:
            for start in (-turn / 2, 0.0):
                if not start - 1e-6 * turn <= low <= high <= start + turn * (1 + 1e-6):
                    continue
                for i in self.circle:
                    for factor in (turn / (2 * np.pi), -turn / (2 * np.pi)):
                        left = (y[some] - factor * self.values[some, i]) % turn
                        apart = (left - left[0] + turn / 2) % turn - turn / 2
                        if np.abs(apart).max() > 10 * EXACT * turn:
                            continue
                        offset = _plain(float((left[0] + np.median(apart)) % turn), y)
                        plain = turn == _TURNS[0] and start and not offset % turn
                        column = Column(((i, factor),), offset, start, start + turn, wrapped=True)
                        if plain:
                            column = Column(((i, factor),), wrapped=True)
                        if self.holds(column, y):
                            return column
        return None

    def _line(self, y: np.ndarray, rows: np.ndarray) -> Column | None:
        """A multiple of one number, over some of the rows."""
        some = self.some[rows[self.some]]
        if len(some) < 10:
            some = np.flatnonzero(rows)
        x, z = self.values[some][:, self.moving], y[some]
        x = x - x.mean(0)
        z = z - z.mean()
        spread = np.sqrt((x * x).sum(0) * (z @ z))
        match = np.abs(z @ x) / np.where(spread > 0, spread, np.inf)
        best: tuple[float, Column] | None = None
        for k in np.argsort(-match)[:_LIKELY]:
            if match[k] < 1 - 1e-6:
                break
            i = int(self.moving[k])
            factor = _plain(float((z @ x[:, k]) / (x[:, k] @ x[:, k])), y)
            offset = _plain(float(np.median(y[some] - factor * self.values[some, i])), y)
            column = Column(terms=((i, factor),), offset=offset)
            error = self._error(column, y, rows)
            if error <= EXACT * np.abs(y[rows]).max() and (best is None or error < best[0]):
                best = error, column
        return None if best is None else best[1]

    def _sums(self, obs: np.ndarray) -> list[Column | None]:
        """Sums of a few numbers, by least squares over all of them, then over those that matter."""
        moving = self._apart()
        x, y = self.values[self.some][:, moving], obs[self.some]
        if len(x) < 2 * x.shape[1]:
            return [None] * obs.shape[1]
        unit = x.std(0)
        design = np.concatenate([x / unit, np.ones((len(x), 1))], 1)
        weights = np.linalg.lstsq(design, y, rcond=1e-10)[0]
        near = np.abs(design @ weights - y).max(0) <= 10 * EXACT * np.abs(y).max(0)
        found: list[Column | None] = []
        for k, target in enumerate(obs.T):
            column = None
            terms = np.flatnonzero(np.abs(weights[:-1, k]) > 1e-4 * target.std())
            if near[k] and 0 < len(terms) <= _TERMS:
                part = np.concatenate([x[:, terms], np.ones((len(x), 1))], 1)
                solved = np.linalg.lstsq(part, target[self.some], rcond=None)[0]
                pairs = tuple(
                    (int(moving[i]), _plain(float(w), target)) for i, w in zip(terms, solved, strict=False)
                )
                column = Column(terms=pairs, offset=_plain(float(solved[-1]), target))
                column = column if self.holds(column, target) else None
            found.append(column)
        return found

    def _apart(self) -> np.ndarray:
        """Numbers that move and of which none is a multiple of another, as two axes of a level body are."""
        moving = np.array([i for i in self.moving if i in self.summed], np.int64)
        if len(self.summed) == len(self.numbers):  # those of joints alone
            return moving
        x = self.values[self.some][:, moving]
        x = (x - x.mean(0)) / x.std(0)
        same = np.abs(x.T @ x) > len(x) * (1 - 1e-12)
        return np.asarray(moving[~np.triu(same, 1).any(0)])

    def holds(self, column: Column, y: np.ndarray) -> bool:
        """Whether a column gives back every row."""
        return self.off(column, y) <= EXACT * float(np.abs(y).max())

    def off(self, column: Column, y: np.ndarray) -> float:
        """Largest error of a column over all rows."""
        return self._error(column, y, np.ones(len(y), bool))

    def _error(self, column: Column, y: np.ndarray, rows: np.ndarray) -> float:
        said = np.full(len(y), column.offset)
        for i, factor in column.terms or ():
            said += factor * self.values[:, i]
        if column.wrapped:
            turn = column.turn[1]
            off = np.abs(said - y)[rows] % turn
            return float(np.minimum(off, turn - off).max())
        said = np.clip(said, column.low, column.high) if (column.low, column.high) != (None, None) else said
        return float(np.abs(said - y)[rows].max())


class Search(Linear):
    """Columns as functions of a robot's physical states ``(n, dim)``, of some of its parts."""

    def __init__(self, parts: Parts, core: np.ndarray, taken: Sequence[int], oriented: Sequence[int]) -> None:
        """Look at the sums of ``parts`` that are ``taken`` and the orientations that are ``oriented``."""
        dim, sums = core.shape[1], parts.sums
        angles = [sum(factor * core[:, i] for i, factor in chain) for chain in sums]
        numbers = [*range(dim), *(dim + kind * len(sums) + i for kind in range(2) for i in taken)]
        summed, circle = set(numbers), list(parts.robot.circle)
        values = [*core.T, *map(np.sin, angles), *map(np.cos, angles)]
        first = len(values)
        for at in oriented:
            orientation = parts.orientations[at]
            start, number = first + COUNT * at, orientation.number(core)
            values += [np.zeros(len(core))] * (start + COUNT - len(values))
            for k in orientation.numbers:
                values[start + k] = number(k)
            numbers += [start + k for k in orientation.numbers]
            summed |= {start + k for k in parts.moving[at]}
            circle += [start + k for k in ANGLES if k in orientation.numbers]
        super().__init__(np.stack(values, 1), numbers, summed, circle)


@dataclass(frozen=True)
class Parts:
    """What of a robot turns, as columns may show it.

    Attributes:
        robot: the model's.
        sums: ``robot.sums``, then the same as they were a moment ago where an env reads of then.
        orientations: likewise those of loose bodies.
        moving: numbers of these that change within episodes: of others, which tell episodes apart, a sum can
            give whatever differs between a few.
        late: whether an env reads of a moment ago.
    """

    robot: Robot
    sums: tuple[Chain, ...]
    orientations: tuple[Orientation | Heading, ...]
    moving: tuple[frozenset[int], ...]
    late: bool

    @classmethod
    def of(
        cls, robot: Robot, core: np.ndarray, next_core: np.ndarray, late: tuple[Chain, ...], ago: float
    ) -> Parts:
        """All, as states ``(n, dim)`` and the next ones move them; ``late`` sums are ``ago`` seconds old."""
        every = orientations(robot) + (orientations(robot, ago) if ago else ())
        moving = []
        for orientation in every:
            before, after = orientation.number(core), orientation.number(next_core)
            change = {k: np.abs(after(k) - before(k)).max() for k in LINEAR if k in orientation.numbers}
            moving.append(frozenset(k for k, most in change.items() if most > _STILL))
        return cls(robot, (*robot.sums, *late), every, tuple(moving), ago > 0)

    def search(self, core: np.ndarray, ago: bool = False, oriented: bool = True) -> Search:
        """Over states ``(n, dim)``, of what they are or, where an env reads of then, were a moment ago."""
        first = len(self.robot.sums)
        then = ago and self.late
        taken = range(first, len(self.sums)) if then else range(first)
        turned = [k for k, each in enumerate(self.orientations) if oriented and bool(each.ago) == then]
        return Search(self, core, taken, turned)


def _ends(y: np.ndarray) -> tuple[float | None, float | None, np.ndarray]:
    """The smallest and the largest value where several rows have it, and which rows have neither."""
    low, high = (end if (y == end).sum() > 1 else None for end in (float(y.min()), float(y.max())))
    return low, high, (y != low) & (y != high)


def _plain(value: float, y: np.ndarray) -> float:
    """A round number where it is as good as that."""
    scale = float(np.abs(y).max())
    for digits in (0, 1, 2, 3, 4):
        if abs(value - round(value, digits)) <= 1e-7 * max(1.0, scale):
            return round(value, digits) + 0.0
    return value
