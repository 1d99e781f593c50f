"""Tasks without an env: described by their spaces, for recorded data."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gymnasium import spaces

from wmgym.tasks.actions import ActionSpace, refuse_space
from wmgym.tasks.geometry import Geometry
from wmgym.tasks.layout import Core
from wmgym.tasks.spec import OnCore, UserRewardFn
from wmgym.tasks.task import Task


def describe_task(
    observation_space: spaces.Box,
    action_space: ActionSpace,
    *,
    dt: float,
    max_episode_steps: int | None = None,
    names: Sequence[str] = (),
    reward_fn: UserRewardFn | None = None,
    terminated_fn: UserRewardFn | None = None,
) -> Task:
    """Describe a robot of which there is no env, only data: the observation is the state.

    Args:
        observation_space: of one observation.
        action_space: of one action, bounded.
        dt: seconds a step.
        max_episode_steps: time limit of imagined episodes; None for none.
        names: of the observation's numbers; ``obs_0``, ``obs_1``, ... by default.
        reward_fn: as for ``make_task``; None learns it.
        terminated_fn: likewise.

    Raises:
        ValueError: other spaces, an action space without bounds, or ``dt`` not above zero.
    """
    if not isinstance(observation_space, spaces.Box):
        raise ValueError(f"observation_space must be a Box, got {observation_space}")
    refuse_space(action_space)
    if not (math.isfinite(dt) and dt > 0):
        raise ValueError(f"dt must be above 0 seconds, got {dt}")
    core = Core(Geometry(math.prod(observation_space.shape)), names=tuple(names))
    return Task(
        env_id="",
        env_kwargs={},
        observation_space=observation_space,
        action_space=action_space,
        dt=dt,
        max_episode_steps=max_episode_steps,
        core=core,
        reward=None if reward_fn is None else OnCore(core, reward_fn, "reward_fn"),
        terminated=None if terminated_fn is None else OnCore(core, terminated_fn, "terminated_fn"),
    )
