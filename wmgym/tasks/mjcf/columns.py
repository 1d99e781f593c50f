"""Which observation columns are exact functions of the physical state: found in recorded steps, and checked.

Tried in turn: a copy, a multiple, a sine or a cosine of one number; the same clipped or wrapped; a sum of a
few of them; how loose bodies are turned and what they feel of their velocity; the last of all for joints as
they were a moment ago. A function counts as exact if it gives back every recorded row to rounding.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wmgym.tasks.mjcf.goals import add_further, add_hidden_goals
from wmgym.tasks.mjcf.memory import Places, Recorded, counts, observations_tell, remembered
from wmgym.tasks.mjcf.mirror import with_left
from wmgym.tasks.mjcf.orientation import COUNT
from wmgym.tasks.mjcf.robot import Chain, Robot
from wmgym.tasks.mjcf.rules import find_remembered
from wmgym.tasks.mjcf.search import NOISE, Parts
from wmgym.tasks.mjcf.shown import Column, Found, Shown

_NEARLY = 0.2  # of the spread of a column


def find_shown(
    robot: Robot,
    steps: Recorded,
    late: tuple[Chain, ...] = (),
    seconds_late: float = 0.0,
    places: Places | None = None,
) -> Found:
    """How observations show the state.

    Where they tell the future as well as the state does, the numbers that they do not show are needless, and
    what they show of these is kept in their place. An arm's hand and what it pushes say more of each other
    than all its joints do.

    Args:
        robot: the model's.
        steps: recorded ones.
        late: ``robot.sums`` as they were a moment ago; none where what an env reads is of its state.
        seconds_late: how long ago.
        places: where the model puts bodies in states.
    """
    core = np.concatenate([steps.core, steps.next_core])
    obs = np.concatenate([steps.obs, steps.next_obs])
    parts = Parts.of(robot, steps.core, steps.next_core, late, seconds_late)
    columns = parts.search(core, oriented=False).columns(obs)
    still, of_goals = (steps.next_obs == steps.obs).all(0), dict[int, Chain]()
    open_ = [k for k, column in enumerate(columns) if column.terms is None and not still[k]]
    if open_ and parts.orientations:
        for k, column in zip(open_, parts.search(core).columns(obs[:, open_]), strict=True):
            columns[k] = column
    _add_after_the_first(columns, parts, steps, still)
    if parts.late:
        add_further(columns, of_goals, parts, steps, [])
    if goals := [k for k, column in enumerate(columns) if column.terms is None and still[k]]:
        add_further(columns, of_goals, parts, steps, goals)
    hidden_goals = add_hidden_goals(columns, parts, steps)
    open_ = [k for k, column in enumerate(columns) if column.terms is None]
    goals = [k for k in open_ if still[k]]
    ruled = find_remembered(steps, [k for k in open_ if not still[k]], goals)
    kept = [*goals, *hidden_goals, *{*ruled.columns, *ruled.sources} - {*goals}]
    kept += remembered(robot, steps, [k for k in open_ if k not in kept], places)
    needless = _hidden(parts, core, columns)
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
    shown = _pruned(dim, parts, found, (0.0,) * dim)
    left = with_left(shown, tuple(kept), steps.core, steps.obs)
    same = tuple(np.flatnonzero(np.ptp(left, axis=0) <= NOISE).tolist())
    shown = replace(shown, usual=tuple(np.median(left, 0).tolist()), constant=same)
    needless = tuple(i for i in needless if i not in fixed)
    free = [(i, k) for i, k in enumerate(kept, core.shape[1]) if i not in fixed and k not in ruled.columns]
    whole = tuple(i for i, k in free if counts(obs[:, k]))
    return Found(shown, tuple(kept), tuple(fixed), needless, ruled.rules(kept), whole)


def _add_after_the_first(columns: list[Column], parts: Parts, steps: Recorded, still: np.ndarray) -> None:
    """Add what an env shows of loose bodies from the first step on, and nearly so at a start.

    There it may have drawn a quaternion that is not of unit length, which MuJoCo mends in its first step.
    """
    open_ = [k for k, column in enumerate(columns) if column.terms is None and not still[k]]
    if not open_ or not parts.robot.rotations:
        return
    begins = parts.search(steps.core)
    for k, column in zip(open_, parts.search(steps.next_core).columns(steps.next_obs[:, open_]), strict=True):
        if column.terms and begins.off(column, steps.obs[:, k]) <= _NEARLY * np.ptp(steps.obs[:, k]):
            columns[k] = column


def _hidden(parts: Parts, core: np.ndarray, columns: list[Column]) -> tuple[int, ...]:
    """Numbers that matter and that nothing shows; none of robots that are seen from a frame of their own."""
    robot = parts.robot
    if robot.base is not None or robot.pitch is not None:
        return ()
    shown = _pruned(core.shape[1], parts, columns, ()).numbers
    moving = np.flatnonzero(np.ptp(core, axis=0) > NOISE).tolist()
    return tuple(i for i in moving if i not in shown and i not in robot.nowhere)


def _fixed(robot: Robot, steps: Recorded) -> list[int]:
    still = set(np.flatnonzero(np.abs(steps.next_core - steps.core).max(0) <= NOISE).tolist())
    for at in robot.rotations:
        whole = set(range(at, at + 4))
        if not whole <= still:
            still -= whole
    return sorted(still)


def _shifted(column: Column, dim: int, kept: int) -> Column:
    """Sines and cosines count on behind the core, which kept columns make longer."""
    terms = column.terms and tuple((i + kept * (i >= dim), factor) for i, factor in column.terms)
    return replace(column, terms=terms)


def _pruned(dim: int, parts: Parts, columns: list[Column], usual: tuple[float, ...]) -> Shown:
    """Only the angles and the orientations that a column takes."""
    sums, first = parts.sums, dim + 2 * len(parts.sums)
    every = {i for column in columns for i, _ in column.terms or ()}
    taken = sorted({(i - dim) % len(sums) for i in every if dim <= i < first})
    oriented = sorted({(i - first) // COUNT for i in every if i >= first})

    def renumbered(i: int) -> int:
        if i >= first:
            old, number = divmod(i - first, COUNT)
            return dim + 2 * len(taken) + COUNT * oriented.index(old) + number
        if i >= dim:
            kind, old = divmod(i - dim, len(sums))
            return dim + kind * len(taken) + taken.index(old)
        return i

    whole = tuple(
        replace(c, terms=c.terms and tuple((renumbered(i), factor) for i, factor in c.terms)) for c in columns
    )
    angles = tuple(sums[old] for old in taken)
    return Shown(dim, angles, whole, usual, tuple(parts.orientations[old] for old in oriented))
