"""Where worlds with a name of their own are: those that ship, and those that a user keeps.

The latter are listed in a file of the user's, read where wmgym is imported.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from wmgym.io.files import StoreError, read_json, write_json

SHIPPED = Path(__file__).parents[1] / "models" / "pretrained"
"""Worlds that come with the package, in a directory each, named by env id."""
SMALL = "-small"
"""Ends the names of those that were distilled: faster, and a little less exact."""

HERE: dict[str, Any] = {}
"""By id, the worlds or their directories that are registered in this process."""


def list_file() -> Path:
    """Where they are listed: ``wmgym/worlds.json`` in the user's configuration directory."""
    home = os.environ.get("XDG_CONFIG_HOME") or (
        os.environ.get("APPDATA") if os.name == "nt" else Path.home() / ".config"
    )
    return Path(home or Path.home()) / "wmgym" / "worlds.json"


def listed() -> dict[str, dict[str, Any]]:
    """By id ``{"world": directory, "max_episode_steps": number or None}``; none of a list that is damaged."""
    try:
        path = list_file()
        found = read_json(path) if path.is_file() else {}
    except (OSError, RuntimeError, StoreError):
        return {}
    return {
        env_id: entry
        for env_id, entry in found.items()
        if isinstance(entry, dict) and isinstance(entry.get("world"), str)
    }


def remember(env_id: str, world: Path, max_episode_steps: int | None) -> Path:
    """Add a world to the list; returns the file.

    Raises:
        StoreError: the list is damaged, so that other worlds would be forgotten, or it cannot be written.
    """
    path = _undamaged()
    entry = {"world": str(world.resolve()), "max_episode_steps": max_episode_steps}
    return write_json(path, {**listed(), env_id: entry})


def forget(env_id: str) -> bool:
    """Take a world off the list; whether it was there.

    Raises:
        StoreError: see ``remember``.
    """
    path = _undamaged()
    rest = listed()
    there = rest.pop(env_id, None) is not None
    if there:
        write_json(path, rest)
    return there


def _undamaged() -> Path:
    """The file, which is refused where it is damaged."""
    path = list_file()
    if path.is_file():
        read_json(path)
    return path
