"""Mechanisms on a fixed base: the pendulums, Reacher and Pusher."""

from __future__ import annotations

import numpy as np

from wmgym.tasks.layout import Array
from wmgym.tasks.mjcf.known import joint_core, shown_as
from wmgym.tasks.spec import Known, never


def inverted_pendulum(*, frame_skip: int = 2) -> Known:
    """InvertedPendulum-v5: reward 1 a step while it is upright; ends when it falls."""

    def fallen(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        return ~(abs(next_state[..., 1]) <= 0.2)  # also true of a NaN, as in the real env

    core = joint_core("inverted_pendulum.xml")
    return Known(core, 0.02 * frame_skip, lambda *step: 1.0 - 1.0 * fallen(*step), fallen)


def inverted_double_pendulum(*, frame_skip: int = 5, healthy_reward: float = 10.0) -> Known:
    """InvertedDoublePendulum-v5: reward for a high and slow tip; ends when the tip is low.

    Unobserved is where MuJoCo reports the tip, x and z in metres.
    """

    def terminated(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        return unobserved[..., 1] <= 1

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        x, y, speed = unobserved[..., 0], unobserved[..., 1], next_state[..., 4:6] ** 2
        alive = healthy_reward * ~terminated(state, action, next_state, unobserved)
        return alive - 0.01 * x**2 - (y - 2) ** 2 - 0.001 * speed[..., 0] - 0.005 * speed[..., 1]

    core = joint_core(
        "inverted_double_pendulum.xml",
        **shown_as(6, "0 sin1 sin2 cos1 cos2 3~10 4~10 5~10 _"),  # last the force of the rail's limits
        shown_units=("N",),
        unobserved_dim=2,
        read_unobserved=lambda env: np.array(env.unwrapped.data.site_xpos[0][[0, 2]]),
    )
    return Known(core, 0.01 * frame_skip, reward, terminated)


def reacher(
    *, frame_skip: int = 2, reward_dist_weight: float = 1.0, reward_control_weight: float = 1.0
) -> Known:
    """Reacher-v5: reward for a fingertip near the target, minus control cost; never ends."""

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        near = reward_dist_weight * (next_state[..., 6:8] ** 2).sum(-1) ** 0.5
        return -near - reward_control_weight * (action**2).sum(-1)

    core = joint_core(
        "reacher.xml",
        still=2,
        limits=True,
        geometry={"angles": (0, 1)},
        **shown_as(6, "cos0 cos1 sin0 sin1 2 3 4 5 _ _"),  # last from the target to the fingertip
        shown_units=("m",) * 2,
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

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        tip, thing, goal = next_state[..., 18:21], next_state[..., 21:24], next_state[..., 24:27]
        near = ((thing - tip) ** 2).sum(-1) ** 0.5
        far = ((thing - goal) ** 2).sum(-1) ** 0.5
        cost = reward_control_weight * (action**2).sum(-1)
        return -reward_dist_weight * far - cost - reward_near_weight * near

    joints = " ".join(map(str, (*range(7), *range(9, 16))))
    shown = shown_as(18, joints + 9 * " _")  # last where the hand, the object and the goal are
    shown["from_obs"] = _pusher_from_obs
    core = joint_core("pusher_v5.xml", apart=2, limits=True, shown_units=("m",) * 9, **shown)
    return Known(core, 0.01 * frame_skip, reward, never)


def _pusher_from_obs(obs: Array) -> Array:
    """The object's slides follow from where it is; how fast it moves is not shown."""
    state = obs[..., [*range(7), 18, 17, *range(7, 14), 18, 17, *range(14, 23)]]
    state[..., 7] -= float(_PUSHER_ORIGIN[0])
    state[..., 8] -= float(_PUSHER_ORIGIN[1])
    state[..., 16:18] = 0
    return state


_PUSHER_ORIGIN = np.array([-0.05, 0.45], np.float32)  # of the object's slides, in world y and x
