"""Exact MuJoCo: snapshot and restore a live env, branch from it, run many action sequences at once, render.

A snapshot holds what MuJoCo integrates from (``mjSTATE_INTEGRATION``,
warm start included), the env's elapsed steps, and the quantities that an env reads between two steps and
MuJoCo computes only during one; so whatever follows a ``restore`` is equal to the last bit.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import mujoco.rollout
import numpy as np

from wmgym.tasks.mjcf.simulation import simulation
from wmgym.tasks.real_env import time_limits
from wmgym.tasks.task import Task

_INTEGRATION = mujoco.mjtState.mjSTATE_INTEGRATION
_PHYSICS = mujoco.mjtState.mjSTATE_FULLPHYSICS
_DERIVED = (
    "xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat",
    "subtree_com", "cinert", "cvel", "cfrc_ext", "qfrc_actuator", "qfrc_constraint", "ten_length",
    "ten_velocity", "light_xpos", "light_xdir", "cam_xpos", "cam_xmat",
)  # fmt: skip
_CHUNK_BYTES = 200_000_000


@dataclass(frozen=True)
class Snapshot:
    """All that a MuJoCo env's future depends on.

    Attributes:
        state: ``(nstate,)`` float64, mjSTATE_INTEGRATION.
        derived: what the env may read before the next step computes it anew.
        elapsed: steps counted by the env's time limit; None where it has none.
        held: commands under way in the drive of a changed robot; None where it has none.
    """

    state: np.ndarray
    derived: dict[str, np.ndarray]
    elapsed: int | None
    held: np.ndarray | None = None


@dataclass(frozen=True)
class Inspection:
    """What MuJoCo's kinematics say of ``n`` cores, whoever made them.

    Attributes:
        contact: ``(n, ngeom)`` bool, geoms that another body or the floor pushes.
        penetration: ``(n,)`` metres that the deepest contact reaches into a body.
        limit: ``(n,)`` radians or metres by which the worst joint is past its limits.
        energy: ``(n,)`` joules, potential and kinetic.
        com_velocity: ``(n, 3)`` m/s of the robot's centre of mass; in free flight gravity alone changes it.
        geoms: names of the geoms, in order.
    """

    contact: np.ndarray
    penetration: np.ndarray
    limit: np.ndarray
    energy: np.ndarray
    com_velocity: np.ndarray
    geoms: tuple[str, ...]


class DivergedError(RuntimeError):
    """MuJoCo warned during an open-loop run, or gave numbers that are not finite."""


def snapshot(env: gym.Env[Any, Any]) -> Snapshot:
    """Everything needed to go on from here later.

    Raises:
        ValueError: not a MuJoCo env.
    """
    model, data = _simulation(env)
    state = np.empty(mujoco.mj_stateSize(model, _INTEGRATION))
    mujoco.mj_getState(model, data, state, _INTEGRATION)
    derived = {name: np.array(getattr(data, name)) for name in _DERIVED}
    limits, drive = time_limits(env), getattr(env.unwrapped, "_drive", None)
    held = None if drive is None else drive.held.copy()
    return Snapshot(state, derived, limits[0]._elapsed_steps if limits else None, held)


def restore(env: gym.Env[Any, Any], at: Snapshot) -> None:
    """Put a live env, of the same task and reset at least once, back to a snapshot."""
    model, data = _simulation(env)
    if at.state.shape != (mujoco.mj_stateSize(model, _INTEGRATION),):
        raise ValueError(f"the snapshot has {len(at.state)} numbers and belongs to another model")
    mujoco.mj_setState(model, data, at.state, _INTEGRATION)
    for name, value in at.derived.items():
        getattr(data, name)[...] = value
    drive = getattr(env.unwrapped, "_drive", None)
    if drive is not None and at.held is not None:
        drive.held = at.held.copy()
    limits = time_limits(env)
    if limits and at.elapsed is not None:
        limits[0]._elapsed_steps = at.elapsed  # type: ignore[assignment]


def open_loop(
    task: Task,
    starts: Sequence[Snapshot] | np.ndarray,
    actions: np.ndarray,
    *,
    workers: int | None = None,
) -> np.ndarray:
    """Run many action sequences open loop, on all cores, through ``mujoco.rollout``.

    Terminations and time limits do not stop it. Bit-equal to the env's own steps from snapshots; from cores
    MuJoCo's warm start is missing, which matters little.

    Args:
        task: a known MuJoCo task.
        starts: ``n`` snapshots, or cores ``(n, core_dim)``.
        actions: ``(n, steps, action_dim)``, given to the actuators as they are.
        workers: threads; None uses every core.

    Returns:
        Cores after each step ``(n, steps, core_dim)`` float64.

    Raises:
        DivergedError: a state that is not finite; MuJoCo would have reset it silently.
        ValueError: not a known MuJoCo task.
    """
    with contextlib.closing(task.make()) as env:
        model, data = _simulation(env)
        skip = int(getattr(env.unwrapped, "frame_skip", 1))
        initial, warmstart = _initial(task, model, data, starts)
        datas = [data, *(mujoco.MjData(model) for _ in range((workers or os.cpu_count() or 1) - 1))]
        assert task.core.from_mujoco is not None
        count, steps = actions.shape[:2]
        size = max(1, _CHUNK_BYTES // (8 * initial.shape[1] * steps * skip))
        cores = np.empty((count, steps, task.core.dim))
        with mujoco.rollout.Rollout(nthread=len(datas)) as pool:
            for at in range(0, count, size):
                rows = slice(at, at + size)
                control = np.repeat(np.asarray(actions[rows], np.float64), skip, axis=1)
                states, _ = pool.rollout(
                    model, datas, initial[rows], control, initial_warmstart=warmstart[rows]
                )
                # MuJoCo answers a state that is not finite by a reset, clock included.
                late = initial[rows, 0] + steps * skip * model.opt.timestep
                if not (np.isfinite(states).all() and np.allclose(states[:, -1, 0], late)):
                    raise DivergedError("the run became unstable; limit its actions or its start states")
                ends = states[:, skip - 1 :: skip, 1:]  # qpos and qvel follow the time
                qpos, qvel = ends[..., : model.nq], ends[..., model.nq : model.nq + model.nv]
                cores[rows] = task.core.from_mujoco(qpos, qvel)
    return cores


def inspect(task: Task, cores: np.ndarray) -> Inspection:
    """Put each core ``(n, core_dim)`` into MuJoCo and look: contacts, penetration, joint limits, energy."""
    with contextlib.closing(task.make()) as env:
        model, data = _simulation(env)
        limited = np.flatnonzero(model.jnt_limited)
        limited = limited[model.jnt_type[limited] >= int(mujoco.mjtJoint.mjJNT_SLIDE)]  # slides and hinges
        low, high = model.jnt_range[limited].T
        count = len(cores)
        contact = np.zeros((count, model.ngeom), bool)
        penetration, limit, energy = np.zeros(count), np.zeros(count), np.zeros(count)
        com_velocity = np.zeros((count, 3))
        for row, core in enumerate(cores):
            put(task, model, data, core)
            mujoco.mj_fwdPosition(model, data)
            mujoco.mj_fwdVelocity(model, data)
            mujoco.mj_energyPos(model, data)
            mujoco.mj_energyVel(model, data)
            mujoco.mj_subtreeVel(model, data)
            energy[row], com_velocity[row] = data.energy.sum(), data.subtree_linvel[0]
            # Within their margin geoms push each other before they meet; Ant's feet stand there.
            pushing = data.contact.dist < data.contact.includemargin
            contact[row, data.contact.geom[pushing].ravel()] = True
            penetration[row] = max(0.0, -data.contact.dist.min(initial=0.0))
            at = data.qpos[model.jnt_qposadr[limited]]
            limit[row] = np.maximum(low - at, at - high).max(initial=0.0)
        names = tuple(model.geom(i).name or f"geom{i}" for i in range(model.ngeom))
    return Inspection(contact, penetration, limit, energy, com_velocity, names)


def to_mujoco(task: Task, core: np.ndarray, place: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """``qpos`` and ``qvel`` of cores ``(..., core_dim)``; ``place`` gives the coordinates that they omit."""
    if task.core.to_mujoco is None:
        raise ValueError(f"{task.env_id or 'this task'} does not say how its core lies in MuJoCo")
    qpos, qvel = task.core.to_mujoco(core)
    omitted = qpos.shape[-1] + qvel.shape[-1] - task.core.dim
    if place is not None and task.core.displacement_dim:
        count = min(omitted, len(place))
        qpos = qpos.copy()
        qpos[..., :count] = place[:count]
    return qpos, qvel


def put(task: Task, model: Any, data: Any, core: np.ndarray, place: np.ndarray | None = None) -> None:
    """Write a core ``(core_dim,)`` into ``mjData``; what it does not hold stays as it is."""
    if task.core.layout is not None:
        for name, values in task.core.layout.parts(np.asarray(core, np.float64)).items():
            getattr(data, name)[...] = values.reshape(getattr(data, name).shape)
        mujoco.mj_normalizeQuat(model, data.qpos)
        return
    data.qpos[:], data.qvel[:] = to_mujoco(task, np.asarray(core, np.float64), place)


def _simulation(env: gym.Env[Any, Any]) -> tuple[Any, Any]:
    found = simulation(env)
    if found is None:
        raise ValueError(f"{type(env.unwrapped).__name__} is no MuJoCo env: it has no model and data")
    return found


def _initial(
    task: Task, model: Any, data: Any, starts: Sequence[Snapshot] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Full physics states ``(n, nstate)`` and warm starts ``(n, nv)``."""
    initial = np.empty((len(starts), mujoco.mj_stateSize(model, _PHYSICS)))
    warmstart = np.zeros((len(starts), model.nv))
    mujoco.mj_resetData(model, data)
    for row, warm, start in zip(initial, warmstart, starts, strict=True):
        if isinstance(start, Snapshot):
            mujoco.mj_setState(model, data, start.state, _INTEGRATION)
            warm[:] = data.qacc_warmstart
        else:
            put(task, model, data, start)
        mujoco.mj_getState(model, data, row, _PHYSICS)
    return initial, warmstart
