"""Transitions of a robot whose own model describes it: what its observation shows is found in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from wmgym.data.columns import in_float32
from wmgym.data.transitions import Transitions
from wmgym.tasks.mjcf.columns import Recorded, find_shown
from wmgym.tasks.mjcf.layout import core_of, settled, unsettled
from wmgym.tasks.mjcf.simulation import simulation
from wmgym.tasks.task import Task, with_core


def by_model(task: Task) -> Task:
    """The task with the state of its MuJoCo model, which ``collect`` records; others as they are."""
    if task.robot is None:
        return task
    return with_core(task, core_of(unsettled(task.robot, task.obs_dim)))


def settle(data: Transitions, columns: Any) -> Transitions:
    """The data with the layout that they tell.

    Args:
        data: of a task that ``by_model`` made.
        columns: its ``steps.Step`` as it was recorded, float64.
    """
    robot, count = data.task.robot, len(data)
    assert robot is not None
    steps = Recorded(
        core=columns.core,
        next_core=columns.next_core,
        obs=np.asarray(columns.obs, np.float64).reshape(count, -1),
        next_obs=np.asarray(columns.next_obs, np.float64).reshape(count, -1),
        action=data.action.reshape(count, -1).astype(np.float64),
        episode=data.episode,
    )
    found = find_shown(robot, steps)
    names = tuple(f"obs_{k}" for k in found.kept)
    core = core_of(settled(robot, found, names, _model(data.task), steps.core))
    taken = list(found.kept)
    return replace(
        data,
        task=replace(with_core(data.task, core), robot=None),
        core=in_float32(np.concatenate([steps.core, steps.obs[:, taken]], 1)),
        next_core=in_float32(np.concatenate([steps.next_core, steps.next_obs[:, taken]], 1)),
    )


def _model(task: Task) -> Any:
    """The compiled model of the real env."""
    env = task.make()
    try:
        found = simulation(env)
        return found and found[0]
    finally:
        env.close()
