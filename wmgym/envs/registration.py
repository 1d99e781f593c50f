"""The ids ``wmgym/<id>`` and their entry points; importing this loads neither torch nor mujoco."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import gymnasium as gym

if TYPE_CHECKING:
    from wmgym.envs.env import ImaginedEnv
    from wmgym.envs.vector_env import ImaginedVectorEnv, Source
    from wmgym.models.world import WorldModel


def register_ids(env_ids: Iterable[str]) -> None:
    """Register an imagined ``wmgym/<id>`` for each of these Gymnasium ids, with its time limit."""
    for env_id in env_ids:
        gym.register(
            f"wmgym/{env_id}",
            entry_point=f"{__name__}:make_env",
            vector_entry_point=f"{__name__}:make_vector_env",
            max_episode_steps=gym.spec(env_id).max_episode_steps,
            kwargs={"env_id": env_id},
        )


def make_env(env_id: str, world: Source | None = None, **kwargs: Any) -> ImaginedEnv:
    """Entry point of ``gym.make``, which adds the time limit itself.

    Args:
        env_id: the real env's id.
        world: a world of that env or the directory of one; None takes the one that ships.
        kwargs: keywords of ``ImaginedEnv``.

    Raises:
        ValueError: no world ships, or this one imagines another env.
    """
    from wmgym.envs.env import ImaginedEnv

    env = ImaginedEnv(_source(world, env_id), max_episode_steps=2**62, **kwargs)
    _check_id(env.world, env_id)
    return env


def make_vector_env(
    env_id: str, world: Source | None = None, num_envs: int = 1, **kwargs: Any
) -> ImaginedVectorEnv:
    """Entry point of ``gym.make_vec``; arguments and errors as for ``make_env``."""
    from wmgym.envs.vector_env import ImaginedVectorEnv

    env = ImaginedVectorEnv(_source(world, env_id), num_envs, **kwargs)
    _check_id(env.world, env_id)
    return env


def _source(world: Source | None, env_id: str) -> Source:
    from wmgym.models.saving import SHIPPED

    if world is not None:
        return world
    if not (SHIPPED / env_id).is_dir():
        raise ValueError(f"no world of {env_id} ships; pass world=, a fitted one or the directory of one")
    return SHIPPED / env_id


def _check_id(world: WorldModel, env_id: str) -> None:
    if world.task.env_id != env_id:
        raise ValueError(
            f"this world imagines {world.task.env_id!r}, not {env_id!r}; use wmgym/{world.task.env_id}"
        )
