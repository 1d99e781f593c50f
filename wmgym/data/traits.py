"""What transitions tell of a state's numbers: those that stand still, wrap, count, or are there twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wmgym.data.transitions import Transitions
from wmgym.tasks.actions import seen
from wmgym.tasks.geometry import Geometry, Rule
from wmgym.tasks.mjcf.memory import counts
from wmgym.tasks.mjcf.rules import LEAST_ROWS, allowed
from wmgym.tasks.mjcf.search import Linear

_TURNS = (2 * np.pi, 360.0, 2.0)
"""Full turns in radians, degrees and half turns."""

TURN_NAMES = dict(zip(_TURNS, ("2 pi", "360", "2"), strict=True))
_HEAD = 1_000  # rows that settle most questions
_LOOKED_AT = 4_000  # rows, before all
_STARTS = (-0.5, 0.0)  # where an interval of one turn usually begins, in turns


def with_traits(data: Transitions) -> Transitions:
    """The same transitions, of a task whose geometry knows what they tell.

    Only where the observation is the state, as in tasks of which nothing else is known. The model of a robot
    knows better: its joints do not wrap because none turned far in these data.
    """
    core = data.task.core
    known = data.task.from_table or core.layout is not None
    if known or not core.geometry.of_single_numbers or not np.array_equal(data.core, data.obs):
        return data
    return replace(data, task=replace(data.task, core=replace(core, geometry=geometry_of(data))))


def geometry_of(data: Transitions) -> Geometry:
    """The geometry of the task's core, with what the transitions tell.

    - ``fixed``: never changes within an episode, a goal or a load.
    - ``wrapped``: jumps by a full turn, and takes the shorter way round otherwise; or is declared as an angle
      and keeps within one turn.
    - ``whole``: whole numbers of a few values, as flags are.
    - ``copies``: equal to an earlier column in every row.
    - ``rules``: follows from the action, or from what another column was a step before, or counts steps.
    """
    given = data.task.core.geometry
    known = {*given.fixed, *(i for i, _, _ in given.wrapped), *given.whole, *(i for i, _ in given.copies)}
    known |= {rule.number for rule in given.rules}
    every = np.concatenate([data.core, data.next_core])
    still = [int(i) for i in np.flatnonzero((data.core == data.next_core).all(0)) if i not in known]
    free = [i for i in range(given.dim) if i not in {*known, *still, *given.free}]
    wrapped = {i: at for i in free if (at := interval(data, i, i in given.angles)) is not None}
    copies = _copies(every, [i for i in free if i not in wrapped and i not in given.angles])
    others = [i for i in free if i not in wrapped and i not in copies and i not in given.angles]
    rules = _rules(data, others)
    others = [i for i in others if i not in {rule.number for rule in rules}]
    whole = [i for i in others if counts(every[:, i])]
    return replace(
        given,
        angles=tuple(i for i in given.angles if i not in wrapped),
        fixed=tuple(sorted((*given.fixed, *still))),
        wrapped=(*given.wrapped, *((i, *at) for i, at in wrapped.items())),
        whole=(*given.whole, *whole),
        copies=(*given.copies, *copies.items()),
        rules=(*given.rules, *rules),
    )


def interval(data: Transitions, k: int, declared: bool = False) -> tuple[float, float] | None:
    """The ends of the interval that a column is wrapped into; None where it is not.

    A declared angle, in radians, needs no jump to show it.
    """
    column, after = data.core[:, k].astype(np.float64), data.next_core[:, k].astype(np.float64)
    low, high = min(column.min(), after.min()), max(column.max(), after.max())
    turns, least = (_TURNS[:1], 0.0) if declared else (_TURNS, 0.9)
    turn = next((turn for turn in turns if least * turn <= high - low <= 1.001 * turn), None)
    if turn is None:
        return None
    change = np.abs(after - column)
    jumps = change > 0.8 * turn
    if not declared:
        usual = change[~jumps]
        if not jumps.any() or not len(usual) or counts(column):
            return None
        # Nothing lies between steps and jumps, and the shorter way round looks like any other step.
        if usual.max() > 0.4 * turn or (turn - change[jumps]).max() > 3 * np.quantile(usual, 0.99):
            return None
    slack = 0.001 * turn
    for start in (share * turn for share in _STARTS):
        if start - slack <= low and high <= start + turn + slack:
            return start, start + turn
    return float(low), float(low + turn)


def _copies(every: np.ndarray, free: list[int]) -> dict[int, int]:
    """Columns that equal an earlier one, and that one."""
    found: dict[int, int] = {}
    alike: dict[bytes, list[int]] = {}  # in the first rows, which tell nearly all others apart
    for i in free:
        earlier = alike.setdefault(every[:_HEAD, i].tobytes(), [])
        source = next((k for k in earlier if np.array_equal(every[:, k], every[:, i])), None)
        if source is None:
            earlier.append(i)
        else:
            found[i] = source
    return found


def _rules(data: Transitions, free: list[int]) -> list[Rule]:
    """What a step decides by itself: the last action, an observation of the step before, a count of steps.

    Other laws of motion are left to the network, even where they are as simple: they may be others elsewhere.
    """
    if len(data) < LEAST_ROWS:
        return []
    dim, rows = data.core.shape[1], np.linspace(0, len(data) - 1, min(len(data), _LOOKED_AT)).astype(np.int64)
    act = seen(data.task.action_space, data.action[rows])
    core, after = data.core[rows].astype(np.float64), data.next_core[rows].astype(np.float64)
    values = np.concatenate([core, act], 1)
    last = Linear(values, range(dim, values.shape[1]))
    one = Linear(values, range(values.shape[1]), summed=set())
    found = []
    for i in free:
        y = after[:, [i]]
        for column in (one.columns(y)[0], last.columns(y)[0]):
            counts = [number for number, _ in column.terms or ()] == [i]
            if counts and (column.terms != ((i, 1.0),) or not column.offset):
                continue  # a law of its own
            if column.terms and not column.wrapped:
                terms = tuple((n if n < dim else n + dim, factor) for n, factor in column.terms)
                rule = Rule(i, terms, column.offset, column.low, column.high)
                if _holds(data, rule):
                    found.append(rule)
                    break
    return found


def _holds(data: Transitions, rule: Rule) -> bool:
    """Whether a rule of what was before a step gives back every row."""
    after = data.next_core[:, rule.number].astype(np.float64)
    acts = any(i >= 2 * data.core.shape[1] for i, _ in rule.terms)
    said = rule.of(
        data.core, data.next_core, seen(data.task.action_space, data.action) if acts else data.action
    )
    return bool(np.abs(said - after).max() <= allowed(data.core[:, rule.number], after))
