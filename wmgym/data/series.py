"""The columns of a log by name, as transitions hold them or as the rows of files do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from wmgym.data.transitions import Transitions
from wmgym.tasks import actions


@dataclass(frozen=True)
class Series:
    """Columns ``(n,)`` of a log, of steps or of the rows of its files.

    Attributes:
        obs: by name.
        action: by name; none where actions are whole numbers.
        reward: or None.
        terminated: bool.
        begins: bool, rows in which an episode begins.
        where: what to call a row.
    """

    obs: Mapping[str, np.ndarray]
    action: Mapping[str, np.ndarray]
    reward: np.ndarray | None
    terminated: np.ndarray
    begins: np.ndarray
    where: Callable[[int], str]


def series(data: Transitions) -> Series:
    """The columns of transitions."""
    names = data.task.core.names
    if len(names) != data.obs.shape[1]:
        names = tuple(f"obs_{k}" for k in range(data.obs.shape[1]))
    acted = () if actions.whole(data.task.action_space) else data.action.T
    return Series(
        obs=dict(zip(names, data.obs.T, strict=True)),
        action={f"action_{k}": column for k, column in enumerate(acted)},
        reward=data.reward,
        terminated=data.terminated,
        begins=np.diff(data.episode, prepend=-1) != 0,
        where=lambda row: f"row {row}",
    )
