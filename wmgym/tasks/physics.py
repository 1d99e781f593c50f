"""MuJoCo as a function: many states of one model stepped at once, on all cores, by ``mujoco.rollout``."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import mujoco.rollout
import numpy as np

from wmgym.tasks.ground_truth import to_mujoco
from wmgym.tasks.mjcf.control import Control, Tried, try_control
from wmgym.tasks.mjcf.simulation import PARTS, simulation
from wmgym.tasks.shift import SHIFTED, shift
from wmgym.tasks.task import Task, on_robot
from wmgym.tasks.threads import shares_cores

_MAIN = os.getpid()
_pools: weakref.WeakSet[Any] = weakref.WeakSet()
_of_parent: list[Any] = []
_WORTH_THREADS = 32  # rows; for fewer, waking the threads costs more than they save
_PHYSICS = mujoco.mjtState.mjSTATE_FULLPHYSICS
_GIVEN = {
    "ctrl": int(mujoco.mjtState.mjSTATE_CTRL),
    "mocap_pos": int(mujoco.mjtState.mjSTATE_MOCAP_POS),
    "mocap_quat": int(mujoco.mjtState.mjSTATE_MOCAP_QUAT),
}
_TYPICAL, _WORST = 1e-3, 0.05  # shares of a step's change by which MuJoCo without its warm start may be off

if hasattr(os, "register_at_fork"):  # a child has none of the threads, which a pool that goes waits for
    os.register_at_fork(after_in_child=lambda: _of_parent.extend(_pools))


@dataclass(frozen=True)
class Physics:
    """A task's model, ready to step; threads belong to the process that made them, so a fork makes its own.

    Several threads may step at once. One that shares the cores with others does all of its rows itself.

    Attributes:
        task: whose real env has the model; its drive, where the robot is a changed one, is left out.
        model: the ``mjModel``.
        control: what a step of the env does with an action.
        owner: the process that may use it.
    """

    task: Task
    model: Any
    control: Control
    owner: int
    _rest: np.ndarray
    _datas: list[Any]
    _pool: Any
    _alone: Any
    _own: threading.local = field(default_factory=threading.local)

    @classmethod
    def of(cls, task: Task) -> Physics:
        """The model of a task's real env.

        Of a robot that its own model describes, a few random steps of the env are compared with its model's.

        Raises:
            ValueError: a task without a MuJoCo model, whose env has a drive that delays commands or plays, or
                does something else in a step than to step its model.
        """
        task = _without_noise(task)
        if task.core.to_mujoco is None or task.core.displacement_dim > 3:
            raise ValueError(f"{task.env_id or 'this task'} does not say how its core lies in MuJoCo")
        with contextlib.closing(task.make()) as env:
            found = simulation(env)
            if found is None:
                raise ValueError(f"{type(env.unwrapped).__name__} is no MuJoCo env: it has no model and data")
            change = getattr(env.unwrapped, "shift", None)
            if change is not None and (change.delay or change.backlash):
                raise ValueError(
                    "this robot delays its commands or plays, which a step of its model leaves out"
                )
            tried = try_control(env, task.action_space) if task.core.layout is not None else None
            # An env may compile its model anew at a reset.
            model = (simulation(env) or found)[0]
            control = (
                Control(int(getattr(env.unwrapped, "frame_skip", 1))) if tried is None else tried.control
            )
            made = cls._made(task, model, control)
            if tried is not None:
                made._compare(env, tried)
        return made

    @classmethod
    def _made(cls, task: Task, model: Any, control: Control) -> Physics:
        owner = os.getpid()
        threads = (os.cpu_count() or 1) if owner == _MAIN else 1  # a fork is one of several
        datas = [mujoco.MjData(model) for _ in range(threads)]
        rest = np.empty(mujoco.mj_stateSize(model, _PHYSICS))
        mujoco.mj_getState(model, datas[0], rest, _PHYSICS)
        pool, alone = (mujoco.rollout.Rollout(nthread=count) for count in (threads, 0))
        _pools.add(pool)
        return cls(task, model, control, owner, rest, datas, pool, alone)

    def step(self, core: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One env step of every row.

        Args:
            core: ``(n, core_dim)`` float64.
            action: ``(n, action_dim)``, as networks see it.

        Returns:
            The next cores ``(n, core_dim)`` and the root's displacements ``(n, displacement_dim)``; NaN where
            MuJoCo diverged.
        """
        moved, first = self.task.core.displacement_dim, 1
        initial = self._initial(core)
        states = self._run(self.model, initial, self._given(core, action[:, None]))[:, -1]
        # MuJoCo answers a state that is not finite by a reset, clock included.
        lost = ~np.isclose(states[:, 0], self.control.skip * self.model.opt.timestep)
        states[lost, first:] = np.nan
        return self._cores(core, states), (states - initial)[:, first : first + moved]

    def open_loop(self, core: np.ndarray, action: np.ndarray, model: Any = None) -> np.ndarray:
        """Cores ``(n, steps, core_dim)`` after each step from ``core`` ``(n, core_dim)``.

        Args:
            core: where to start.
            action: ``(n, steps, action_dim)``, as networks see it.
            model: another model of the same robot.
        """
        skip = self.control.skip
        states = self._run(model or self.model, self._initial(core), self._given(core, action))
        return self._cores(core[:, None], states[:, skip - 1 :: skip])

    def _run(self, model: Any, initial: np.ndarray, given: np.ndarray) -> np.ndarray:
        """States ``(n, MuJoCo steps, nstate)``."""
        spec = sum(_GIVEN.values()) if self.model.nmocap else _GIVEN["ctrl"]
        kwargs: dict[str, Any] = {"control_spec": spec}
        if shares_cores() or len(initial) < _WORTH_THREADS:
            states, _ = self._alone.rollout(model, [self._data()], initial, given, **kwargs)
        else:
            states, _ = self._pool.rollout(model, self._datas, initial, given, **kwargs)
        return np.asarray(states)

    def _parts(self, core: np.ndarray) -> dict[str, np.ndarray]:
        """Arrays of ``mjData`` by name."""
        if self.task.core.layout is not None:
            return self.task.core.layout.parts(core)
        return dict(zip(PARTS, to_mujoco(self.task, core), strict=False))

    def _initial(self, core: np.ndarray) -> np.ndarray:
        """Full physics states ``(n, nstate)``."""
        parts = self._parts(core)
        moving = np.concatenate([parts[name] for name in PARTS[:3] if name in parts], 1)
        initial = np.tile(self._rest, (len(core), 1))
        initial[:, 0], initial[:, 1 : 1 + moving.shape[1]] = 0.0, moving
        return initial

    def _given(self, core: np.ndarray, action: np.ndarray) -> np.ndarray:
        """What is set at each MuJoCo step ``(n, MuJoCo steps, k)``, by actions ``(n, steps, action_dim)``."""
        parts = [np.repeat(self.control.of(action), self.control.skip, axis=1)]
        if self.model.nmocap:
            still = self._parts(core)
            steps = parts[0].shape[1]
            parts += [np.repeat(still[name][:, None], steps, 1) for name in ("mocap_pos", "mocap_quat")]
        return np.concatenate(parts, -1)

    def _cores(self, before: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Cores of states ``(..., nstate)``; what MuJoCo does not step stays as in ``before``."""
        nq, nv, na = self.model.nq, self.model.nv, self.model.na
        if self.task.core.layout is None:
            assert self.task.core.from_mujoco is not None
            return self.task.core.from_mujoco(states[..., 1 : 1 + nq], states[..., 1 + nq : 1 + nq + nv])
        moving = states[..., 1 : 1 + nq + nv + na]
        still = np.broadcast_to(before, (*moving.shape[:-1], before.shape[-1]))[..., nq + nv + na :]
        return np.concatenate([moving, still], -1)

    def _compare(self, env: gym.Env[Any, Any], tried: Tried) -> None:
        """Refuse an env whose step is not its model's."""
        size = self.model.nq + self.model.nv + self.model.na
        core = np.zeros((len(tried.states), self.task.core.dim))
        core[:, : tried.states.shape[1]] = tried.states
        said = self.step(core, tried.actions)[0][:, :size]
        changed = (tried.after - tried.states)[:, :size]
        unit = np.maximum(np.sqrt(np.square(changed).mean(0)), 1e-6 * (1 + np.abs(tried.states).max()))
        off = np.abs(said - tried.after[:, :size]) / unit
        shares = np.quantile(np.nan_to_num(off, nan=np.inf), (0.5, 0.9), axis=0)
        wrong = (shares[0] > _TYPICAL) | (shares[1] > _WORST)
        jumps = (np.abs(tried.after - tried.states)[:, size:] > 1e-9).any()
        if wrong.any() or jumps:
            name = "a mocap body" if jumps else self.task.core.names[int(np.argmax(shares[0]))]
            why = f" ({', '.join(tried.besides)} decides it too)" if tried.besides else ""
            raise ValueError(
                f"a step of {type(env.unwrapped).__name__} is more than a step of its model: {name} ends "
                f"elsewhere{why}; take a learned world of it (wmgym.fit) as the simulator"
            )

    def _data(self) -> Any:
        """This thread's ``mjData``."""
        if not hasattr(self._own, "data"):
            self._own.data = mujoco.MjData(self.model)
        return self._own.data


def _without_noise(task: Task) -> Task:
    """The robot with quiet sensors: noise is in what a robot shows, not in what its model steps."""
    kwargs = dict(task.env_kwargs)
    if task.core.layout is not None or task.env_id != SHIFTED or not kwargs.pop("sensor_noise", 0):
        return task
    return on_robot(task, shift(**kwargs))
