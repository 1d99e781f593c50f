"""Data of one robot in the state layout of another collection of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from wmgym.tasks.layout import Core
from wmgym.tasks.mjcf.layout import ModelLayout
from wmgym.tasks.mjcf.mirror import with_left
from wmgym.tasks.real_env import bare
from wmgym.tasks.schema import record_task
from wmgym.tasks.task import Task, with_core

T = TypeVar("T")

READ_AS = (
    "read files in the layout of the env or world, from_log(..., task=world.task), or for an env of your own "
    "task=wmgym.collect(env, steps=500).task"
)


def laid_out(data: T, task: Task) -> T:
    """Transitions in a task's layout, where both are of a robot that its own model describes.

    What observations show, what of them follows the physical state, and which symmetries the robot has, was
    found in each collection apart; of symmetries those stay that both have. Other data, and those of another
    robot, come back as they are.
    """
    found: Any = data
    own, wanted = found.task.core.layout, task.core.layout
    if not (isinstance(own, ModelLayout) and isinstance(wanted, ModelLayout)):
        return data
    if own.sizes != wanted.sizes:
        return data
    if own == wanted:
        shared = _shared(found.task.core, task.core)
        same: T = replace(found, task=with_core(found.task, shared))
        return data if shared is found.task.core else same
    count = sum(wanted.sizes)
    if found.obs.shape[1] != len(wanted.shown.columns):
        return data
    core, next_core = (
        with_left(wanted.shown, wanted.kept, state[:, :count], obs).astype(np.float32)
        for state, obs in ((found.core, found.obs), (found.next_core, found.next_obs))
    )
    told = with_core(found.task, _shared(task.core, found.task.core))
    laid: T = replace(found, task=told, core=core, next_core=next_core)
    return laid


def _shared(core: Core, other: Core) -> Core:
    """A core with those of its symmetries that another one of the same robot has."""
    assert isinstance(core.layout, ModelLayout)
    count = sum(core.layout.sizes)
    held = {(each.core[:count], each.action) for each in other.symmetries}
    kept = tuple(each for each in core.symmetries if (each.core[:count], each.action) in held)
    return core if kept == core.symmetries else replace(core, symmetries=kept)


def settled_as(task: Task, other: Task) -> Task:
    """A task of a robot that its own model describes, in the layout that the other's data told of it.

    Another task, or one that has its layout, comes back as it is.
    """
    robot = task.robot
    if robot is None or other.core.layout is None or other.core.names[: len(robot.names)] != robot.names:
        return task
    core = replace(other.core, symmetries=())  # nothing says that this robot has them too
    return replace(with_core(task, core), robot=None)


def refuse_unlike(log: Task, nominal: Task) -> None:
    """Refuse a log of another robot, or of another time step, than the nominal model's.

    Raises:
        ValueError: names what differs.
    """
    for name in ("observation_space", "action_space", "dt"):
        mine, its = getattr(log, name), getattr(nominal, name)
        if mine != its:
            hint = "; record it at that, or make the model's env with the log's frame_skip" * (name == "dt")
            hint = hint if log.has_env else f"; {READ_AS}"
            raise ValueError(
                f"the log's {name} is {mine}, that of {nominal.env_id or 'the nominal env'} is {its}{hint}"
            )


def same_env(one: Task, other: Task) -> bool:
    """Whether two tasks describe one env, be it with tuples or, after storage, with lists."""
    if one is other:
        return True
    a, b = record_task(one), record_task(other)
    names = ("env_kwargs", "observation_space", "action_space")
    same = bare(a.env_id) == bare(b.env_id) and one.core.dim == other.core.dim
    return same and all(getattr(a, name) == getattr(b, name) for name in names)


def difference(one: Task, other: Task) -> str:
    """In what two tasks that ought to be of one robot differ first, and what to do; for errors."""
    named = ("env_id", "env_kwargs") if one.has_env == other.has_env else ()
    for name in (*named, "observation_space", "action_space", "dt"):
        a, b = getattr(one, name), getattr(other, name)
        if a != b and not (name == "env_id" and bare(a) == bare(b)):
            found = f"{name} {' '.join(str(a).split())} and {' '.join(str(b).split())}"
            break
    else:
        found = f"states {', '.join(one.core.names[:8])} and {', '.join(other.core.names[:8])}"
    if one.has_env and other.has_env:
        return found
    if one.has_env or other.has_env:
        return f"{found}; {READ_AS}"
    return f"{found}; read all logs of one robot with the task of the first: from_log(..., task=first.task)"
