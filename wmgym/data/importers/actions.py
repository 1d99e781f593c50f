"""What the actions of a log are: kinds of action that are numbered, or quantities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces

from wmgym.data.importers.rows import Rows
from wmgym.data.importers.runs import Run
from wmgym.tasks.actions import ActionSpace, plain

_MOST_KINDS = 32  # more different numbers are settings of a finely stepped actuator


def numbers_kinds(rows: Sequence[Rows]) -> bool:
    """Whether the one action column numbers kinds of action, whatever type of number the files hold.

    Kinds are whole numbers that count from 0 or 1, most of which occur. Others, such as -1 and 1 or 0 and
    255, are quantities: between them are actions too, and none of those was ever tried.
    """
    found = _whole(rows)
    if found is None or len(found) != 1:
        return False
    low, high = int(found[0].min()), int(found[0].max())
    return low in (0, 1) and high - low < _MOST_KINDS and 2 * len(found[0]) > high - low + 1


def space_of(runs: Sequence[Run], discrete: bool) -> ActionSpace:
    """The range of the data: a Discrete of numbered kinds, else a Box.

    Raises:
        ValueError: an action that never changes.
    """
    low, high = (f([f(run.action, axis=0) for run in runs], axis=0) for f in (np.min, np.max))
    if not discrete:
        low, high = low.astype(np.float32), high.astype(np.float32)
    if (low == high).any():
        k = int(np.argmax(low == high))
        raise ValueError(
            f"action {k} is {low[k]:g} in every row: what it does cannot be learned; leave its column out"
        )
    if discrete:
        return spaces.Discrete(int(high[0] - low[0]) + 1, start=int(low[0]))
    return spaces.Box(low, high, dtype=np.float32)


def note(space: ActionSpace, rows: Sequence[Rows], declared: str | None, labels: Sequence[str]) -> str:
    """What actions are taken as, why, and how to have it otherwise.

    Args:
        space: of the task.
        rows: of every table.
        declared: who said so; None where the data did.
        labels: of actions that were text.
    """
    kind = "Box" if isinstance(space, spaces.Box) else plain(space)
    if declared is not None or labels:
        return f"{kind}, {declared or 'of labels'}"
    found = _whole(rows)
    if found is None:
        return f"{kind}, the range of the data; action_space= gives actuators' limits"
    low, high = (np.array([f(each) for each in found], np.int64) for f in (np.min, np.max))
    told = ", ".join(f"{a} to {b}" for a, b in zip(low[:4], high[:4], strict=True)) + ", ..." * (len(low) > 4)
    if isinstance(space, spaces.Discrete):
        box = f"Box({low[0]}, {high[0]}, (1,))"
        return f"{kind}, for whole numbers {told}; if they are quantities, pass action_space={box}"
    sizes, start = (high - low + 1).tolist(), low.tolist()
    other = (
        f"Discrete({sizes[0]}, start={start[0]})"
        if len(sizes) == 1
        else f"MultiDiscrete({sizes}, start={start})"
    )
    return f"{kind}, for whole numbers {told}; if they number kinds of action, pass action_space={other}"


def _whole(rows: Sequence[Rows]) -> list[np.ndarray] | None:
    """The different numbers of every action column where all are whole, else None."""
    columns = np.concatenate([each.action for each in rows]).T
    known = [column[np.isfinite(column)] for column in columns]
    if any((column != np.rint(column)).any() or not len(column) for column in known):
        return None
    return [np.unique(column) for column in known]
