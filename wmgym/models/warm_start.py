"""A fit that goes on from the weights of an earlier one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from wmgym.data.layouts import difference
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.world import WorldModel
from wmgym.tasks.task import Task, alike

SHARE = 1 / 3
"""Of every batch for the newest transitions, where they are fewer."""


def kind(begin: WorldModel, task: Task) -> type[EnsembleMLP]:
    """The class of the networks that the fit goes on from.

    Raises:
        ValueError: they are no ensemble, or of another robot.
    """
    if not isinstance(begin.dynamics, EnsembleMLP):
        raise ValueError(
            f"begin= has dynamics of {type(begin.dynamics).__name__}; a fit goes on from an ensemble alone"
        )
    if not alike(begin.task, task):
        raise ValueError(
            "the data have other states or actions than the world: "
            f"{difference(task, begin.task)}; fit a world of them from the start"
        )
    if (begin.task.reward is None) != (task.reward is None):
        raise ValueError("begin= learned its reward or the data's task does, not both; fit from the start")
    return type(begin.dynamics)


def continued(before: Any) -> EnsembleMLP | None:
    """A copy of networks that learns on from where they are."""
    return copy.deepcopy(before).requires_grad_(True) if isinstance(before, EnsembleMLP) else None


def emphasised(rows: Tensor, first: int) -> Tensor:
    """Rows, those from ``first`` on so often that ``SHARE`` of all is theirs, where it is less."""
    old, new = rows[rows < first], rows[rows >= first]
    times = round(SHARE / (1 - SHARE) * len(old) / max(1, len(new)))
    return torch.cat([old, new.repeat(max(1, times))])
