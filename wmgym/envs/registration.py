"""The ids ``wmgym/<id>`` and their entry points; importing this loads neither torch nor mujoco."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium as gym
from gymnasium.envs import registration as gym_registration

from wmgym.envs.env_keywords import RENDERING, with_env_keywords
from wmgym.io import registered
from wmgym.io.arguments import flag
from wmgym.tasks.shift import SHIFTED

if TYPE_CHECKING:
    from wmgym.envs.env import ImaginedEnv
    from wmgym.envs.vector_env import ImaginedVectorEnv, Source
    from wmgym.models.world import WorldModel


E = TypeVar("E")


_NESTED = re.compile(
    r"^(?:(?P<namespace>[\w:-]+(?:/[\w:-]+)*)\/)?(?:(?P<name>[\w:.-]+?))(?:-v(?P<version>\d+))?$"
)


def register(env_id: str, world: Source, *, keep: bool = False) -> None:
    """Make a world known to Gymnasium: ``gym.make("wmgym/<env_id>")`` and ``make_vec`` imagine with it.

    Args:
        env_id: such as ``"lab/PushBot-v0"``; another world of that id is replaced, but none that ships.
        world: a world, or the directory of a saved one.
        keep: also in later processes that import wmgym; needs a directory.

    Raises:
        ValueError: an id that Gymnasium cannot read or that a shipped world has, or a world without a
            directory to keep.
        StoreError: a path without a world, or the user's list of worlds cannot be written.
    """
    from wmgym.models.saving import SHIPPED, load
    from wmgym.models.world import WorldModel

    keep, env_id = flag("keep", keep), _own_id(env_id)
    if (SHIPPED / env_id).is_dir():
        raise ValueError(f"a world of {env_id} ships with wmgym; take another id, such as 'lab/{env_id}'")
    made = world if isinstance(world, WorldModel) else load(world)
    if keep and (isinstance(world, WorldModel) or not Path(world).is_dir()):
        raise ValueError("a world that is kept needs a directory; save it and pass the path")
    try:
        _register(env_id, made.task.max_episode_steps)
    except gym.error.Error as error:
        raise ValueError(f"Gymnasium refuses the id {env_id!r}: {' '.join(str(error).split())}") from None
    registered.HERE[env_id] = made
    if keep:
        registered.remember(env_id, Path(os.fspath(world)), made.task.max_episode_steps)  # type: ignore[arg-type]


def unregister(env_id: str) -> None:
    """Undo ``register``: Gymnasium no longer knows the world, nor do later processes; its files stay.

    Args:
        env_id: what was registered, such as ``"lab/PushBot-v0"``.

    Raises:
        ValueError: no world of one's own has this id.
        StoreError: the user's list of worlds cannot be written.
    """
    env_id = _own_id(env_id)
    kept = registered.forget(env_id)
    if registered.HERE.pop(env_id, None) is None and not kept:
        own = ", ".join(sorted(registered.HERE)) or "none"
        raise ValueError(f"no world is registered as {env_id!r}; known: {own}")
    gym.registry.pop(f"wmgym/{env_id}", None)


def register_listed() -> None:
    """Register the worlds that the user keeps; reads a list and loads none of them."""
    for env_id, entry in registered.listed().items():
        limit = entry.get("max_episode_steps")
        if _NESTED.fullmatch(env_id) and f"wmgym/{env_id}" not in gym.registry:
            try:
                _register(env_id, limit if isinstance(limit, int) else None)
            except gym.error.Error as error:  # an edited list stops no import
                said = " ".join(str(error).split())
                warnings.warn(f"{registered.list_file()}: {env_id!r} is left out: {said}", stacklevel=2)
            else:
                registered.HERE[env_id] = entry["world"]


def _own_id(given: str) -> str:
    """An id of one's own, without ``wmgym/``."""
    env_id = given.removeprefix("wmgym/") if isinstance(given, str) else ""
    if not _NESTED.fullmatch(env_id) or ":" in env_id:
        raise ValueError(f"{given!r:.80} is no id; use one such as 'lab/PushBot-v0'")
    return env_id


def _register(env_id: str, max_episode_steps: int | None) -> None:
    if "/" in env_id:
        gym_registration.ENV_ID_RE = _NESTED  # reads all that Gymnasium's own does, and nested namespaces
    with warnings.catch_warnings(action="ignore"):  # of a world that replaces another
        gym.register(
            f"wmgym/{env_id}",
            entry_point=f"{__name__}:make_env",
            vector_entry_point=f"{__name__}:make_vector_env",
            max_episode_steps=max_episode_steps,
            kwargs={"env_id": env_id},
        )


def register_ids(env_ids: Iterable[str]) -> None:
    """Register an imagined ``wmgym/<id>`` for each of these Gymnasium ids, and the changed robot.

    ``wmgym/<id>-small`` too, where the world's smaller twin ships.
    """
    for env_id in env_ids:
        limit = gym.spec(env_id).max_episode_steps
        _register(env_id, limit)
        if os.path.isdir(registered.SHIPPED / f"{env_id}{registered.SMALL}"):
            _register(f"{env_id}{registered.SMALL}", limit)
    gym.register(SHIFTED, entry_point="wmgym.tasks.shifted_env:make_shifted")


def make_env(env_id: str, world: Source | None = None, **kwargs: Any) -> ImaginedEnv:
    """Entry point of ``gym.make``, which adds the time limit itself.

    Args:
        env_id: the real env's id.
        world: a world of that env or the directory of one; None takes the one registered, or that ships.
        kwargs: keywords of ``ImaginedEnv``, and of a known real env those of reward, termination and
            pictures.

    Raises:
        ValueError: no world ships, or this one imagines another env.
    """
    from wmgym.envs.env import LIMITED_OUTSIDE, ImaginedEnv

    return _imagined(ImaginedEnv, env_id, world, max_episode_steps=LIMITED_OUTSIDE, **kwargs)


def make_vector_env(
    env_id: str, world: Source | None = None, num_envs: int = 1, **kwargs: Any
) -> ImaginedVectorEnv:
    """Entry point of ``gym.make_vec``; arguments and errors as for ``make_env``.

    Autoreset is NEXT_STEP unless another mode is asked for, as it is of the real id.
    """
    from gymnasium.vector import AutoresetMode

    from wmgym.envs.vector_env import ImaginedVectorEnv

    how = {"autoreset_mode": AutoresetMode.NEXT_STEP, **kwargs}
    return _imagined(ImaginedVectorEnv, env_id, world, num_envs=num_envs, **how)


def _imagined(kind: Callable[..., E], env_id: str, source: Source | None, **kwargs: Any) -> E:
    options = {name: kwargs.pop(name) for name in RENDERING.intersection(kwargs)}
    world, kwargs = with_env_keywords(_world(source, env_id), kwargs)
    if options:
        kwargs["render_options"] = options
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
    from wmgym.io import artifacts
    from wmgym.models.saving import MISSED_GATES, SHIPPED, load
    from wmgym.models.world import WorldModel

    if env_id in registered.HERE:  # an id of the user's own names a world, not an env
        return found if isinstance(found := source or registered.HERE[env_id], WorldModel) else load(found)
    if source is None:
        source = SHIPPED / env_id
        if not os.path.isdir(source):
            raise ValueError(f"no world of {env_id} ships; pass world=, a fitted one or the directory of one")
        if missed := artifacts.read_json(MISSED_GATES).get(env_id):
            warnings.warn(
                f"the world of {env_id} that ships falls short: {missed}; score a policy in the real env "
                "before you rely on it",
                stacklevel=2,
            )
    world = source if isinstance(source, WorldModel) else load(source)
    if (found := world.task.env_id) != env_id.removesuffix(registered.SMALL):
        raise ValueError(
            f"this world imagines {found!r}, not {env_id!r}; use "
            + (f"wmgym/{found}" if f"wmgym/{found}" in gym.registry else "wmgym.ImaginedEnv(world)")
        )
    return world
