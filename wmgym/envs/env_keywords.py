"""Keywords of the real env that an imagined one takes: of reward, termination and pictures."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wmgym.tasks.registry import TABLE, lookup

if TYPE_CHECKING:
    from wmgym.models.world import WorldModel

RENDERING = frozenset(
    {"width", "height", "camera_id", "camera_name", "default_camera_config", "max_geom", "visual_options"}
)
"""What decides pictures alone."""


def with_env_keywords(world: WorldModel, given: Mapping[str, Any]) -> tuple[WorldModel, dict[str, Any]]:
    """The world whose reward and termination are those of the real env's keywords, and the other keywords.

    Args:
        world: of a known task, or any other, which takes no such keywords.
        given: keywords of ``gym.make``, those of pictures taken out.

    Raises:
        TypeError: a keyword that changes physics, observations or starts, which the world has learned.
    """
    task = world.task
    line = TABLE.get(task.env_id)
    if line is None or not task.from_table or task.reward is None:
        return world, dict(given)
    module, _, name = line.partition(":")
    known_names = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    own = {key: value for key, value in given.items() if key in known_names}
    rest = {key: value for key, value in given.items() if key not in own}
    if not own:
        return world, rest
    kwargs = {**task.env_kwargs, **own}
    known, core = lookup(task.env_id, kwargs), task.core
    alike = ("geometry", "names", "shown_dim", "unobserved_dim", "joint_limits")
    same = known is not None and all(getattr(known.core, part) == getattr(core, part) for part in alike)
    if known is None or not same or known.dt != task.dt:
        raise TypeError(  # in Python's words, which TorchRL looks for
            f"an imagined env got an unexpected keyword argument {min(own)!r}, which changes physics or "
            f"observations; fit a world of wmgym.make_task({task.env_id!r}, env_kwargs={own!r}) and pass "
            "world="
        )
    # The core is the known one: its functions may read what the keywords changed.
    changed = replace(
        task, env_kwargs=kwargs, core=known.core, reward=known.reward, terminated=known.terminated
    )
    return replace(world, task=changed), rest
