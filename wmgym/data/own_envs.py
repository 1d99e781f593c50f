"""Envs of one's own, in a process that has not imported what registers them."""

from __future__ import annotations

import contextlib
import importlib
import re
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

_LIBRARIES = ("gymnasium", "wmgym", "shimmy", "gymnasium_robotics")
"""They are imported by who needs them."""


@dataclass(frozen=True)
class OwnEnv:
    """What a process was told of an env by ``gymnasium.register``."""

    env_id: str
    entry_point: str
    kwargs: dict[str, Any]
    max_episode_steps: int | None


def own_envs() -> list[OwnEnv]:
    """Those that this process has registered, and whose classes another one can import."""
    named = ((spec, _entry_point(spec.entry_point)) for spec in gym.registry.values())
    return [
        OwnEnv(spec.id, entry, dict(spec.kwargs), spec.max_episode_steps)
        for spec, entry in named
        if entry and re.split("[.:]", entry)[0] not in ("__main__", *_LIBRARIES)
    ]


def register_own(envs: list[OwnEnv]) -> None:
    """Import their modules, which register them; or register them here, where importing does not."""
    for env in envs:
        with contextlib.suppress(ImportError):  # gym.make says what is missing, should the env be needed
            importlib.import_module(env.entry_point.split(":")[0])
        if env.env_id not in gym.registry:
            gym.register(
                env.env_id, env.entry_point, kwargs=env.kwargs, max_episode_steps=env.max_episode_steps
            )


def _entry_point(given: Any) -> str:
    """A class or function by its module and name; empty where it has none that can be imported."""
    if given is None or isinstance(given, str):
        return given or ""
    name = getattr(given, "__qualname__", "<unknown>")
    return "" if "<" in name else f"{given.__module__}:{name}"
