"""Making real envs by their ids."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TimeLimit

from wmgym.io.arguments import keywords, short
from wmgym.io.files import StoreError
from wmgym.io.registered import SMALL
from wmgym.tasks.back_end import back_end_errors

_ROBOTICS = ("Fetch", "HandReach", "HandManipulate", "PointMaze", "AntMaze", "Adroit", "FrankaKitchen")
_PROVIDERS = {
    "dm_control/": ("shimmy", "shimmy[dm-control]"),
    **dict.fromkeys(_ROBOTICS, ("gymnasium_robotics", "gymnasium-robotics")),
}
"""Known libraries that register ids when they are imported, and what pip calls them, by how ids begin."""


def make_or_explain(env_id: str, env_kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """``gym.make``, or a ValueError of one line that says what to do."""
    given = keywords("env_kwargs", env_kwargs)
    try:
        with explaining(env_id), back_end_errors():
            return gym.make(env_id, **given)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, OSError) as error:
        if given.keys() <= {"max_episode_steps"}:  # which no env fails for: it is the env that is broken
            raise
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"cannot make {env_id!r} with these env_kwargs: {why}") from error


def bare(env_id: str) -> str:
    """The id that an env is registered by, of one that may name a module to import: ``lab:Arm-v0``."""
    return env_id.rpartition(":")[2]


def own_kwargs(spec: EnvSpec) -> dict[str, Any]:
    """What a live env was made with beyond what its id is registered with."""
    registered = gym.registry.get(spec.id)
    usual = {} if registered is None else registered.kwargs
    given = {name: value for name, value in spec.kwargs.items() if name != "render_mode"}

    def is_usual(name: str, value: Any) -> bool:
        try:
            return name in usual and bool(np.all(usual[name] == value))
        except ValueError:  # nested arrays; what is kept is never wrong
            return False

    return {name: value for name, value in given.items() if not is_usual(name, value)}


def made_by(factory: Callable[[], Any]) -> gym.Env[Any, Any]:
    """The env that a caller's function makes.

    Raises:
        TypeError: it takes arguments, or returned something else.
    """
    with contextlib.suppress(ValueError):  # of functions that do not say what they take
        try:
            inspect.signature(factory).bind()
        except TypeError as error:
            raise TypeError(f"a factory takes no arguments, and this one does: {error}; wrap it") from None
    env = factory()
    if not isinstance(env, gym.Env):
        raise TypeError(f"the factory must return a Gymnasium env, and it returned {short(env)}; mend it")
    return env


@contextlib.contextmanager
def explaining(env_id: str) -> Iterator[None]:
    """Import what registers an id; a ValueError of one line where Gymnasium does not find or make it."""
    try:
        import_provider(env_id)
        yield
    except (gym.error.Error, ModuleNotFoundError, TypeError) as error:
        why = str(error).splitlines()[0]
        missing = [pip for start, (_, pip) in _PROVIDERS.items() if env_id.startswith(start)]
        unknown = isinstance(error, (gym.error.NameNotFound, gym.error.NamespaceNotFound))
        if unknown and missing and sys.modules.get(missing[0].split("[")[0].replace("-", "_")) is None:
            why = f"its library is not installed; pip install '{missing[0]}'."
        elif unknown and (task := env_id.removesuffix(SMALL)) in gym.registry:
            why = f"it names a world, and this takes the task of one: {task!r}."
        elif unknown and ":" not in env_id:
            why += (
                f" An env of your own goes with the module that registers it: 'my_module:{env_id}', or "
                "import that module first (wmgym --import my_module, on the command line)."
            )
        raise ValueError(f"cannot make {env_id!r}: {why}") from error


def import_provider(env_id: str) -> None:
    """Import the library that registers ids of this kind, where it is installed."""
    for start, (module, _) in _PROVIDERS.items():
        if env_id.startswith(start) and env_id not in gym.registry:
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(module)


def same_joints(env: gym.Env[Any, Any], env_id: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a model of the user's has the joints and the time step of the env's own."""
    nominal = gym.make(env_id, **{key: value for key, value in kwargs.items() if key != "xml_file"})
    models: list[Any] = [each.unwrapped.model for each in (env, nominal)]  # type: ignore[attr-defined]
    nominal.close()
    mine, own = (
        [(model.joint(i).name, int(model.jnt_type[i])) for i in range(model.njnt)] for model in models
    )
    return mine == own and models[0].opt.timestep == models[1].opt.timestep


def refuse_import(env_id: str) -> None:
    """Refuse an id that names a module which is not imported: it may come from a file, which runs no code.

    Raises:
        StoreError: names the module.
    """
    module, colon, _ = env_id.rpartition(":")
    if colon and module not in sys.modules:
        raise StoreError(
            f"{env_id!r} needs the module {module!r}, which a file does not import: import it first "
            f"(wmgym --import {module}, on the command line), if you trust it"
        )


def refuse_other_actions(env: gym.Env[Any, Any], space: gym.Space[Any]) -> None:
    """Refuse an env that an id made where a function had wrapped it.

    Raises:
        ValueError: it takes other actions.
    """
    if env.action_space != space:
        name = "an env" if env.spec is None else repr(env.spec.id)
        env.close()
        raise ValueError(
            f"{name} takes other actions than this task, whose env a function wrapped, which no file holds; "
            "pass task=wmgym.make_task(function)"
        )


def time_limits(env: gym.Env[Any, Any]) -> list[TimeLimit[Any, Any]]:
    """Every ``TimeLimit`` around an env, from outside to inside."""
    found = []
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TimeLimit):
            found.append(env)
        env = env.env
    return found


def plain(env: gym.Env[Any, Any]) -> bool:
    """Whether ``gym.make`` with the env's own spec gives the same env: no wrapper of the user's around it."""
    return env.spec is not None and not env.spec.additional_wrappers
