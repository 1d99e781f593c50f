"""A log beside the robot that a world or a simulator says it is of."""

from __future__ import annotations

import math

from wmgym.data.layouts import difference
from wmgym.data.transitions import Transitions
from wmgym.tasks.task import Task, alike


def refuse_other_robot(log: Transitions, task: Task) -> None:
    """Refuse a log whose states, actions or time step are not those of a task's robot.

    What files hold names no env and has no bounds; there the sizes have to agree.

    Raises:
        ValueError: names what differs.
    """
    own = log.task
    if own.has_env and task.has_env:
        agree = alike(task, own)
    else:
        sizes = [(x.core.dim, x.obs_dim, x.action_dim, type(x.action_space)) for x in (own, task)]
        agree = sizes[0] == sizes[1]
        if agree and not math.isclose(own.dt, task.dt, rel_tol=0.01):
            raise ValueError(
                f"a step of the log takes {own.dt:g} s and one of the simulator {task.dt:g} s; read the log "
                "with from_log(..., dt=), or make the model's env with the log's frame_skip"
            )
    if not agree:
        raise ValueError(f"the log and the simulator are of different robots: {difference(own, task)}")


def refuse_no_log(log: object, verb: str) -> None:
    """Refuse what is no log.

    Raises:
        TypeError: names what makes one.
    """
    if not isinstance(log, Transitions):
        raise TypeError(
            f"{verb} takes a log of the robot, got {type(log).__name__}; make one with wmgym.collect or "
            "wmgym.from_log, or read one with wmgym.Transitions.load"
        )
