"""A robot and a simulator of it, whichever of the two is an env, a log, a model or a world."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wmgym.data.layouts import laid_out, settled_as
from wmgym.data.robot_log import refuse_other_robot
from wmgym.data.transitions import Transitions
from wmgym.io.provenance import Provenance, library_versions
from wmgym.models.residual import MujocoDynamics
from wmgym.models.saving import load
from wmgym.models.world import WorldModel
from wmgym.tasks.layout import Array, Env
from wmgym.tasks.spec import never
from wmgym.tasks.task import Task, make_task, on_robot


@dataclass(frozen=True)
class Sides:
    """The robot as the simulator's task sees it, and the simulator: a world, or a task whose model it is.

    ``driven`` says whether the robot is at hand, and not a log of it alone.
    """

    robot: Task
    given: WorldModel | None
    nominal: Task | None
    driven: bool

    def settled(self, recorded: Task) -> Sides:
        """Both in the layout that data of the robot told, where its model alone says how its state lies."""
        nominal = None if self.nominal is None else settled_as(self.nominal, recorded)
        return replace(self, robot=settled_as(self.robot, recorded), nominal=nominal)

    @property
    def plays(self) -> bool:
        """Whether the simulator can play episodes: MuJoCo alone steps states and knows no readouts."""
        task = self.nominal
        known = task is None or (task.reward is not None and task.terminated is not None)
        return known and (task is None or not task.core.readout_dim)

    def world(self) -> WorldModel:
        """The simulator as a world; where it does not play, one of states alone, whose rewards are NaN."""
        if self.given is not None:
            return self.given
        assert self.nominal is not None
        task = self.nominal if self.plays else _states_alone(self.nominal)
        core = task.core
        high = np.full(core.dim + core.displacement_dim, np.inf, np.float32)
        provenance = Provenance((), 0, "real", library_versions())
        dynamics, starts = MujocoDynamics(self.nominal), np.zeros((1, core.state_dim), np.float32)
        return WorldModel(task, dynamics, starts, -high, high, provenance)

    def filmed(self) -> WorldModel:
        """The simulator as a world whose real env is the robot."""
        task = self.robot if self.plays else _states_alone(self.robot)
        return replace(self.world(), task=task)


def sides(reality: Any, simulator: Any) -> Sides:
    """Both as ``gap`` takes them."""
    given, nominal = None, None
    if isinstance(simulator, WorldModel):
        given = simulator
    elif isinstance(simulator, os.PathLike) or (isinstance(simulator, str) and os.path.isdir(simulator)):
        given = load(simulator)
    else:
        nominal = simulator if isinstance(simulator, Task) else make_task(simulator)
    described = nominal if given is None else given.task
    assert described is not None
    if isinstance(reality, Transitions):
        recorded = reality.task
        robot = on_robot(described, recorded) if recorded.has_env else recorded
        both = Sides(robot, given, nominal, False).settled(recorded)
        task = both.nominal or described
        refuse_other_robot(laid_out(reality, task), task)
        return both
    return Sides(on_robot(described, reality), given, nominal, True)


def _states_alone(task: Task) -> Task:
    """The task without what is not in its core: no readouts, no reward, no end."""
    core = task.core
    moved, more, read = core.displacement_dim, core.shown_dim, core.read_unobserved

    def observe(state: Array) -> Array:
        return core.observe(np.concatenate([state, np.zeros((*state.shape[:-1], more), state.dtype)], -1))

    def place(read: Callable[[Env], np.ndarray]) -> Callable[[Env], np.ndarray]:
        return lambda env: read(env)[:moved]

    def unknown(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        return np.nan * next_state[..., 0]  # nobody knows

    alone = replace(
        core,
        observe=observe,
        shown_dim=0,
        unobserved_dim=moved,
        read_unobserved=place(read) if read is not None and moved else None,
        units=core.units[: core.dim],
    )
    return replace(task, core=alone, reward=unknown, terminated=never, from_table=False)
