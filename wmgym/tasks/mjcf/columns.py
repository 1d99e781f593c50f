"""Which observation columns are exact functions of the physical state: found in recorded steps, and checked.

Tried in turn: a copy, a multiple, a sine or a cosine of one number; the same clipped or wrapped; a sum of a
few of them; the last of all for joints as they were a moment ago. A function counts as exact if it gives back
every recorded row to rounding.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wmgym.tasks.mjcf.goals import add_further, add_hidden_goals
from wmgym.tasks.mjcf.memory import Places, Recorded, observations_tell, remembered
from wmgym.tasks.mjcf.robot import Chain, Robot
from wmgym.tasks.mjcf.search import Search
from wmgym.tasks.mjcf.shown import Column, Found, Shown, with_left


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
    columns = Search(robot, sums, core, range(len(robot.sums))).columns(obs)
    still, of_goals = (steps.next_obs == steps.obs).all(0), dict[int, Chain]()
    if late is not None:
        add_further(columns, of_goals, robot, sums, steps, [], late=True)
    if goals := [k for k, column in enumerate(columns) if column.terms is None and still[k]]:
        add_further(columns, of_goals, robot, sums, steps, goals, late=late is not None)
    hidden_goals = add_hidden_goals(columns, robot, sums, steps, late=late is not None)
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
