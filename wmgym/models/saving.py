"""Load worlds: safetensors and strict JSON behind a checksum; loading runs no code from the file."""

from __future__ import annotations

import os
from pathlib import Path

from wmgym.io import artifacts, registered
from wmgym.models.self_check import compare_check
from wmgym.models.world import WorldModel
from wmgym.tasks.task import Task

SHIPPED = registered.SHIPPED
MISSED_GATES = SHIPPED.with_name("missed_gates.json")
"""What is said of those that are not as good as they should be, by env id."""


def load(path: str | os.PathLike[str], task: Task | None = None) -> WorldModel:
    """Read what ``WorldModel.save`` wrote, or a world that ships with wmgym.

    Args:
        path: the directory; or the id of an env whose world ships, ``"Hopper-v5"`` or ``"wmgym/Hopper-v5"``,
            ``"Hopper-v5-small"`` for its smaller twin, or one that ``register(..., keep=True)`` or ``wmgym
            register`` gave a world.
        task: needed only where the task was made with ``reward_fn``, ``terminated_fn`` or ``core``, which no
            file holds.

    Raises:
        StoreError: not a world, a byte of it has changed, its dynamics are of a class that is not imported,
            or it steps otherwise here than where it was saved.
        ValueError: ``task`` is missing or describes other spaces.
    """
    name = os.fspath(path).removeprefix("wmgym/")
    found, shipped = Path(path), SHIPPED / name
    if not os.path.exists(found) and os.path.isdir(shipped):  # which raise nothing
        found = shipped
    elif not os.path.exists(found) and name in (kept := registered.listed()):
        found = Path(kept[name]["world"])
    elif not os.path.exists(found) and shipped.parent == SHIPPED:  # a bare name: an id, surely
        ids = ", ".join(sorted(entry.parent.name for entry in SHIPPED.glob(f"*/{artifacts.MANIFEST}")))
        raise artifacts.StoreError(f"{path} is no directory, and no world of that id ships; these do: {ids}")
    arrays, document = artifacts.read_directory(found, kind="world")
    world = WorldModel.unpack(arrays, document, task, name=os.fspath(path))
    compare_check(world, document.get("check"), os.fspath(path), given=task is not None)
    return world
