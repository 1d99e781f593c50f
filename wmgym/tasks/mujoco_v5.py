"""The Gymnasium MuJoCo v5 tasks: one entry each, mirrored from their documented formulas.

Defaults are Gymnasium 1.4's. A keyword that changes the physics, the observation or the reward in a way no
entry describes raises ``UnknownOptionError``; the caller then falls back to learned heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from wmgym.tasks.known import Array, Core, Known

_WITHOUT_EFFECT = {
    "render_mode", "width", "height", "camera_id", "camera_name", "default_camera_config", "max_geom",
    "visual_options", "reset_noise_scale", "max_episode_steps", "disable_env_checker",
}  # fmt: skip


class UnknownOptionError(ValueError):
    """A keyword of the real env that the table has no formula for."""


def lookup(env_id: str, env_kwargs: Mapping[str, Any]) -> Known | None:
    """What is known of ``gym.make(env_id, **env_kwargs)``, or None for an id outside the table.

    Raises:
        UnknownOptionError: the id is known but one of its keywords is not described here.
    """
    build = _TABLE.get(env_id)
    if build is None:
        return None
    options = {key: value for key, value in env_kwargs.items() if key not in _WITHOUT_EFFECT}
    try:
        return build(**options)
    except TypeError:
        raise UnknownOptionError(
            f"{env_id} is known, but not with {sorted(options)}; its reward and termination will be learned"
        ) from None


def _inverted_pendulum(*, frame_skip: int = 2) -> Known:
    def fallen(core: Array, action: Array, next_core: Array) -> Array:
        return ~(abs(next_core[..., 1]) <= 0.2)  # also true of a NaN, as in the real env

    return Known(
        core=_planar_core(4, hidden=0),
        dt=0.02 * frame_skip,
        reward=lambda core, action, next_core, displacement: 1.0 - 1.0 * fallen(core, action, next_core),
        terminated=fallen,
    )


def _half_cheetah(
    *, frame_skip: int = 5, forward_reward_weight: float = 1.0, ctrl_cost_weight: float = 0.1
) -> Known:
    dt = 0.01 * frame_skip

    def reward(core: Array, action: Array, next_core: Array, displacement: Array) -> Array:
        forward = forward_reward_weight * displacement[..., 0] / dt
        return forward - ctrl_cost_weight * (action**2).sum(-1)

    return Known(
        core=_planar_core(17, hidden=1, angles=(1,)),  # only the root can turn over; the legs have stops
        dt=dt,
        reward=reward,
        terminated=lambda core, action, next_core: _never(next_core),
    )


def _hopper(
    *,
    frame_skip: int = 4,
    forward_reward_weight: float = 1.0,
    ctrl_cost_weight: float = 1e-3,
    healthy_reward: float = 1.0,
    terminate_when_unhealthy: bool = True,
    healthy_state_range: tuple[float, float] = (-100.0, 100.0),
    healthy_z_range: tuple[float, float] = (0.7, float("inf")),
    healthy_angle_range: tuple[float, float] = (-0.2, 0.2),
) -> Known:
    dt = 0.002 * frame_skip

    def healthy(core: Array) -> Array:
        height, pitch, rest = core[..., 0], core[..., 1], core[..., 1:]
        inside = ((healthy_state_range[0] < rest) & (rest < healthy_state_range[1])).all(-1)
        inside = inside & (healthy_z_range[0] < height) & (height < healthy_z_range[1])
        return inside & (healthy_angle_range[0] < pitch) & (pitch < healthy_angle_range[1])

    def reward(core: Array, action: Array, next_core: Array, displacement: Array) -> Array:
        forward = forward_reward_weight * displacement[..., 0] / dt
        survive = healthy_reward * healthy(next_core)
        return forward + survive - ctrl_cost_weight * (action**2).sum(-1)

    def terminated(core: Array, action: Array, next_core: Array) -> Array:
        return ~healthy(next_core) if terminate_when_unhealthy else _never(next_core)

    return Known(_planar_core(11, hidden=1, velocity_from=5, clip=10.0), dt, reward, terminated)


def _planar_core(
    dim: int,
    *,
    hidden: int,
    angles: tuple[int, ...] = (),
    velocity_from: int = 0,
    clip: float | None = None,
) -> Core:
    """Core ``[qpos[hidden:], qvel]``; the env may clip the velocities it shows."""

    def observe(core: Array) -> Array:
        if clip is None:
            return core
        shown = core.clone() if hasattr(core, "clone") else core.copy()
        shown[..., velocity_from:] = shown[..., velocity_from:].clip(-clip, clip)
        return shown

    def read(env: gym.Env[Any, Any]) -> np.ndarray:
        mujoco_env: Any = env.unwrapped
        return np.concatenate([mujoco_env.data.qpos[hidden:], mujoco_env.data.qvel])

    def position(env: gym.Env[Any, Any]) -> np.ndarray:
        mujoco_env: Any = env.unwrapped
        return np.array(mujoco_env.data.qpos[:hidden])

    return Core(
        dim=dim,
        observe=observe,
        from_obs=lambda obs: obs,
        read=read,
        angles=angles,
        displacement_dim=hidden,
        position=position if hidden else None,
    )


def _never(core: Array) -> Array:
    return core[..., 0] != core[..., 0]  # False everywhere, of the caller's array kind


_TABLE: dict[str, Callable[..., Known]] = {
    "InvertedPendulum-v5": _inverted_pendulum,
    "HalfCheetah-v5": _half_cheetah,
    "Hopper-v5": _hopper,
}
