"""The real env of a world that is improved: whole episodes that judge, and noisy ones that teach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from scipy.special import stdtrit

from wmgym.app.improve_branches import with_noise
from wmgym.data.collect import collect
from wmgym.data.joining import concat
from wmgym.data.policy import MLPPolicy, PolicyFn
from wmgym.data.transitions import Transitions
from wmgym.tasks.schema import has_functions
from wmgym.tasks.task import Task

LEAST = 2
"""Whole episodes that a policy is judged by."""

_NOISES = (0.1, 0.3)  # of the actions, in episodes that do not judge


@dataclass(frozen=True)
class RealEnv:
    """The real env.

    Attributes:
        task: of the world.
        limit: steps of an episode at most.
        progress: show bars on a terminal.
    """

    task: Task
    limit: int
    progress: bool

    def episodes(self, policies: Mapping[str, PolicyFn] | None, seed: int, steps: int) -> Transitions:
        """As many whole episodes as ``steps`` leave room for, and ``LEAST`` at least; None acts at random."""
        found = self._collect(policies, seed, episodes=max(LEAST, steps // self.limit))
        while len(found) < steps - self.limit:  # those that end early leave room for more
            more = max(1, (steps - len(found)) // self.limit)
            found = concat([found, self._collect(policies, drawn(seed, len(found)), episodes=more)])
        return found

    def noisy(self, policy: MLPPolicy, seed: int, steps: int) -> Transitions:
        """Episodes with noise on the actions, some of them cut."""
        each, parts = max(LEAST, steps // len(_NOISES)), list[Transitions]()
        for place, noise in enumerate(_NOISES):
            of_noise = drawn(seed, place + 1)
            if isinstance(self.task.action_space, spaces.Box):
                parts.append(self._collect({policy.name: policy}, of_noise, steps=each, noise=noise))
                continue
            rng = np.random.default_rng(of_noise)
            act = with_noise(policy, self.task.action_space, noise, rng)
            parts.append(self._collect({policy.name: act}, of_noise, steps=each))
        return concat(parts)

    def read(self, place: Path) -> Transitions:
        """Episodes that were saved before."""
        return Transitions.load(place, self.task if has_functions(self.task) else None)

    def _collect(self, policies: Mapping[str, PolicyFn] | None, seed: int, **how: Any) -> Transitions:
        shown: dict[str, Any] = {"workers": 1, "progress": self.progress}
        return collect(self.task, policies, seed=seed, max_episode_steps=self.limit, **shown, **how)


def beats(returns: np.ndarray, others: np.ndarray) -> bool:
    """Whether a mean return is clearly above another: by Welch's one-sided t-test at 5 %."""
    shares = [(each.var(ddof=1) / len(each), len(each) - 1) for each in (returns, others) if len(each) > 1]
    error = sum(share for share, _ in shares)
    if error == 0:
        return bool(returns.mean() > others.mean())
    freedom = error**2 / sum(share**2 / count for share, count in shares)
    return bool(returns.mean() - others.mean() > stdtrit(freedom, 0.95) * np.sqrt(error))


def drawn(seed: int, place: int) -> int:
    """A seed for one purpose, of any seed; none that ``collect`` draws with the same one."""
    return int(np.random.SeedSequence((seed, place, 2)).generate_state(1)[0] >> 1)
