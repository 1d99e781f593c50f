"""Robots with a floating base: Ant, Humanoid and HumanoidStandup.

Positions that MuJoCo reports after a step belong to its last stage of integration, not to the state after it,
so displacements are read from the env and not computed from the core.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from wmgym.tasks.layout import Array, Core, Env, Geometry, Placement, Symmetry, with_velocities
from wmgym.tasks.spec import Known, never, unless


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

    def forces(env: Any) -> np.ndarray:
        return np.array([np.square(np.clip(env.data.cfrc_ext, *contact_force_range)).sum()])

    def read_unobserved(env: Env) -> np.ndarray:
        ant: Any = env.unwrapped
        return np.concatenate([ant.data.body(main_body).xpos, forces(ant)])

    def healthy(state: Array) -> Array:
        height, core = state[..., at], state[..., : 27 + at]
        finite = (abs(core) < float("inf")).all(-1)
        return finite & (healthy_z_range[0] <= height) & (height <= healthy_z_range[1])

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        paid = forward_reward_weight * unobserved[..., 0] / dt + healthy_reward * healthy(next_state)
        return paid - ctrl_cost_weight * (action**2).sum(-1) - contact_cost_weight * unobserved[..., 3]

    core = _floating(
        _ANT_JOINTS,
        at,
        78 * include_cfrc_ext_in_observation,
        displacement_dim=3,
        read_unobserved=read_unobserved,
        symmetries=_ant_symmetries(at),
    )
    return Known(core, dt, reward, unless(healthy, terminate_when_unhealthy))


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
    exclude_current_positions_from_observation: bool = True,
    include_cinert_in_observation: bool = True,
    include_cvel_in_observation: bool = True,
    include_qfrc_actuator_in_observation: bool = True,
    include_cfrc_ext_in_observation: bool = True,
) -> Known:
    """Humanoid-v5: reward for forward speed and survival, minus control and contact cost; ends in a fall."""
    dt = 0.003 * frame_skip
    at = 0 if exclude_current_positions_from_observation else 2

    def read_unobserved(env: Env) -> np.ndarray:
        body: Any = env.unwrapped
        mass = body.model.body_mass
        return np.concatenate([mass @ body.data.xipos / mass.sum(), _impact(body)])

    def healthy(state: Array) -> Array:
        return (healthy_z_range[0] < state[..., at]) & (state[..., at] < healthy_z_range[1])

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        paid = forward_reward_weight * unobserved[..., 0] / dt + healthy_reward * healthy(next_state)
        cost = (contact_cost_weight * unobserved[..., 3]).clip(*contact_cost_range)
        return paid - ctrl_cost_weight * (action**2).sum(-1) - cost

    shown = _humanoid_readouts(
        include_cinert_in_observation,
        include_cvel_in_observation,
        include_qfrc_actuator_in_observation,
        include_cfrc_ext_in_observation,
    )
    return Known(
        _floating(_HUMANOID_JOINTS, at, shown, displacement_dim=3, read_unobserved=read_unobserved),
        dt,
        reward,
        unless(healthy, terminate_when_unhealthy),
    )


def humanoid_standup(
    *,
    frame_skip: int = 5,
    uph_cost_weight: float = 1.0,  # no effect in Gymnasium 1.4 either
    ctrl_cost_weight: float = 0.1,
    impact_cost_weight: float = 5e-7,
    impact_cost_range: tuple[float, float] = (-float("inf"), 10.0),
    exclude_current_positions_from_observation: bool = True,
    include_cinert_in_observation: bool = True,
    include_cvel_in_observation: bool = True,
    include_qfrc_actuator_in_observation: bool = True,
    include_cfrc_ext_in_observation: bool = True,
) -> Known:
    """HumanoidStandup-v5: reward for the height of the torso, minus control and contact cost; never ends."""
    timestep = 0.003
    at = 0 if exclude_current_positions_from_observation else 2

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        impact = (impact_cost_weight * unobserved[..., 0]).clip(*impact_cost_range)
        return next_state[..., at] / timestep - ctrl_cost_weight * (action**2).sum(-1) - impact + 1

    shown = _humanoid_readouts(
        include_cinert_in_observation,
        include_cvel_in_observation,
        include_qfrc_actuator_in_observation,
        include_cfrc_ext_in_observation,
    )
    core = _floating(
        _HUMANOID_JOINTS,
        at,
        shown,
        displacement_dim=0,
        read_unobserved=lambda env: _impact(env.unwrapped),
    )
    return Known(
        core,
        timestep * frame_skip,
        reward,
        never,
    )


def _impact(env: Any) -> np.ndarray:
    return np.array([np.square(env.data.cfrc_ext).sum()])


def _humanoid_readouts(cinert: bool, cvel: bool, qfrc_actuator: bool, cfrc_ext: bool) -> int:
    return 130 * cinert + 78 * cvel + 17 * qfrc_actuator + 78 * cfrc_ext


_ANT_JOINTS = tuple(f"{joint}_{leg}" for leg in (1, 2, 3, 4) for joint in ("hip", "ankle"))
_HUMANOID_JOINTS = (
    "abdomen_z", "abdomen_y", "abdomen_x", "right_hip_x", "right_hip_z", "right_hip_y", "right_knee",
    "left_hip_x", "left_hip_z", "left_hip_y", "left_knee", "right_shoulder1", "right_shoulder2",
    "right_elbow", "left_shoulder1", "left_shoulder2", "left_elbow",
)  # fmt: skip
_ROOT = (
    "root_x", "root_y", "root_z", "root_quat_w", "root_quat_x", "root_quat_y", "root_quat_z",
)  # fmt: skip
_ROOT_RATES = (
    "root_x", "root_y", "root_z", "root_x_angular", "root_y_angular", "root_z_angular",
)  # fmt: skip

_UPRIGHT = ((0, 1), (1, 1), (2, 1), (3, 1))  # a quaternion as it is
_MIRRORED = ((0, 1), (1, -1), (2, 1), (3, -1))  # left and right, as axes that turn the other way round
_XYZ, _X_Y_Z = ((0, 1), (1, 1), (2, 1)), ((0, 1), (1, -1), (2, 1))


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
    for mirror in (False, True):
        for quarters in range(4):
            legs = [(3 - leg if mirror else leg) for leg in range(4)]
            legs = [(leg + quarters) % 4 for leg in legs]
            # What each leg's hip and ankle take the place of.
            joints: Placement = tuple(
                place
                for leg, source in enumerate(legs)
                for place in (
                    (2 * source, -1 if mirror else 1),
                    (2 * source + 1, ankle[leg] * ankle[source]),
                )
            )
            # Actions begin with the last leg.
            action = tuple(((source + 2) % 8, sign) for source, sign in (*joints[6:], *joints[:6]))
            side = -1 if mirror else 1
            # Quarter turns of the body's x and y axes, then the reflection.
            spin = (((0, 1), (1, 1)), ((1, 1), (0, -1)), ((0, -1), (1, -1)), ((1, -1), (0, 1)))[quarters]
            (x, x_sign), (y, y_sign) = spin
            rates: Placement = ((x, side * x_sign), (y, y_sign), (2, side))
            place = _X_Y_Z if mirror else _XYZ
            pose = _placed(place[:at], ((0, 1),), _MIRRORED if mirror else _UPRIGHT, joints)
            found.append(
                Symmetry(
                    core=_placed(pose, place, rates, joints),
                    action=action,
                    displacement=place,
                    turn=side * quarters * math.pi / 2,
                )
            )
    return tuple(found[1:])


def _floating(
    names: tuple[str, ...],
    at: int,
    shown: int,
    *,
    displacement_dim: int,
    read_unobserved: Any,
    symmetries: tuple[Symmetry, ...] = (),  # the humanoids' left knees are stiffer than their right ones
) -> Core:
    """Core ``[qpos[2 - at:], qvel]`` of a free root and hinges; ``at`` is the index of the height."""
    joints = len(names)
    positions = at + 5 + joints  # where velocities begin
    dim = positions + 6 + joints
    linear = tuple(range(positions, positions + 3))
    moved = [tuple(range(dim, dim + 3))] if displacement_dim else []
    geometry = Geometry(
        dim=dim,
        displacement_dim=displacement_dim,
        free=tuple(range(at)),
        quaternion=at + 1,
        positions=tuple(moved + ([(0, 1, 2)] if at else [])),
        velocities=(linear,),  # the angular velocity is in the body's frame already
    )

    def from_mujoco(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        return np.concatenate([qpos[..., 2 - at :], qvel], -1)

    def to_mujoco(core: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        roots = np.zeros((*core.shape[:-1], 2 - at), core.dtype)
        return np.concatenate([roots, core[..., :positions]], -1), core[..., positions:]

    return Core(
        geometry=geometry,
        observe=lambda state: state,
        from_obs=lambda obs: obs,
        from_mujoco=from_mujoco,
        to_mujoco=to_mujoco,
        shown_dim=shown,
        unobserved_dim=displacement_dim + 1,
        read_unobserved=read_unobserved,
        symmetries=symmetries,
        names=with_velocities((*_ROOT[2 - at :], *names), (*_ROOT_RATES, *names)),
    )
