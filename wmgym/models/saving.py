"""Load worlds: safetensors and strict JSON behind a checksum; loading runs no code from the file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

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
            ``"Hopper-v5-small"`` for its smaller twin, or one that ``register`` gave a world in this process,
            or ``register(..., keep=True)`` or ``wmgym register`` in any.
        task: needed only where the task was made with ``reward_fn``, ``terminated_fn`` or ``core``, which no
            file holds.

    Raises:
        StoreError: not a world, a byte of it has changed, its dynamics are of a class that is not imported,
            or it steps otherwise here than where it was saved.
        ValueError: ``task`` is missing or describes other spaces.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise artifacts.StoreError(
            "a world is named by the directory that it was saved to, or by the id of one that ships, such as "
            f"'Hopper-v5'; got {path!r:.80}"
        )
    name = os.fspath(path).removeprefix("wmgym/")
    found, shipped = Path(path), SHIPPED / name
    if not os.path.exists(found) and os.path.isdir(shipped):  # which raise nothing
        found = shipped
    elif not os.path.exists(found) and name in registered.HERE:
        if isinstance(made := registered.HERE[name], WorldModel):
            return made
        found = Path(made)
    elif not os.path.exists(found) and name in (kept := registered.listed()):
        found = Path(kept[name]["world"])
    elif not os.path.exists(found) and shipped.parent == SHIPPED:  # a bare name: an id, surely
        ids = ", ".join(sorted(entry.parent.name for entry in SHIPPED.glob(f"*/{artifacts.MANIFEST}")))
        raise artifacts.StoreError(f"{path} is no directory, and no world of that id ships; these do: {ids}")
    if instead := _instead(found):
        raise artifacts.StoreError(instead)
    arrays, document = artifacts.read_directory(found, kind="world")
    world = WorldModel.unpack(arrays, document, task, name=os.fspath(path))
    compare_check(world, document.get("check"), os.fspath(path), given=task is not None)
    return world


def _instead(found: Path) -> str | None:
    """What to say where a directory holds a policy, or a world in a further one, such as commands leave."""
    policy = next((each for each in (found, found / "policy") if artifacts.exists(each, kind="policy")), None)
    world: Any = (found if policy is None else policy.parent) / "world"
    beside = artifacts.exists(world, kind="world")
    if policy is None or (beside and policy != found):
        return f"{found} holds its world in {world}; pass that" if beside else None
    if not beside:
        with suppress(artifacts.StoreError):
            said = artifacts.read_json(policy.parent / "run.json")
            beside, world = said.get("command") == "train", said.get("config", {}).get("world")
    named = world if beside and isinstance(world, (str, Path)) else "WORLD"
    return (
        f"{policy} is a policy, and the world to score it in comes first"
        f"{', the one that it was trained in' if named == 'WORLD' else ''}: "
        f"wmgym score {named} --policy {policy} --out DIR"
    )
