"""MuJoCo as a function: many states of one model stepped at once, on all cores, by ``mujoco.rollout``."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import mujoco.rollout
import numpy as np

from wmgym.tasks.ground_truth import to_mujoco
from wmgym.tasks.mjcf.simulation import simulation
from wmgym.tasks.task import Task
from wmgym.tasks.threads import shares_cores

_MAIN = os.getpid()
_pools: weakref.WeakSet[Any] = weakref.WeakSet()
_of_parent: list[Any] = []
_WORTH_THREADS = 32  # rows; for fewer, waking the threads costs more than they save

if hasattr(os, "register_at_fork"):  # a child has none of the threads, which a pool that goes waits for
    os.register_at_fork(after_in_child=lambda: _of_parent.extend(_pools))


@dataclass(frozen=True)
class Physics:
    """A task's model, ready to step; threads belong to the process that made them, so a fork makes its own.

    Several threads may step at once. One that shares the cores with others does all of its rows itself.

    Attributes:
        task: whose real env has the model; its drive, where the robot is a changed one, is left out.
        model: the ``mjModel``.
        skip: MuJoCo steps of an env step.
        owner: the process that may use it.
    """

    task: Task
    model: Any
    skip: int
    owner: int
    _datas: list[Any]
    _pool: Any
    _alone: Any
    _own: threading.local = field(default_factory=threading.local)

    @classmethod
    def of(cls, task: Task) -> Physics:
        """The model of a task's real env.

        Raises:
            ValueError: not a known MuJoCo task, or its env has a drive that delays commands or plays.
        """
        if task.core.to_mujoco is None or task.core.displacement_dim > 3:
            raise ValueError(f"{task.env_id or 'this task'} does not say how its core lies in MuJoCo")
        with contextlib.closing(task.make()) as env:
            found = simulation(env)
            assert found is not None  # a known MuJoCo task
            model = found[0]
            skip, change = int(getattr(env.unwrapped, "frame_skip", 1)), getattr(env.unwrapped, "shift", None)
        if change is not None and (change.delay or change.backlash):
            raise ValueError("this robot delays its commands or plays, which a step of its model leaves out")
        owner = os.getpid()
        threads = (os.cpu_count() or 1) if owner == _MAIN else 1  # a fork is one of several
        datas = [mujoco.MjData(model) for _ in range(threads)]
        pool, alone = (mujoco.rollout.Rollout(nthread=count) for count in (threads, 0))
        _pools.add(pool)
        return cls(task, model, skip, owner, datas, pool, alone)

    def step(self, core: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One env step of every row.

        Args:
            core: ``(n, core_dim)`` float64.
            action: ``(n, action_dim)``, given to the actuators as they are.

        Returns:
            The next cores ``(n, core_dim)`` and the root's displacements ``(n, displacement_dim)``; NaN where
            MuJoCo diverged.
        """
        model, moved = self.model, self.task.core.displacement_dim
        qpos, qvel = to_mujoco(self.task, core)
        initial = np.zeros((len(core), mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)))
        initial[:, 1 : 1 + model.nq], initial[:, 1 + model.nq : 1 + model.nq + model.nv] = qpos, qvel
        control = np.repeat(np.asarray(action, np.float64)[:, None], self.skip, axis=1)
        if shares_cores() or len(core) < _WORTH_THREADS:
            states, _ = self._alone.rollout(model, [self._data()], initial, control)
        else:
            states, _ = self._pool.rollout(model, self._datas, initial, control)
        after = states[:, -1, 1 : 1 + model.nq + model.nv].copy()
        # MuJoCo answers a state that is not finite by a reset, clock included.
        lost = ~np.isclose(states[:, -1, 0], self.skip * model.opt.timestep)
        after[lost] = np.nan
        assert self.task.core.from_mujoco is not None
        next_core = self.task.core.from_mujoco(after[:, : model.nq], after[:, model.nq :])
        return next_core, after[:, :moved] - qpos[:, :moved]

    def _data(self) -> Any:
        """This thread's ``mjData``."""
        if not hasattr(self._own, "data"):
            self._own.data = mujoco.MjData(self.model)
        return self._own.data
