"""Directories of saved policies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from wmgym.data.policy import MLPPolicy, load_policy
from wmgym.io import artifacts


def load_pool(
    path: str | os.PathLike[str], split: Literal["pool", "held-out"] | None = "pool"
) -> dict[str, MLPPolicy]:
    """Every policy in the directories right under ``path``, by name, in the order of their directories.

    Args:
        path: a directory of directories that ``MLPPolicy.save`` wrote.
        split: only those whose card says so; a policy without a card counts as "pool". None takes all.

    Raises:
        StoreError: no such policy, two of one name, or a damaged one.
    """
    found: dict[str, MLPPolicy] = {}
    for directory in sorted(entry for entry in Path(path).glob("*") if entry.is_dir()):
        policy = load_policy(directory)
        if policy.name in found:
            raise artifacts.StoreError(f"{path}: two policies are named {policy.name!r}; rename one")
        found[policy.name] = policy
    chosen = {
        name: policy
        for name, policy in found.items()
        if split is None or split == (policy.card.split if policy.card else "pool")
    }
    if not chosen:
        raise artifacts.StoreError(f"{path} holds no policies{f' of split {split!r}' if split else ''}")
    return chosen
