"""Robots with a floating base: Ant, Humanoid and HumanoidStandup.

Positions that MuJoCo reports after a step belong to its last stage of integration, not to the state after it,
so displacements are read from the env and not computed from the core.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from wmgym.tasks.layout import Array, Core, Env, Placement, Symmetry
from wmgym.tasks.mjcf.known import joint_core
from wmgym.tasks.spec import Known, forward_reward, never, unless, within

_FORCES = (("N m",) * 3 + ("N",) * 3) * 13
"""Units of ``cfrc_ext``, the torque and the force on each body."""


def ant(
    *,
    frame_skip: int = 5,
    forward_reward_weight: float = 1.0,
    ctrl_cost_weight: float = 0.5,
    contact_cost_weight: float = 5e-4,
    healthy_reward: float = 1.0,
    main_body: int | str = 1,
    terminate_when_unhealthy: bool = True,
    healthy_z_range: tuple[float, float] = (0.2, 1.0),
    contact_force_range: tuple[float, float] = (-1.0, 1.0),
    exclude_current_positions_from_observation: bool = True,
    include_cfrc_ext_in_observation: bool = True,
) -> Known:
    """Ant-v5: reward for forward speed and survival, minus control and contact cost; ends when unhealthy."""
    dt = 0.01 * frame_skip
    at = 0 if exclude_current_positions_from_observation else 2

    def read_unobserved(env: Env) -> np.ndarray:
        data: Any = env.unwrapped.data  # type: ignore[attr-defined]
        force = np.square(np.clip(data.cfrc_ext, *contact_force_range)).sum()
        return np.array([*data.body(main_body).xpos, force])

    def healthy(state: Array) -> Array:
        height, core = state[..., at], state[..., : 27 + at]
        finite = (abs(core) < float("inf")).all(-1)
        return finite & (healthy_z_range[0] <= height) & (height <= healthy_z_range[1])

    forward = forward_reward(forward_reward_weight, ctrl_cost_weight, dt, healthy_reward, healthy)

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        return forward(state, action, next_state, unobserved) - contact_cost_weight * unobserved[..., 3]

    core = _floating("ant.xml", at, _FORCES * include_cfrc_ext_in_observation, 3, read_unobserved)
    core = replace(core, symmetries=_ant_symmetries(at))
    ends = unless(healthy, terminate_when_unhealthy)
    return Known(core, dt, reward, ends) if contact_cost_weight else Known(_no_force(core), dt, forward, ends)


def humanoid(
    *,
    frame_skip: int = 5,
    forward_reward_weight: float = 1.25,
    ctrl_cost_weight: float = 0.1,
    contact_cost_weight: float = 5e-7,
    contact_cost_range: tuple[float, float] = (-float("inf"), 10.0),
    healthy_reward: float = 5.0,
    terminate_when_unhealthy: bool = True,
    healthy_z_range: tuple[float, float] = (1.0, 2.0),
    **shown: bool,
) -> Known:
    """Humanoid-v5: reward for forward speed and survival, minus control and contact cost; ends in a fall.

    ``shown`` are the keywords that decide what is in the observation.
    """
    dt = 0.003 * frame_skip

    def read_unobserved(env: Env) -> np.ndarray:
        body: Any = env.unwrapped
        mass = body.model.body_mass
        return np.array([*(mass @ body.data.xipos / mass.sum()), _impact(body)])

    core = _humanoid("humanoid.xml", 3, read_unobserved, **shown)
    at = len(core.geometry.free)  # index of the height

    def healthy(state: Array) -> Array:
        return within(state[..., at], healthy_z_range)

    forward = forward_reward(forward_reward_weight, ctrl_cost_weight, dt, healthy_reward, healthy)

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        cost = (contact_cost_weight * unobserved[..., 3]).clip(*contact_cost_range)
        return forward(state, action, next_state, unobserved) - cost

    ends = unless(healthy, terminate_when_unhealthy)
    paid = contact_cost_weight or np.clip(0.0, *contact_cost_range)
    return Known(core, dt, reward, ends) if paid else Known(_no_force(core), dt, forward, ends)


def humanoid_standup(
    *,
    frame_skip: int = 5,
    uph_cost_weight: float = 1.0,  # no effect in Gymnasium 1.4 either
    ctrl_cost_weight: float = 0.1,
    impact_cost_weight: float = 5e-7,
    impact_cost_range: tuple[float, float] = (-float("inf"), 10.0),
    **shown: bool,
) -> Known:
    """HumanoidStandup-v5: reward for the height of the torso, minus control and contact cost; never ends."""
    timestep = 0.003
    core = _humanoid("humanoidstandup.xml", 0, lambda env: np.array([_impact(env.unwrapped)]), **shown)
    at = len(core.geometry.free)  # index of the height

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        impact = (impact_cost_weight * unobserved[..., 0]).clip(*impact_cost_range)
        return next_state[..., at] / timestep - ctrl_cost_weight * (action**2).sum(-1) - impact + 1

    return Known(core, timestep * frame_skip, reward, never)


def _impact(env: Any) -> float:
    return float(np.square(env.data.cfrc_ext).sum())


def _no_force(core: Core) -> Core:
    """Without the contact force, the last unobserved quantity, where nothing is paid for it."""
    read = core.read_unobserved
    assert read is not None
    return replace(core, unobserved_dim=core.unobserved_dim - 1, read_unobserved=lambda env: read(env)[:-1])


def _humanoid(
    xml: str,
    displacement_dim: int,
    read_unobserved: Callable[[Env], np.ndarray],
    *,
    exclude_current_positions_from_observation: bool = True,
    include_cinert_in_observation: bool = True,
    include_cvel_in_observation: bool = True,
    include_qfrc_actuator_in_observation: bool = True,
    include_cfrc_ext_in_observation: bool = True,
) -> Core:
    """Core of both humanoids, which have no symmetry: the left knee is stiffer than the right one."""
    inertia = ("kg m^2",) * 6 + ("kg m",) * 3 + ("kg",)
    shown = inertia * 13 * include_cinert_in_observation
    shown += (("rad/s",) * 3 + ("m/s",) * 3) * 13 * include_cvel_in_observation
    shown += ("N m",) * 17 * include_qfrc_actuator_in_observation
    shown += _FORCES * include_cfrc_ext_in_observation
    at = 0 if exclude_current_positions_from_observation else 2
    return _floating(xml, at, shown, displacement_dim, read_unobserved)


def _placed(*parts: Placement) -> Placement:
    """Placements of one stretch of numbers after the other."""
    found: list[tuple[int, int]] = []
    for part in parts:
        first = len(found)
        found += [(first + source, sign) for source, sign in part]
    return tuple(found)


def _ant_symmetries(at: int) -> tuple[Symmetry, ...]:
    """Quarter turns and reflections; legs are numbered around the torso, hip and ankle of each."""
    ankle = (1, -1, -1, 1)  # the sense in which each bends
    found = []
    for side in (1, -1):  # as it is, and with left and right exchanged: axes turn the other way round
        place: Placement = ((0, 1), (1, side), (2, 1))
        quaternion: Placement = ((0, 1), (1, side), (2, 1), (3, side))
        for quarters in range(4):
            legs = [((leg if side == 1 else 3 - leg) + quarters) % 4 for leg in range(4)]
            joints = tuple(
                each
                for leg, source in enumerate(legs)
                for each in ((2 * source, side), (2 * source + 1, ankle[leg] * ankle[source]))
            )
            # Actions begin with the last leg.
            action = tuple(((source + 2) % 8, sign) for source, sign in (*joints[6:], *joints[:6]))
            x_sign, y_sign = ((1, 1), (1, -1), (-1, -1), (-1, 1))[quarters]
            rates = ((quarters % 2, side * x_sign), ((quarters + 1) % 2, y_sign), (2, side))
            core = _placed(place[:at], ((0, 1),), quaternion, joints)
            core = _placed(core, place, rates, joints)
            found.append(Symmetry(core, action, displacement=place, turn=side * quarters * math.pi / 2))
    return tuple(found[1:])


def _floating(
    xml: str,
    at: int,
    shown: tuple[str, ...],
    displacement_dim: int,
    read_unobserved: Callable[[Env], np.ndarray],
) -> Core:
    """Core ``[qpos[2 - at:], qvel]`` of a free root and hinges; ``at`` is the index of the height.

    ``shown`` are the units of the readouts in the observation.
    """
    return joint_core(
        xml,
        omitted=2 - at,
        moves=displacement_dim,
        shown_dim=len(shown),
        shown_units=shown,
        unobserved_dim=displacement_dim + 1,
        read_unobserved=read_unobserved,
    )
