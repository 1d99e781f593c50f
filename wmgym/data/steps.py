"""Steps of a real env with the state behind them, and the transitions that whole episodes of them make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from wmgym.data.logs import from_arrays
from wmgym.data.transitions import Transitions
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


@dataclass(frozen=True)
class Episode:
    """A recorded episode: its number, the policy's name, the seed of its reset, and its steps as columns."""

    index: int
    policy: str
    seed: int
    columns: Step


class Recorder:
    """A live env, its last observation and the state behind that."""

    def __init__(self, task: Task, env: gym.Env[Any, Any]) -> None:
        """Call ``look`` next, with the first observation."""
        self.task, self.env = task, env

    def look(self, obs: Any) -> None:
        """Read the state behind the observation that the env has just returned."""
        self.obs = np.array(obs)  # a copy, for the env may write into its own
        self.core = self.task.read_core(self.env, self.obs)
        self.unobserved = self.task.read_unobserved(self.env)

    def step(self, action: Any) -> Step:
        """One step of the env."""
        obs, core, before = self.obs, self.core, self.unobserved
        next_obs, reward, terminated, truncated, _ = self.env.step(action)
        self.look(next_obs)
        unobserved = self.task.unobserved_over(before, self.unobserved)
        return Step(obs, action, reward, self.obs, terminated, truncated, core, self.core, unobserved)


def columns(steps: list[Step]) -> Step:
    """The steps of an episode as a column each, which crosses a process boundary far faster than rows."""
    return Step(*(np.array(column) for column in zip(*steps, strict=True)))


def from_episodes(task: Task, episodes: Sequence[Episode]) -> Transitions:
    """Transitions of real episodes."""
    parts = [episode.columns for episode in episodes]
    joined = Step(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    data = from_arrays(
        task,
        joined.obs,
        joined.action,
        joined.next_obs,
        np.repeat(np.arange(len(parts)), [len(part.obs) for part in parts]),
        joined.terminated,
        joined.reward,
        joined.unobserved,
    )
    return replace(
        data,
        core=joined.core.astype(np.float32),
        next_core=joined.next_core.astype(np.float32),
        episode_seed=tuple(episode.seed for episode in episodes),
        episode_policy=tuple(episode.policy for episode in episodes),
    )
