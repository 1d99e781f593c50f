"""The Gymnasium MuJoCo v5 tasks by id, mirrored from their documented formulas.

Defaults are Gymnasium 1.4's. A keyword that changes the physics, the observation or the reward in a way no
entry describes raises ``UnknownOptionError``; the caller then falls back to learned heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wmgym.tasks.mujoco_v5 import fixed_base, floating_base, planar
from wmgym.tasks.spec import Known

_WITHOUT_EFFECT = {
    "render_mode", "width", "height", "camera_id", "camera_name", "default_camera_config", "max_geom",
    "visual_options", "reset_noise_scale", "max_episode_steps", "disable_env_checker",
}  # fmt: skip
TABLE: dict[str, Callable[..., Known]] = {
    "InvertedPendulum-v5": fixed_base.inverted_pendulum,
    "InvertedDoublePendulum-v5": fixed_base.inverted_double_pendulum,
    "Reacher-v5": fixed_base.reacher,
    "Pusher-v5": fixed_base.pusher,
    "Swimmer-v5": planar.swimmer,
    "Hopper-v5": planar.hopper,
    "HalfCheetah-v5": planar.half_cheetah,
    "Walker2d-v5": planar.walker2d,
    "Ant-v5": floating_base.ant,
    "Humanoid-v5": floating_base.humanoid,
    "HumanoidStandup-v5": floating_base.humanoid_standup,
}


class UnknownOptionError(ValueError):
    """A keyword of the real env that the table has no formula for."""


def lookup(env_id: str, env_kwargs: Mapping[str, Any]) -> Known | None:
    """What is known of ``gym.make(env_id, **env_kwargs)``, or None for an id outside the table.

    Raises:
        UnknownOptionError: the id is known but one of its keywords is not described here.
    """
    build = TABLE.get(env_id)
    if build is None:
        return None
    options = {key: value for key, value in env_kwargs.items() if key not in _WITHOUT_EFFECT}
    try:
        return build(**options)
    except TypeError:
        raise UnknownOptionError(
            f"{env_id} is known, but not with {sorted(options)}; its reward and termination will be learned"
        ) from None
