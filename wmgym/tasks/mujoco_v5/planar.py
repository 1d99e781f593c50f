"""Robots that move in a plane: HalfCheetah, Hopper, Walker2d and Swimmer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from wmgym.tasks.layout import Array, Core, Placement, Symmetry
from wmgym.tasks.mjcf.known import joint_core, shown_as
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
    core = _planar("half_cheetah.xml", exclude_current_positions_from_observation)
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

    core = _walking("hopper.xml", exclude_current_positions_from_observation, "foot_geom")
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

    feet = "foot_geom", "foot_left_geom"
    core = _walking("walker2d_v5.xml", exclude_current_positions_from_observation, *feet)
    joints = tuple(name for name in core.names if name.endswith("_joint"))
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
    signs = [*(1, -1)[:shown], -1, -1, -1, 1, -1, -1, -1, -1]  # the other side up
    flipped = Symmetry(
        core=tuple(enumerate(signs)), action=((0, -1), (1, -1)), displacement=((0, 1), (1, -1))
    )
    core = _planar("swimmer.xml", shown == 0, 2, symmetries=(flipped,))
    return Known(core, dt, forward_reward(forward_reward_weight, ctrl_cost_weight, dt), never)


def _walking(xml: str, excluded: bool, *feet: str) -> Core:
    """Core of Hopper or Walker2d, whose envs clip the velocities that they show.

    Their frame is the world's: gravity tells directions apart and the pitch stays small, so the body's frame
    gains little and costs a tenth of a step; nor does the pitch come round, as HalfCheetah's does.
    """
    dim, first = (11, 5) if len(feet) == 1 else (17, 8)  # and of velocities, without the place along x
    if not excluded:
        dim, first = dim + 1, first + 1
    words = " ".join(f"{i}" if i < first else f"{i}~10" for i in range(dim))
    clipped = shown_as(dim, words)["observe"]
    return _planar(xml, excluded, feet=feet, geometry={"angles": ()}, observe=clipped)


def _planar(xml: str, excluded: bool, moves: int = 1, **fields: Any) -> Core:
    """Core whose first joints are where the robot is, as many as displacements."""
    return joint_core(
        xml,
        omitted=moves if excluded else 0,
        moves=moves,
        unobserved_dim=moves,
        read_unobserved=lambda env: np.array(env.unwrapped.data.qpos[:moves]),
        **fields,
    )


def _swapped(names: tuple[str, ...]) -> Placement:
    """Places of joints, or of joints and their velocities, where each takes that of the other leg."""
    right, left = "_joint", "_left_joint"
    other = [name.replace(left, right) if left in name else name.replace(right, left) for name in names]
    return tuple((names.index(name), 1) for name in other)
