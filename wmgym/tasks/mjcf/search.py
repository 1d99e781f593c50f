"""The search for exact functions of a few numbers that give back columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wmgym.tasks.mjcf.robot import Chain, Robot
from wmgym.tasks.mjcf.shown import Column

EXACT = 2e-6  # largest error relative to the column's largest value; float32 rounds at 6e-8
_ROWS = 4_000  # that a search looks at; all are checked
_TERMS = 8  # a sum of more is no formula but a coincidence
_LIKELY = 6  # candidates that are tried for each column


class Search:
    """Candidates over all rows of a robot's physical states ``(n, dim)``: of ``sums`` those ``taken``."""

    def __init__(self, robot: Robot, sums: tuple[Chain, ...], core: np.ndarray, taken: Sequence[int]) -> None:
        self.circle = robot.circle
        self.dim = core.shape[1]
        angles = [sum(factor * core[:, i] for i, factor in chain) for chain in sums]
        self.turns = [self.dim + kind * len(sums) + i for kind in range(2) for i in taken]
        self.change(np.stack([*core.T, *map(np.sin, angles), *map(np.cos, angles)], 1))

    def change(self, values: np.ndarray) -> None:
        """Take other values ``(n, numbers)`` of the same numbers."""
        self.values = values
        self.some = np.linspace(0, len(values) - 1, min(len(values), _ROWS)).astype(np.int64)
        seen = self.values[self.some]
        candidates = np.array([*range(self.dim), *self.turns], np.int64)
        self.moving = candidates[seen[:, candidates].std(0) > 1e-12]

    def columns(self, obs: np.ndarray) -> list[Column]:
        """What each column of ``obs`` ``(n, obs_dim)`` is; without terms where no function was found."""
        found = [self._single(y) for y in obs.T]
        rest = [k for k, column in enumerate(found) if column is None]
        sums = self._sums(obs[:, rest]) if rest else []
        for k, column in zip(rest, sums, strict=True):
            found[k] = column
        return [column or Column() for column in found]

    def _single(self, y: np.ndarray) -> Column | None:
        if (y == y[0]).all():
            return Column(terms=(), offset=float(y[0]))
        if (column := self._line(y, np.ones(len(y), bool))) is not None:
            return column
        low, high = float(y.min()), float(y.max())
        ends = {"low": low if (y == low).sum() > 1 else None, "high": high if (y == high).sum() > 1 else None}
        inside = np.ones(len(y), bool)
        for end in (end for end in ends.values() if end is not None):
            inside &= y != end
        if ends != {"low": None, "high": None} and inside.sum() >= 20:
            column = self._line(y, inside)
            if column is not None and self.holds(clipped := replace(column, **ends), y):  # type: ignore[arg-type]
                return clipped
        for i in self.circle:
            for sign in (1.0, -1.0):
                wrapped = Column(terms=((i, sign),), wrapped=True)
                if -np.pi - 1e-6 <= low and high <= np.pi + 1e-6 and self.holds(wrapped, y):
                    return wrapped
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
        x, y = self.values[self.some][:, self.moving], obs[self.some]
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
                    (int(self.moving[i]), _plain(float(w), target))
                    for i, w in zip(terms, solved, strict=False)
                )
                column = Column(terms=pairs, offset=_plain(float(solved[-1]), target))
                column = column if self.holds(column, target) else None
            found.append(column)
        return found

    def holds(self, column: Column, y: np.ndarray) -> bool:
        """Whether a column gives back every row."""
        return self._error(column, y, np.ones(len(y), bool)) <= EXACT * float(np.abs(y).max())

    def _error(self, column: Column, y: np.ndarray, rows: np.ndarray) -> float:
        said = np.full(len(y), column.offset)
        for i, factor in column.terms or ():
            said += factor * self.values[:, i]
        if column.wrapped:
            off = np.abs(said - y)[rows] % (2 * np.pi)
            return float(np.minimum(off, 2 * np.pi - off).max())
        said = np.clip(said, column.low, column.high) if (column.low, column.high) != (None, None) else said
        return float(np.abs(said - y)[rows].max())


def _plain(value: float, y: np.ndarray) -> float:
    """A round number where it is as good as that."""
    scale = float(np.abs(y).max())
    for digits in (0, 1, 2, 3, 4):
        if abs(value - round(value, digits)) <= 1e-7 * max(1.0, scale):
            return round(value, digits) + 0.0
    return value
