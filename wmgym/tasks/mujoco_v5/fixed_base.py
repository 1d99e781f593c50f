"""Mechanisms on a fixed base: the pendulums, Reacher and Pusher."""

from __future__ import annotations

import numpy as np

from wmgym.tasks.layout import Array, Core, Geometry, arctan2, cos, joint_core, sin, with_velocities
from wmgym.tasks.spec import Known, never


def inverted_pendulum(*, frame_skip: int = 2) -> Known:
    """InvertedPendulum-v5: reward 1 a step while it is upright; ends when it falls."""

    def fallen(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        return ~(abs(next_state[..., 1]) <= 0.2)  # also true of a NaN, as in the real env

    core = joint_core(Geometry(4), ("slider", "hinge"))
    return Known(core, 0.02 * frame_skip, lambda *step: 1.0 - 1.0 * fallen(*step), fallen)


def inverted_double_pendulum(*, frame_skip: int = 5, healthy_reward: float = 10.0) -> Known:
    """InvertedDoublePendulum-v5: reward for a high and slow tip; ends when the tip is low.

    Unobserved is where MuJoCo reports the tip, x and z in metres.
    """

    def observe(state: Array) -> Array:
        obs = state[..., [0, 1, 2, 1, 2, 3, 4, 5, 6]]
        obs[..., 1:3], obs[..., 3:5] = sin(state[..., 1:3]), cos(state[..., 1:3])
        obs[..., 5:8] = state[..., 3:6].clip(-10, 10)
        return obs

    def from_obs(obs: Array) -> Array:
        state = obs[..., [0, 1, 2, 5, 6, 7, 8]]
        state[..., 1:3] = arctan2(obs[..., 1:3], obs[..., 3:5])
        return state

    def terminated(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        return unobserved[..., 1] <= 1

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        x, y, speed = unobserved[..., 0], unobserved[..., 1], next_state[..., 4:6] ** 2
        alive = healthy_reward * ~terminated(state, action, next_state, unobserved)
        return alive - 0.01 * x**2 - (y - 2) ** 2 - 0.001 * speed[..., 0] - 0.005 * speed[..., 1]

    core = joint_core(
        Geometry(6, angles=(1, 2)),
        ("slider", "hinge", "hinge2"),
        observe=observe,
        from_obs=from_obs,
        shown_dim=1,  # the force of the rail's limits
        unobserved_dim=2,
        read_unobserved=lambda env: np.array(env.unwrapped.data.site_xpos[0][[0, 2]]),
    )
    return Known(core, 0.01 * frame_skip, reward, terminated)


def reacher(
    *, frame_skip: int = 2, reward_dist_weight: float = 1.0, reward_control_weight: float = 1.0
) -> Known:
    """Reacher-v5: reward for a fingertip near the target, minus control cost; never ends."""

    def observe(state: Array) -> Array:
        obs = state[..., [0, 1, 0, 1, 2, 3, 4, 5, 6, 7]]
        obs[..., 0:2], obs[..., 2:4] = cos(state[..., :2]), sin(state[..., :2])
        return obs

    def from_obs(obs: Array) -> Array:
        state = obs[..., [*range(2, 10)]]
        state[..., 0:2] = arctan2(obs[..., 2:4], obs[..., 0:2])
        return state

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        near = reward_dist_weight * (next_state[..., 6:8] ** 2).sum(-1) ** 0.5
        return -near - reward_control_weight * (action**2).sum(-1)

    core = Core(
        geometry=Geometry(6, angles=(0, 1), fixed=(2, 3)),
        observe=observe,
        from_obs=from_obs,
        from_mujoco=lambda qpos, qvel: np.concatenate([qpos, qvel[..., :2]], -1),
        to_mujoco=lambda core: (core[..., :4], _pad(core[..., 4:], 2)),
        shown_dim=2,  # from the target to the fingertip
        joint_limits=((1, -3.0, 3.0),),
        names=with_velocities(("joint0", "joint1", "target_x", "target_y"), ("joint0", "joint1")),
    )
    return Known(core, 0.01 * frame_skip, reward, never)


def pusher(
    *,
    frame_skip: int = 5,
    reward_near_weight: float = 0.5,
    reward_dist_weight: float = 1.0,
    reward_control_weight: float = 0.1,
) -> Known:
    """Pusher-v5: reward for the object near the goal and the hand near the object; never ends.

    The core is 7 joints, the object's y and x, then their velocities; the goal stands still.
    """
    origin = np.array([-0.05, 0.45], np.float32)  # of the object's slides, in world y and x

    def observe(state: Array) -> Array:
        return state[..., [*range(7), *range(9, 16), *range(18, 27)]]

    def from_obs(obs: Array) -> Array:
        state = obs[..., [*range(7), 18, 17, *range(7, 14), 18, 17, *range(14, 23)]]
        state[..., 7] -= float(origin[0])
        state[..., 8] -= float(origin[1])
        state[..., 16:18] = 0  # how fast the object moves is not shown
        return state

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        tip, thing, goal = next_state[..., 18:21], next_state[..., 21:24], next_state[..., 24:27]
        near = ((thing - tip) ** 2).sum(-1) ** 0.5
        far = ((thing - goal) ** 2).sum(-1) ** 0.5
        cost = reward_control_weight * (action**2).sum(-1)
        return -reward_dist_weight * far - cost - reward_near_weight * near

    core = Core(
        geometry=Geometry(18),
        observe=observe,
        from_obs=from_obs,
        from_mujoco=lambda qpos, qvel: np.concatenate([qpos[..., :9], qvel[..., :9]], -1),
        to_mujoco=lambda core: (_pad(core[..., :9], 2), _pad(core[..., 9:], 2)),
        shown_dim=9,  # where the hand, the object and the goal are
        joint_limits=(
            (0, -2.2854, 1.714602), (1, -0.5236, 1.3963), (2, -1.5, 1.7), (3, -2.3213, 0.0), (4, -1.5, 1.5),
            (5, -1.094, 0.0), (6, -1.5, 1.5),
        ),
        names=with_velocities((
            "r_shoulder_pan_joint", "r_shoulder_lift_joint", "r_upper_arm_roll_joint", "r_elbow_flex_joint",
            "r_forearm_roll_joint", "r_wrist_flex_joint", "r_wrist_roll_joint", "obj_slidey", "obj_slidex",
        )),
    )  # fmt: skip
    return Known(core, 0.01 * frame_skip, reward, never)


def _pad(rows: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([rows, np.zeros((*rows.shape[:-1], count), rows.dtype)], -1)
