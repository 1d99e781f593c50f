"""Which observation columns are exact functions of the physical state: found in recorded steps, and checked.

Tried in turn: a copy, a multiple, a sine or a cosine of one number; the same clipped or wrapped; a sum of a
few of them; the last of all for joints as they were a moment ago. A function counts as exact if it gives back
every recorded row to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wmgym.tasks.mjcf.memory import Places, Recorded, observations_tell, remembered
from wmgym.tasks.mjcf.robot import Chain, Robot
from wmgym.tasks.mjcf.shown import Column, Found, Shown, with_left

_EXACT = 2e-6  # largest error relative to the column's largest value; float32 rounds at 6e-8
_ROWS = 4_000  # that a search looks at; all are checked
_TERMS = 8  # a sum of more is no formula but a coincidence
_LIKELY = 6  # candidates that are tried for each column


def find_shown(
    robot: Robot, steps: Recorded, late: tuple[Chain, ...] | None = None, places: Places | None = None
) -> Found:
    """How observations show the state.

    Where they tell the future as well as the state does, the numbers that they do not show are needless, and
    what they show of these is kept in their place. An arm's hand and what it pushes say more of each other
    than all its joints do.

    Args:
        robot: the model's.
        steps: recorded ones.
        late: ``robot.sums`` as they were a moment ago; None where what an env reads is of its state.
        places: where the model puts bodies in states.
    """
    core = np.concatenate([steps.core, steps.next_core])
    obs = np.concatenate([steps.obs, steps.next_obs])
    sums = (*robot.sums, *(late or ()))
    columns = _Search(robot, sums, core, range(len(robot.sums))).columns(obs)
    still, of_goals = (steps.next_obs == steps.obs).all(0), dict[int, Chain]()
    if late is not None:
        _add_further(columns, of_goals, robot, sums, steps, [], late=True)
    if goals := [k for k, column in enumerate(columns) if column.terms is None and still[k]]:
        _add_further(columns, of_goals, robot, sums, steps, goals, late=late is not None)
    hidden_goals = _add_hidden_goals(columns, robot, sums, steps, late=late is not None)
    open_ = [k for k, column in enumerate(columns) if column.terms is None]
    kept = [k for k in open_ if still[k]] + hidden_goals
    kept += remembered(robot, steps, [k for k in open_ if not still[k]], places)
    needless = _hidden(robot, sums, core, columns)
    needless = needless if needless and observations_tell(robot, steps) else ()
    if needless:
        kept += [k for k in open_ if k not in kept and len(np.unique(obs[:, k])) > 2]
    kept.sort()
    dim = core.shape[1] + len(kept)
    found = [_shifted(column, core.shape[1], len(kept)) for column in columns]
    for k, terms in of_goals.items():
        goal_terms = tuple((core.shape[1] + kept.index(goal), factor) for goal, factor in terms)
        found[k] = replace(found[k], terms=(*(found[k].terms or ()), *goal_terms))
    for place, k in enumerate(kept):
        found[k] = Column(terms=(*(found[k].terms or ()), (core.shape[1] + place, 1.0)))
    for k in (k for k in open_ if k not in kept):
        values = np.unique(obs[:, k])
        if len(values) == 2:
            found[k] = Column(low=float(values[0]), high=float(values[1]), classed=True)
    constant = [core.shape[1] + place for place, k in enumerate(kept) if still[k] or k in hidden_goals]
    fixed = _fixed(robot, steps) + constant
    shown = _pruned(dim, sums, found, (0.0,) * dim)
    left = with_left(shown, tuple(kept), steps.core, steps.obs)
    shown = replace(shown, usual=tuple(np.median(left, 0).tolist()))
    needless = tuple(i for i in needless if i not in fixed)
    return Found(shown, tuple(kept), tuple(fixed), needless)


class _Search:
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
            if error <= _EXACT * np.abs(y[rows]).max() and (best is None or error < best[0]):
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
        near = np.abs(design @ weights - y).max(0) <= 10 * _EXACT * np.abs(y).max(0)
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
        return self._error(column, y, np.ones(len(y), bool)) <= _EXACT * float(np.abs(y).max())

    def _error(self, column: Column, y: np.ndarray, rows: np.ndarray) -> float:
        said = np.full(len(y), column.offset)
        for i, factor in column.terms or ():
            said += factor * self.values[:, i]
        if column.wrapped:
            off = np.abs(said - y)[rows] % (2 * np.pi)
            return float(np.minimum(off, 2 * np.pi - off).max())
        said = np.clip(said, column.low, column.high) if (column.low, column.high) != (None, None) else said
        return float(np.abs(said - y)[rows].max())


def _add_further(
    columns: list[Column],
    of_goals: dict[int, Chain],
    robot: Robot,
    sums: tuple[Chain, ...],
    steps: Recorded,
    goals: list[int],
    late: bool,
) -> None:
    """Add to ``columns`` what shows joints a moment ago, and what shows ``goals`` beside joints.

    Goals are columns that do not change within an episode; ``of_goals`` gets their terms. After a step an env
    may read of a moment ago, at a start it reads of the start.
    """
    open_ = [k for k, column in enumerate(columns) if column.terms is None and k not in goals]
    if not open_:
        return
    dim, (nq, nv) = steps.core.shape[1], robot.sizes[:2]
    taken = range(len(robot.sums) if late else 0, len(sums))
    first = np.append(True, steps.episode[1:] != steps.episode[:-1])
    started = steps.core[first].copy()
    if late:
        started[:, nq : nq + nv] = 0  # so that a moment ago is now
    after = np.concatenate([steps.next_core, steps.next_obs[:, goals]], 1)
    found = _Search(robot, sums, after, taken).columns(steps.next_obs[:, open_])
    starts = _Search(robot, sums, np.concatenate([started, steps.obs[first][:, goals]], 1), taken)
    for k, column in zip(open_, found, strict=True):
        if not column.terms or not starts.holds(column, steps.obs[first, k]):
            continue
        here = tuple(
            (i - len(goals) * (i >= dim), f) for i, f in column.terms if not 0 <= i - dim < len(goals)
        )
        columns[k] = replace(column, terms=here)
        of_goals[k] = tuple((goals[i - dim], f) for i, f in column.terms if 0 <= i - dim < len(goals))


def _add_hidden_goals(
    columns: list[Column], robot: Robot, sums: tuple[Chain, ...], steps: Recorded, late: bool
) -> list[int]:
    """Add to ``columns`` what an episode's own constant is added to, as to what is left to a goal not shown.

    Such columns change within every episode as exact functions of the state do. Returns which they are.
    """
    open_ = [k for k, column in enumerate(columns) if column.terms is None]
    first = np.flatnonzero(np.append(True, steps.episode[1:] != steps.episode[:-1]))
    if not open_ or len(first) < 2:  # the constant of one episode is that of the column
        return []
    lengths = np.diff(first, append=len(steps.episode))

    def since_first(values: np.ndarray) -> np.ndarray:
        return np.asarray(values - np.repeat(values[first], lengths, 0))

    search = _Search(robot, sums, steps.next_core, range(len(robot.sums) if late else 0, len(sums)))
    values = search.values
    search.change(since_first(values))
    started = steps.core[first].copy()
    if late:
        started[:, sum(robot.sizes[:1]) : sum(robot.sizes[:2])] = 0  # so that a moment ago is now
    begun = _Search(robot, sums, started, ()).values
    found = []
    for k, column in zip(open_, search.columns(since_first(steps.next_obs[:, open_])), strict=True):
        plain = (column.low, column.high, column.wrapped, column.offset) == (None, None, False, 0.0)
        if not column.terms or not plain:
            continue
        moved = sum(factor * (begun - values[first])[:, i] for i, factor in column.terms)
        apart = np.abs(steps.obs[first, k] + 0.0 - steps.next_obs[first, k] - moved).max()
        if apart <= _EXACT * np.abs(steps.next_obs[:, k]).max():
            columns[k] = column
            found.append(k)
    return found


def _hidden(
    robot: Robot, sums: tuple[Chain, ...], core: np.ndarray, columns: list[Column]
) -> tuple[int, ...]:
    """Numbers that matter and that nothing shows; none of robots that are seen from a frame of their own."""
    if robot.base is not None or robot.pitch is not None:
        return ()
    shown = _pruned(core.shape[1], sums, columns, ()).numbers
    moving = np.flatnonzero((core != core[0]).any(0)).tolist()
    return tuple(i for i in moving if i not in shown and i not in robot.nowhere)


def _fixed(robot: Robot, steps: Recorded) -> list[int]:
    still = set(np.flatnonzero((steps.next_core == steps.core).all(0)).tolist())
    for at in robot.rotations:
        whole = set(range(at, at + 4))
        if not whole <= still:
            still -= whole
    return sorted(still)


def _shifted(column: Column, dim: int, kept: int) -> Column:
    """Sines and cosines count on behind the core, which kept columns make longer."""
    terms = column.terms and tuple((i + kept * (i >= dim), factor) for i, factor in column.terms)
    return replace(column, terms=terms)


def _pruned(dim: int, sums: tuple[Chain, ...], columns: list[Column], usual: tuple[float, ...]) -> Shown:
    """Only the angles that a column takes."""
    taken = sorted({(i - dim) % len(sums) for c in columns for i, _ in c.terms or () if i >= dim})
    place = {old: new for new, old in enumerate(taken)}

    def renumbered(i: int) -> int:
        if i < dim:
            return i
        kind, old = divmod(i - dim, len(sums))
        return dim + kind * len(taken) + place[old]

    whole = tuple(
        replace(c, terms=c.terms and tuple((renumbered(i), factor) for i, factor in c.terms)) for c in columns
    )
    return Shown(dim, tuple(sums[old] for old in taken), whole, usual)


def _plain(value: float, y: np.ndarray) -> float:
    """A round number where it is as good as that."""
    scale = float(np.abs(y).max())
    for digits in (0, 1, 2, 3, 4):
        if abs(value - round(value, digits)) <= 1e-7 * max(1.0, scale):
            return round(value, digits) + 0.0
    return value
