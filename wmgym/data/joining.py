"""Several collections of one robot as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from wmgym.data.layouts import difference, laid_out, same_env
from wmgym.data.transitions import Transitions, refuse_other


def concat(parts: Sequence[Transitions]) -> Transitions:
    """Join transitions of one task; episodes stay apart.

    Raises:
        TypeError: one part instead of several, or a part that is no ``Transitions``.
        ValueError: nothing to join, or parts from different envs or sources.
    """
    if isinstance(parts, Transitions):
        raise TypeError("concat takes several Transitions, such as [data, more]; got one alone")
    for part in parts:
        refuse_other("concat", part)
    if not parts:
        raise ValueError("concat needs at least one part")
    head, parts = parts[0], [laid_out(part, parts[0].task) for part in parts]
    for part in parts[1:]:
        if not same_env(part.task, head.task):
            raise ValueError(f"cannot join data of {difference(head.task, part.task)}")
        head = laid_out(head, part.task)  # of its symmetries those stay that all parts have
        if part.source != head.source or part.versions != head.versions:
            raise ValueError("cannot join real with imagined data, or data of different library versions")
        if (part.reward is None) != (head.reward is None):
            raise ValueError("cannot join data with and without reward; pass reward= to all parts")
    offsets = np.cumsum([0, *(part.num_episodes for part in parts[:-1])])
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in head.arrays()
    }
    joined["episode"] = np.concatenate([p.episode + k for p, k in zip(parts, offsets, strict=True)])
    return replace(
        head,
        **joined,
        episode_seed=tuple(seed for part in parts for seed in part.episode_seed),
        episode_policy=tuple(name for part in parts for name in part.episode_policy),
    )
