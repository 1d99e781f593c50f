"""Robots that move in a plane: HalfCheetah, Hopper, Walker2d and Swimmer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from wmgym.tasks.layout import Array, Core, Foot, Geometry, Link, Placement, Symmetry, joint_core
from wmgym.tasks.spec import Known, forward_reward, never, unless, within


def half_cheetah(
    *,
    frame_skip: int = 5,
    forward_reward_weight: float = 1.0,
    ctrl_cost_weight: float = 0.1,
    exclude_current_positions_from_observation: bool = True,
) -> Known:
    """HalfCheetah-v5: reward for forward speed, minus control cost; never ends."""
    dt = 0.01 * frame_skip
    core = _walking(
        ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"),
        excluded=exclude_current_positions_from_observation,
    )
    return Known(core, dt, forward_reward(forward_reward_weight, ctrl_cost_weight, dt), never)


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
    at = int(not exclude_current_positions_from_observation)

    def healthy(state: Array) -> Array:
        upright = within(state[..., at], healthy_z_range) & within(state[..., at + 1], healthy_angle_range)
        return upright & within(state[..., at + 1 :], healthy_state_range).all(-1)

    core = _walking(
        ("thigh_joint", "leg_joint", "foot_joint"),
        foot=(0.26, -0.13),
        excluded=exclude_current_positions_from_observation,
    )
    reward = forward_reward(forward_reward_weight, ctrl_cost_weight, dt, healthy_reward, healthy)
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
    at = int(not exclude_current_positions_from_observation)

    def healthy(state: Array) -> Array:
        return within(state[..., at], healthy_z_range) & within(state[..., at + 1], healthy_angle_range)

    joints = tuple(f"{part}{side}_joint" for side in ("", "_left") for part in ("thigh", "leg", "foot"))
    core = _walking(joints, foot=(0.2, 0.0), excluded=exclude_current_positions_from_observation)
    swapped = Symmetry(_swapped(core.names), _swapped(joints), displacement=((0, 1),))
    reward = forward_reward(forward_reward_weight, ctrl_cost_weight, dt, healthy_reward, healthy)
    return Known(replace(core, symmetries=(swapped,)), dt, reward, unless(healthy, terminate_when_unhealthy))


def swimmer(
    *,
    frame_skip: int = 4,
    forward_reward_weight: float = 1.0,
    ctrl_cost_weight: float = 1e-4,
    exclude_current_positions_from_observation: bool = True,
) -> Known:
    """Swimmer-v5: reward for speed along the x axis, minus control cost; never ends."""
    dt = 0.01 * frame_skip
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
    core = _planar(geometry, joints, 2 - shown, symmetries=(flipped,))
    return Known(core, dt, forward_reward(forward_reward_weight, ctrl_cost_weight, dt), never)


def _walking(
    leg_joints: tuple[str, ...],
    *,
    excluded: bool,
    foot: tuple[float, ...] = (),
) -> Core:
    """Core of a robot whose root is x, z and a pitch about y.

    Its frame is the world's: gravity tells directions apart and the pitch stays small, so the body's frame
    gains little and costs a tenth of a step. ``foot``, for Hopper and Walker2d, is where the foot of each leg
    of three joints begins and ends; those envs clip the velocities they show, and HalfCheetah can turn over.
    """
    at = 0 if excluded else 1  # index of the height
    joints = ("rootx", "rootz", "rooty", *leg_joints)
    n = len(joints)
    geometry = Geometry(
        dim=2 * n - 1 + at,
        displacement_dim=1,
        angles=() if foot else (at + 1,),
        free=() if excluded else (0,),
        root=(at, n - 1 + at, n + at) if foot else None,
        feet=tuple(_foot(leg, end, at, n) for leg in range(3, n, 3) for end in foot),
    )

    def observe(state: Array) -> Array:
        shown = state.clone() if hasattr(state, "clone") else state.copy()
        shown[..., n - 1 + at :] = state[..., n - 1 + at :].clip(-10.0, 10.0)
        return shown

    return _planar(geometry, joints, 1 - at, **({"observe": observe} if foot else {}))


def _planar(geometry: Geometry, joints: tuple[str, ...], omitted: int, **fields: Any) -> Core:
    """Core whose first joints are where the robot is."""
    moves = geometry.displacement_dim
    return joint_core(
        geometry,
        joints,
        omitted=omitted,
        unobserved_dim=moves,
        read_unobserved=lambda env: np.array(env.unwrapped.data.qpos[:moves]),
        **fields,
    )


def _swapped(names: tuple[str, ...]) -> Placement:
    """Places of joints, or of joints and their velocities, where each takes that of the other leg."""
    right, left = "_joint", "_left_joint"
    other = [name.replace(left, right) if left in name else name.replace(right, left) for name in names]
    return tuple((names.index(name), 1) for name in other)


def _foot(leg: int, end: float, at: int, n: int) -> Foot:
    """One end of a foot under the three joints from ``leg`` on, which turn against the pitch."""
    hinges = ((2, 1), (leg, -1), (leg + 1, -1), (leg + 2, -1))  # of torso, thigh, shin and foot
    offsets = ((0.0, -0.2), (0.0, -0.45), (0.0, -0.5), (end, 0.0))
    links = (
        Link(angle=at + joint - 1, velocity=n - 1 + at + joint, sign=sign, along=along, up=up)
        for (joint, sign), (along, up) in zip(hinges, offsets, strict=True)
    )
    return Foot(radius=0.06, links=tuple(links))
