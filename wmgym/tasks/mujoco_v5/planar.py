"""Robots that move in a plane: HalfCheetah, Hopper, Walker2d and Swimmer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from wmgym.tasks.layout import Array, Core, Env, Foot, Geometry, Link, Placement, Symmetry, with_velocities
from wmgym.tasks.spec import Known, never, unless


def half_cheetah(
    *,
    frame_skip: int = 5,
    forward_reward_weight: float = 1.0,
    ctrl_cost_weight: float = 0.1,
    exclude_current_positions_from_observation: bool = True,
) -> Known:
    """HalfCheetah-v5: reward for forward speed, minus control cost; never ends."""
    dt = 0.01 * frame_skip

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        return forward_reward_weight * unobserved[..., 0] / dt - ctrl_cost_weight * (action**2).sum(-1)

    # Only the root can turn over; the legs have joint limits.
    core = _walking(
        ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"),
        turns_over=True,
        excluded=exclude_current_positions_from_observation,
    )
    return Known(core, dt, reward, never)


def hopper(
    *,
    frame_skip: int = 4,
    forward_reward_weight: float = 1.0,
    ctrl_cost_weight: float = 1e-3,
    healthy_reward: float = 1.0,
    terminate_when_unhealthy: bool = True,
    healthy_state_range: tuple[float, float] = (-100.0, 100.0),
    healthy_z_range: tuple[float, float] = (0.7, float("inf")),
    healthy_angle_range: tuple[float, float] = (-0.2, 0.2),
    exclude_current_positions_from_observation: bool = True,
) -> Known:
    """Hopper-v5: reward for forward speed and survival, minus control cost; ends when unhealthy."""
    dt = 0.002 * frame_skip
    at = 0 if exclude_current_positions_from_observation else 1

    def healthy(state: Array) -> Array:
        height, pitch, rest = state[..., at], state[..., at + 1], state[..., at + 1 :]
        inside = ((healthy_state_range[0] < rest) & (rest < healthy_state_range[1])).all(-1)
        inside = inside & (healthy_z_range[0] < height) & (height < healthy_z_range[1])
        return inside & (healthy_angle_range[0] < pitch) & (pitch < healthy_angle_range[1])

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        forward = forward_reward_weight * unobserved[..., 0] / dt
        return forward + healthy_reward * healthy(next_state) - ctrl_cost_weight * (action**2).sum(-1)

    legs = (((3, 4, 5), (0.26, -0.13)),)
    joints = ("thigh_joint", "leg_joint", "foot_joint")
    core = _walking(joints, legs, clip=10.0, excluded=exclude_current_positions_from_observation)
    return Known(core, dt, reward, unless(healthy, terminate_when_unhealthy))


def walker2d(
    *,
    frame_skip: int = 4,
    forward_reward_weight: float = 1.0,
    ctrl_cost_weight: float = 1e-3,
    healthy_reward: float = 1.0,
    terminate_when_unhealthy: bool = True,
    healthy_z_range: tuple[float, float] = (0.8, 2.0),
    healthy_angle_range: tuple[float, float] = (-1.0, 1.0),
    exclude_current_positions_from_observation: bool = True,
) -> Known:
    """Walker2d-v5: reward for forward speed and survival, minus control cost; ends when unhealthy."""
    dt = 0.002 * frame_skip
    at = 0 if exclude_current_positions_from_observation else 1

    def healthy(state: Array) -> Array:
        height, pitch = state[..., at], state[..., at + 1]
        inside = (healthy_z_range[0] < height) & (height < healthy_z_range[1])
        return inside & (healthy_angle_range[0] < pitch) & (pitch < healthy_angle_range[1])

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        forward = forward_reward_weight * unobserved[..., 0] / dt
        return forward + healthy_reward * healthy(next_state) - ctrl_cost_weight * (action**2).sum(-1)

    legs = (((3, 4, 5), (0.2, 0.0)), ((6, 7, 8), (0.2, 0.0)))
    right, left = (
        tuple(f"{part}{side}_joint" for part in ("thigh", "leg", "foot")) for side in ("", "_left")
    )
    core = _walking((*right, *left), legs, clip=10.0, excluded=exclude_current_positions_from_observation)
    other = dict(zip((*right, *left), (*left, *right), strict=True))
    swapped = Symmetry(_swapped(core.names, other), _swapped((*right, *left), other), displacement=((0, 1),))
    core = replace(core, symmetries=(swapped,))
    return Known(core, dt, reward, unless(healthy, terminate_when_unhealthy))


def swimmer(
    *,
    frame_skip: int = 4,
    forward_reward_weight: float = 1.0,
    ctrl_cost_weight: float = 1e-4,
    exclude_current_positions_from_observation: bool = True,
) -> Known:
    """Swimmer-v5: reward for speed along the x axis, minus control cost; never ends."""
    dt = 0.01 * frame_skip

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        return forward_reward_weight * unobserved[..., 0] / dt - ctrl_cost_weight * (action**2).sum(-1)

    shown = 0 if exclude_current_positions_from_observation else 2
    roots = tuple(range(shown))
    heading, velocity = shown, shown + 3
    geometry = Geometry(
        dim=8 + shown,
        displacement_dim=2,
        free=(*roots, heading),  # the water looks the same everywhere and in every direction
        pitch=(heading, 1),
        positions=((8 + shown, 9 + shown), *([roots] if roots else [])),
        velocities=((velocity, velocity + 1),),
    )
    signs = [*(1, -1)[:shown], -1, -1, -1, 1, -1, -1, -1, -1]  # the other side up
    flipped = Symmetry(
        core=tuple(enumerate(signs)), action=((0, -1), (1, -1)), displacement=((0, 1), (1, -1))
    )
    joints = ("slider1", "slider2", "free_body_rot", "motor1_rot", "motor2_rot")
    core = _planar(geometry, joints, unobserved=2 - shown, moves=2, symmetries=(flipped,))
    return Known(core, dt, reward, never)


def _walking(
    leg_joints: tuple[str, ...],
    legs: tuple[tuple[tuple[int, int, int], tuple[float, float]], ...] = (),
    *,
    excluded: bool,
    turns_over: bool = False,
    clip: float | None = None,
) -> Core:
    """Core of a robot whose root is x, z and a pitch about y.

    Its frame is the world's: gravity tells directions apart and the pitch stays small, so the body's frame
    gains little and costs a tenth of a step. ``legs`` are the joints of each, counted from the root's three,
    and where its foot begins and ends, as Hopper and Walker2d are built.
    """
    at = 0 if excluded else 1  # index of the height
    joints = ("rootx", "rootz", "rooty", *leg_joints)
    n = len(joints)
    geometry = Geometry(
        dim=2 * n - 1 + at,
        displacement_dim=1,
        angles=(at + 1,) if turns_over else (),
        free=() if excluded else (0,),
        root=(at, n - 1 + at, n + at) if legs else None,
        feet=tuple(_foot(joints, end, at, n) for joints, ends in legs for end in ends),
    )
    return _planar(geometry, joints, unobserved=1 - at, moves=1, clip=clip)


def _swapped(names: tuple[str, ...], other: Mapping[str, str]) -> Placement:
    """Places of joints, or of joints and their velocities, where each joint takes the ``other``'s place."""
    other = {**other, **{f"{name}_velocity": f"{twin}_velocity" for name, twin in other.items()}}
    return tuple((names.index(other.get(name, name)), 1) for name in names)


def _foot(joints: tuple[int, int, int], end: float, at: int, n: int) -> Foot:
    """One end of a foot under hip, knee and ankle, which turn against the pitch."""
    hinges = [(2, 1), *((joint, -1) for joint in joints)]  # of torso, thigh, shin and foot
    offsets = [(0.0, -0.2), (0.0, -0.45), (0.0, -0.5), (end, 0.0)]
    links = (
        Link(angle=at + joint - 1, velocity=n - 1 + at + joint, sign=sign, along=along, up=up)
        for (joint, sign), (along, up) in zip(hinges, offsets, strict=True)
    )
    return Foot(radius=0.06, links=tuple(links))


def _planar(
    geometry: Geometry,
    joints: tuple[str, ...],
    *,
    unobserved: int,
    moves: int,
    clip: float | None = None,
    symmetries: tuple[Symmetry, ...] = (),
) -> Core:
    """Core ``[qpos[unobserved:], qvel]`` of ``joints``; the env may clip the velocities it shows."""
    n = len(joints)

    def observe(state: Array) -> Array:
        if clip is None:
            return state
        shown = state.clone() if hasattr(state, "clone") else state.copy()
        shown[..., n - unobserved :] = state[..., n - unobserved :].clip(-clip, clip)
        return shown

    def from_mujoco(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        return np.concatenate([qpos[..., unobserved:], qvel], -1)

    def read_unobserved(env: Env) -> np.ndarray:
        mujoco_env: Any = env.unwrapped
        return np.array(mujoco_env.data.qpos[:moves])

    def to_mujoco(core: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        roots = np.zeros((*core.shape[:-1], unobserved), core.dtype)
        return np.concatenate([roots, core[..., : n - unobserved]], -1), core[..., n - unobserved :]

    return Core(
        geometry=geometry,
        observe=observe,
        from_obs=lambda obs: obs,
        from_mujoco=from_mujoco,
        to_mujoco=to_mujoco,
        unobserved_dim=moves,
        read_unobserved=read_unobserved,
        symmetries=symmetries,
        names=with_velocities(joints[unobserved:], joints),
    )
