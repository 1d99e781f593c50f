"""The ids ``wmgym/<id>`` and their entry points; importing this loads neither torch nor mujoco."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium as gym

from wmgym.tasks.shift import SHIFTED

if TYPE_CHECKING:
    from wmgym.envs.env import ImaginedEnv
    from wmgym.envs.vector_env import ImaginedVectorEnv, Source
    from wmgym.models.world import WorldModel


E = TypeVar("E")


def register_ids(env_ids: Iterable[str]) -> None:
    """Register an imagined ``wmgym/<id>`` for each of these Gymnasium ids, and the changed robot."""
    for env_id in env_ids:
        gym.register(
            f"wmgym/{env_id}",
            entry_point=f"{__name__}:make_env",
            vector_entry_point=f"{__name__}:make_vector_env",
            max_episode_steps=gym.spec(env_id).max_episode_steps,
            kwargs={"env_id": env_id},
        )
    gym.register(SHIFTED, entry_point="wmgym.tasks.shifted_env:make_shifted")


def make_env(env_id: str, world: Source | None = None, **kwargs: Any) -> ImaginedEnv:
    """Entry point of ``gym.make``, which adds the time limit itself.

    Args:
        env_id: the real env's id.
        world: a world of that env or the directory of one; None takes the one that ships.
        kwargs: keywords of ``ImaginedEnv``.

    Raises:
        ValueError: no world ships, or this one imagines another env.
    """
    from wmgym.envs.env import LIMITED_OUTSIDE, ImaginedEnv

    return _imagined(ImaginedEnv, env_id, world, max_episode_steps=LIMITED_OUTSIDE, **kwargs)


def make_vector_env(
    env_id: str, world: Source | None = None, num_envs: int = 1, **kwargs: Any
) -> ImaginedVectorEnv:
    """Entry point of ``gym.make_vec``; arguments and errors as for ``make_env``."""
    from wmgym.envs.vector_env import ImaginedVectorEnv

    return _imagined(ImaginedVectorEnv, env_id, world, num_envs=num_envs, **kwargs)


def _imagined(kind: Callable[..., E], env_id: str, source: Source | None, **kwargs: Any) -> E:
    world = _world(source, env_id)
    try:
        return kind(world, **kwargs)
    except TypeError as error:
        where, _, name = str(error).partition(" got an unexpected keyword argument ")
        if where != "ImaginedVectorEnv.__init__()" or not name:
            raise
        raise TypeError(  # in Python's words, which TorchRL looks for
            f"an imagined env got an unexpected keyword argument {name.split('.')[0]}; for other keywords of "
            f"{env_id} fit a world of wmgym.make_task({env_id!r}, env_kwargs=...) and pass world="
        ) from None


def _world(source: Source | None, env_id: str) -> WorldModel:
    from wmgym.models.saving import SHIPPED, load
    from wmgym.models.world import WorldModel

    if source is None:
        source = SHIPPED / env_id
        if not os.path.isdir(source):
            raise ValueError(f"no world of {env_id} ships; pass world=, a fitted one or the directory of one")
    world = source if isinstance(source, WorldModel) else load(source)
    if (found := world.task.env_id) != env_id:
        raise ValueError(
            f"this world imagines {found!r}, not {env_id!r}; use "
            + (f"wmgym/{found}" if f"wmgym/{found}" in gym.registry else "wmgym.ImaginedEnv(world)")
        )
    return world
