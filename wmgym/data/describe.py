"""Transitions of a robot whose own model describes it: what its observation shows is found in them."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from wmgym.data.columns import in_float32
from wmgym.data.transitions import Transitions
from wmgym.tasks.actions import seen
from wmgym.tasks.layout import Core, Symmetry
from wmgym.tasks.mjcf.columns import find_shown
from wmgym.tasks.mjcf.layout import core_of, settled, unsettled
from wmgym.tasks.mjcf.memory import Recorded
from wmgym.tasks.mjcf.mirror import with_left
from wmgym.tasks.mjcf.robot import Robot
from wmgym.tasks.mjcf.rules import mirrored
from wmgym.tasks.mjcf.shown import Found
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
        action=seen(data.task.action_space, data.action),
        episode=data.episode,
    )
    with contextlib.closing(data.task.make()) as env:
        core, found = _core(data.task, env, robot, steps)
    before, after = (
        in_float32(with_left(found.shown, found.kept, states, obs))
        for states, obs in ((steps.core, steps.obs), (steps.next_core, steps.next_obs))
    )
    # A constant of the episode: a start that was read as it is would tell another one than the steps do.
    constant = [i for i in found.fixed if i >= steps.core.shape[1]]
    before[:, constant] = after[:, constant]
    return replace(
        data,
        task=replace(with_core(data.task, core), robot=None),
        core=before,
        next_core=after,
    )


def _core(task: Task, env: Any, robot: Robot, steps: Recorded) -> tuple[Core, Found]:
    """The core that the steps, and the compiled model of the real env, tell; and how observations show it."""
    live = simulation(env)
    if live is None:
        found = find_shown(robot, steps)
        return core_of(settled(robot, found, _names(found))), found
    from wmgym.tasks.mjcf.places import late_chains, places, seconds_late  # imports MuJoCo

    late = seconds_late(env)
    chains = late_chains(live[0], robot.sums, late) if late else ()
    found = find_shown(robot, steps, chains, late, partial(places, live[0], ago=late))
    core = core_of(settled(robot, found, _names(found), live[0], steps.core, late))
    return replace(core, symmetries=_symmetries(task, env, found, steps.core)), found


def _names(found: Found) -> tuple[str, ...]:
    return tuple(f"obs_{k}" for k in found.kept)


def _symmetries(task: Task, env: Any, found: Found, states: np.ndarray) -> tuple[Symmetry, ...]:
    from wmgym.tasks.mjcf.symmetries import find_symmetries  # imports MuJoCo

    dim, still = states.shape[1] + len(found.kept), {i for i in found.fixed if i >= states.shape[1]}
    if set(range(states.shape[1], dim)) - still - {rule.number for rule in found.rules}:
        return ()  # nothing says how a mirrored env would remember what it does
    with warnings.catch_warnings(action="ignore"):
        try:
            every = find_symmetries(env, task.action_space, states, frozenset(found.fixed))
        except Exception:  # of an env that cannot be where its own steps have not led
            return ()
    kept = ((each, mirrored(found.rules, dim, each.core, each.action, still)) for each in every)
    return tuple(replace(each, core=(*each.core, *more)) for each, more in kept if more is not None)
