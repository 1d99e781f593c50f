"""Rank policies in imagination alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from wmgym.data.policy import PolicyFn
from wmgym.data.pool import as_policies
from wmgym.data.units import Executor
from wmgym.envs.rollout import rollout
from wmgym.evaluation.gap_report import env_name, with_interval
from wmgym.evaluation.imagined import over_policies
from wmgym.evaluation.intervals import mean_interval
from wmgym.evaluation.score import time_limit
from wmgym.io.arguments import count_or_none, seed_number, whole_number
from wmgym.models.dynamics import Propagation
from wmgym.models.saving import load
from wmgym.models.world import WorldModel


@dataclass(frozen=True)
class RankedPolicy:
    """One policy in imagination.

    Attributes:
        name: the policy.
        imagined_mean: mean undiscounted return of imagined episodes.
        imagined_interval: its 95 % bootstrap interval: how sure the mean is in this world, not how far the
            world is from the real env.
        failed: share of episodes that ended before the time limit.
        diverged: share of episodes that left the range of the data.
    """

    name: str
    imagined_mean: float
    imagined_interval: tuple[float, float]
    failed: float
    diverged: float


@dataclass(frozen=True)
class Ranking:
    """Policies in the order that imagination puts them in.

    Attributes:
        env_id: the real env.
        episodes: imagined episodes for each policy.
        policies: best first.
        imagined_steps: steps that this took; no real one.
    """

    env_id: str
    episodes: int
    policies: tuple[RankedPolicy, ...]
    imagined_steps: int

    @property
    def names(self) -> tuple[str, ...]:
        """Best first."""
        return tuple(entry.name for entry in self.policies)

    def __str__(self) -> str:
        """One line for each policy, best first."""
        env = env_name(self.env_id)
        lines = [f"{env}, {self.episodes} imagined episodes per policy, mean return [95 % interval]"]
        for place, entry in enumerate(self.policies, start=1):
            mean = with_interval(entry.imagined_mean, entry.imagined_interval)
            lines.append(f"{place}. {entry.name}: {mean}, {entry.diverged:.0%} diverged")
        return "\n".join(lines)


def rank(
    world: WorldModel | str | os.PathLike[str],
    policies: Any,
    episodes: int = 100,
    seed: int = 0,
    *,
    max_episode_steps: int | None = None,
    propagation: Propagation = "sample",
    workers: int | None = None,
    executor: Executor | str | None = None,
    progress: bool = False,
) -> Ranking:
    """Rank policies by their imagined returns; the real env is neither stepped nor needed.

    Every policy starts from the same states, drawn from the start states of the world's data. Whether the
    order can be believed is for ``score`` to say.

    Args:
        world: the learned simulator, the directory of a saved one, or the id of one that ships.
        policies: as ``score`` takes them.
        episodes: imagined episodes for each policy.
        seed: decides start states and everything random.
        max_episode_steps: end episodes after this many steps where that is earlier than the time limit.
        propagation: how the imagined env uses the ensemble; see ``WorldModel.step``. Drawing every step ranks
            the reference policies slightly better than following a member without noise.
        workers: processes; None uses every core where that pays.
        executor: where the policies are imagined: ``"serial"``, ``"processes"``, ``"ray"`` or what
            ``wmgym.make_executor`` made; None leaves it to ``workers``.
        progress: show a bar on a terminal.

    Raises:
        ValueError: no policies, fewer than 2 episodes, a number that is not whole or too small, or no time
            limit.
    """
    seed, episodes = seed_number(seed), whole_number("episodes", episodes)
    max_episode_steps, workers = (
        count_or_none("max_episode_steps", max_episode_steps),
        count_or_none("workers", workers),
    )
    candidates = as_policies(policies, split=None)
    if episodes < 2:
        raise ValueError(f"an interval needs at least 2 episodes, got episodes={episodes}")
    world = world if isinstance(world, WorldModel) else load(world)
    limit = time_limit(world, max_episode_steps)
    starts = world.starts[np.random.default_rng(seed).integers(len(world.starts), size=episodes)]

    def imagine(given: tuple[str, PolicyFn | None]) -> tuple[RankedPolicy, int]:
        name, policy = given
        returns, lengths, diverged = rollout(
            world, policy, starts, seed, max_episode_steps=limit, propagation=propagation
        )
        shares = float((lengths < limit).mean()), float(diverged.mean())
        entry = RankedPolicy(name, float(returns.mean()), mean_interval(returns, seed), *shares)
        return entry, int(lengths.sum())

    steps = len(candidates) * episodes * limit
    found = over_policies(
        imagine,
        {name: (name, policy) for name, policy in candidates.items()},
        world,
        steps,
        workers=workers,
        executor=executor,
        progress=progress,
    )
    order = sorted((entry for entry, _ in found.values()), key=lambda entry: -entry.imagined_mean)
    return Ranking(world.task.env_id, episodes, tuple(order), sum(taken for _, taken in found.values()))
