"""Entry points of the ids ``wmgym/<id>``."""

from __future__ import annotations

from typing import Any

from wmgym.envs.env import ImaginedEnv
from wmgym.envs.trust import old_trust_keywords
from wmgym.envs.vector_env import ImaginedVectorEnv, Source
from wmgym.io.deprecation import renamed_keywords
from wmgym.models.world import WorldModel


@renamed_keywords(mode="propagation")
@old_trust_keywords
def make_env(env_id: str, world: Source | None = None, **kwargs: Any) -> ImaginedEnv:
    """Entry point of ``gym.make``, which adds the time limit itself."""
    env = ImaginedEnv(_given(world, env_id), max_episode_steps=2**62, **kwargs)
    _demand(env.world, env_id)
    return env


@renamed_keywords(mode="propagation")
@old_trust_keywords
def make_vector_env(
    env_id: str, world: Source | None = None, num_envs: int = 1, **kwargs: Any
) -> ImaginedVectorEnv:
    """Entry point of ``gym.make_vec``."""
    env = ImaginedVectorEnv(_given(world, env_id), num_envs, **kwargs)
    _demand(env.world, env_id)
    return env


def _given(world: Source | None, env_id: str) -> Source:
    from wmgym.models.saving import SHIPPED

    if world is not None:
        return world
    if not (SHIPPED / env_id).is_dir():
        raise ValueError(f"no world of {env_id} ships; pass world=, a fitted one or the directory of one")
    return SHIPPED / env_id


def _demand(world: WorldModel, env_id: str) -> None:
    if world.task.env_id != env_id:
        raise ValueError(
            f"this world imagines {world.task.env_id!r}, not {env_id!r}; use wmgym/{world.task.env_id}"
        )
