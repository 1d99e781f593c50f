"""Tasks whose reward, termination and state layout are known in code, by env id.

Adding a robot takes one file that describes it and one line in ``TABLE``.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from wmgym.tasks.shift import SHIFTED, Shift
from wmgym.tasks.spec import Known

TABLE: dict[str, str] = {
    "InvertedPendulum-v5": "wmgym.tasks.mujoco_v5.fixed_base:inverted_pendulum",
    "InvertedDoublePendulum-v5": "wmgym.tasks.mujoco_v5.fixed_base:inverted_double_pendulum",
    "Reacher-v5": "wmgym.tasks.mujoco_v5.fixed_base:reacher",
    "Pusher-v5": "wmgym.tasks.mujoco_v5.fixed_base:pusher",
    "Swimmer-v5": "wmgym.tasks.mujoco_v5.planar:swimmer",
    "Hopper-v5": "wmgym.tasks.mujoco_v5.planar:hopper",
    "HalfCheetah-v5": "wmgym.tasks.mujoco_v5.planar:half_cheetah",
    "Walker2d-v5": "wmgym.tasks.mujoco_v5.planar:walker2d",
    "Ant-v5": "wmgym.tasks.mujoco_v5.floating_base:ant",
    "Humanoid-v5": "wmgym.tasks.mujoco_v5.floating_base:humanoid",
    "HumanoidStandup-v5": "wmgym.tasks.mujoco_v5.floating_base:humanoid_standup",
}
"""Each env id and the function that describes it, ``module:name``; it takes the env's keywords.

Where the function does not have a keyword that changes physics, observation or reward, the env counts as
unknown with it.
"""

_WITHOUT_EFFECT = {
    "render_mode", "width", "height", "camera_id", "camera_name", "default_camera_config", "max_geom",
    "visual_options", "reset_noise_scale", "max_episode_steps", "disable_env_checker",
    "xml_file",  # changes physics alone where the joints are the same, which ``make_task`` checks
}  # fmt: skip


def lookup(env_id: str, env_kwargs: Mapping[str, Any]) -> Known | None:
    """What is known of ``gym.make(env_id, **env_kwargs)``; None, with a warning, if a keyword is not."""
    if env_id == SHIFTED:
        return _lookup_shifted(env_kwargs)
    line = TABLE.get(env_id, TABLE.get(env_id.rpartition(":")[2]))  # "module:Id-v0" only imports module first
    if line is None:
        return None
    module, _, name = line.partition(":")
    describe = getattr(importlib.import_module(module), name)
    options = {key: value for key, value in env_kwargs.items() if key not in _WITHOUT_EFFECT}
    try:
        known: Known = describe(**options)
    except TypeError:
        warnings.warn(
            f"{env_id} is known, but not with {sorted(options)}; its reward and termination will be learned",
            stacklevel=3,
        )
        return None
    return known


def _lookup_shifted(env_kwargs: Mapping[str, Any]) -> Known | None:
    """What is known of a changed robot: all that is of the nominal one, but for symmetries that it lost."""
    names = {each.name for each in fields(Shift)}
    change = Shift(**{name: value for name, value in env_kwargs.items() if name in names})
    known = lookup(env_kwargs["env_id"], env_kwargs.get("env_kwargs", {}))
    if known is None:
        return None
    core = known.core if change.symmetric else replace(known.core, symmetries=())
    if change.sensor_noise:  # a state is what the sensors say
        core = replace(core, from_mujoco=None)
    return replace(known, core=core)
