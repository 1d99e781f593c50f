"""Where bodies are, and how far behind its state the places are that an env reads of its simulation.

A step of MuJoCo works out where bodies are and what they touch, then forces, then moves the joints. What an
env reads afterwards of places, contacts and sensors is of before that move, unless it calls ``mj_forward``.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

from wmgym.tasks.mjcf.model import PHYSICAL
from wmgym.tasks.mjcf.robot import Chain
from wmgym.tasks.mjcf.simulation import physical_state, simulation

_TRIED = 8  # steps
_SAME = 1e-9  # metres, and shares of a turn


def seconds_late(env: gym.Env[Any, Any]) -> float:
    """Seconds by which what a live MuJoCo env reads lags behind its joints: a time step of MuJoCo, or none.

    None also where the places are of no single moment, as those of the Runge-Kutta integrator.
    """
    late, timestep = False, 0.0
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(_TRIED):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        found = simulation(env)
        assert found is not None  # the caller has seen its model
        timestep = float(found[0].opt.timestep)
        if not _places_are(*found, 0.0):
            late = True
            if not _places_are(*found, timestep):
                return 0.0
        if terminated or truncated:
            env.reset()
    return timestep if late else 0.0


def late_chains(model: Any, chains: tuple[Chain, ...], late: float) -> tuple[Chain, ...]:
    """Angles of parts against the world as they were ``late`` seconds ago."""
    joint = {
        int(at): int(model.nq + dof) for at, dof in zip(model.jnt_qposadr, model.jnt_dofadr, strict=True)
    }
    return tuple((*chain, *((joint[i], -late * sign) for i, sign in chain)) for chain in chains)


def places(model: Any, states: np.ndarray, ago: float) -> np.ndarray:
    """Places and axes of all bodies ``(n, k)`` in physical states ``(n, dim)``, or so many seconds before.

    What is fixed to a body, such as a site, is at a sum of these.
    """
    data, found = mujoco.MjData(model), np.empty((len(states), 12 * (model.nbody - 1)))
    for row, state in zip(found, states, strict=True):
        mujoco.mj_setState(model, data, state, PHYSICAL)
        _place(model, data, ago)
        row[:] = np.concatenate([data.xpos[1:].reshape(-1), data.xmat[1:].reshape(-1)])
    return found[:, np.ptp(found, axis=0) > _SAME]


def _place(model: Any, data: Any, ago: float) -> None:
    mujoco.mj_integratePos(model, data.qpos, data.qvel, -ago)
    mujoco.mj_kinematics(model, data)


def _places_are(model: Any, data: Any, ago: float) -> bool:
    """Whether the places in ``data`` are those of its joints so many seconds ago."""
    then = mujoco.MjData(model)
    mujoco.mj_setState(model, then, physical_state(data), PHYSICAL)
    _place(model, then, ago)
    return bool(
        np.abs(then.xpos - data.xpos).max() <= _SAME * max(1.0, float(np.abs(data.xpos).max()))
        and np.abs(then.xmat - data.xmat).max() <= _SAME
    )
