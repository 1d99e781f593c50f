"""Steps of real envs, and the transitions that whole episodes of them make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from wmgym.data.columns import store_action
from wmgym.data.transitions import Transitions
from wmgym.io.provenance import library_versions
from wmgym.tasks.task import Task


class Step(NamedTuple):
    """One step of a real env; or, of a whole episode, a column ``(steps, ...)`` of each."""

    obs: Any
    action: Any
    reward: Any
    next_obs: Any
    terminated: Any
    truncated: Any
    core: Any
    next_core: Any
    unobserved: Any


def columns(steps: list[Step]) -> Step:
    """The steps of an episode as a column each, which crosses a process boundary far faster than rows."""
    return Step(*(np.array(column) for column in zip(*steps, strict=True)))


def from_steps(
    task: Task,
    episodes: Sequence[Step],
    seeds: tuple[int, ...],
    policies: tuple[str, ...],
) -> Transitions:
    """Transitions of real episodes, each given by its columns."""
    joined = Step(*(np.concatenate(column) for column in zip(*episodes, strict=True)))
    n = len(joined.obs)
    return Transitions(
        task=task,
        obs=joined.obs.astype(np.float32).reshape(n, -1),
        action=store_action(task, joined.action),
        reward=joined.reward.astype(np.float64),
        next_obs=joined.next_obs.astype(np.float32).reshape(n, -1),
        terminated=joined.terminated.astype(bool),
        truncated=joined.truncated.astype(bool),
        core=joined.core.astype(np.float32),
        next_core=joined.next_core.astype(np.float32),
        unobserved=joined.unobserved.astype(np.float64).reshape(n, -1),
        episode=np.repeat(np.arange(len(episodes)), [len(episode.obs) for episode in episodes]),
        episode_seed=seeds,
        episode_policy=policies,
        source="real",
        versions=library_versions(),
    )
