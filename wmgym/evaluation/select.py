"""Pick the best of several policies with few real episodes."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wmgym.data.collect import collect
from wmgym.data.policy import PolicyFn
from wmgym.data.pool import as_policies
from wmgym.data.rollout_worker import reset_seed
from wmgym.data.units import Executor
from wmgym.envs.rollout import rollout
from wmgym.evaluation.best_arm import spend
from wmgym.evaluation.gap_report import env_name
from wmgym.evaluation.imagined import further_seeds, over_policies, start_states
from wmgym.evaluation.score import require_env, time_limit
from wmgym.io.arguments import count_or_none, seed_number, whole_number
from wmgym.models.dynamics import Propagation
from wmgym.models.saving import load
from wmgym.models.world import WorldModel


@dataclass(frozen=True)
class Candidate:
    """What is known of one policy at the end.

    Attributes:
        name: the policy.
        imagined_mean: its mean imagined return.
        real_returns: of the real episodes spent on it, often none.
    """

    name: str
    imagined_mean: float
    real_returns: tuple[float, ...]


@dataclass(frozen=True)
class Selection:
    """The policy to deploy, and how sure that is.

    Attributes:
        env_id: the real env.
        pick: name of the policy.
        confidence: probability that none of the others has a higher mean real return.
        real_episodes: spent in all.
        candidates: the policies, those with most real episodes first.
        real_steps: real env steps that this took.
        imagined_steps: imagined env steps that this took.
    """

    env_id: str
    pick: str
    confidence: float
    real_episodes: int
    candidates: tuple[Candidate, ...]
    real_steps: int
    imagined_steps: int

    def __str__(self) -> str:
        """The pick, then a line for each policy."""
        lines = [
            f"{env_name(self.env_id)}: {self.pick} is the best with {self.confidence:.0%} confidence"
            f" after {self.real_episodes} real episode{'s' * (self.real_episodes != 1)}"
        ]
        for entry in self.candidates:
            spent = len(entry.real_returns)
            played = "1 episode" if spent == 1 else f"{spent} episodes"
            real = f"real {np.mean(entry.real_returns):,.1f} in {played}" if spent else "not played"
            lines.append(f"{entry.name}: {real}, imagined {entry.imagined_mean:,.1f}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return asdict(self)


def select(
    world: WorldModel | str | os.PathLike[str],
    policies: Any,
    real_budget: int = 30,
    seed: int = 0,
    *,
    imagined_episodes: int = 100,
    max_episode_steps: int | None = None,
    propagation: Propagation = "member",
    workers: int | None = None,
    executor: Executor | str | None = None,
    progress: bool = False,
) -> Selection:
    """Pick the best policy: rank all in imagination, then spend real episodes where they decide most.

    Imagined returns are the starting point, and count the less the more wrong the world turns out on the
    policies that are played; see ``wmgym.evaluation.best_arm.posterior``.

    Args:
        world: the learned simulator, the directory of a saved one, or the id of one that ships.
        policies: at least two, as ``score`` takes them.
        real_budget: real episodes in all, over the policies.
        seed: decides start states and everything random.
        imagined_episodes: imagined episodes for each policy, and at least as many as ``real_budget``.
        max_episode_steps: end episodes after this many steps where that is earlier than the time limit.
        propagation: how the imagined env uses the ensemble; see ``WorldModel.step``.
        workers: processes for imagination; None uses every core where that pays.
        executor: where the policies are imagined: ``"serial"``, ``"processes"``, ``"ray"`` or what
            ``wmgym.make_executor`` made; None leaves it to ``workers``.
        progress: show a bar on a terminal.

    Raises:
        ValueError: fewer than two policies, no budget, a number that is not whole or too small, or no time
            limit.
    """
    seed, real_budget = seed_number(seed), whole_number("real_budget", real_budget)
    imagined_episodes = whole_number("imagined_episodes", imagined_episodes, least=2)
    max_episode_steps, workers = (
        count_or_none("max_episode_steps", max_episode_steps),
        count_or_none("workers", workers),
    )
    candidates = as_policies(policies, split=None)
    if len(candidates) < 2:
        raise ValueError(f"pass at least 2 policies to choose from, got {sorted(candidates)}")
    world = world if isinstance(world, WorldModel) else load(world)
    require_env(world)
    limit = time_limit(world, max_episode_steps)
    seeds = further_seeds(seed, max(imagined_episodes, real_budget))
    starts = start_states(world.task, [reset_seed(each, 0) for each in seeds])  # real episodes' first

    def imagine(policy: PolicyFn | None) -> tuple[np.ndarray, int]:
        returns, lengths, _ = rollout(
            world, policy, starts, seed, max_episode_steps=limit, propagation=propagation
        )
        return returns, int(lengths.sum())

    steps = len(candidates) * len(starts) * limit
    found = over_policies(
        imagine, candidates, world, steps, workers=workers, executor=executor, progress=progress
    )
    real_steps = 0

    def play(name: str, index: int) -> float:
        nonlocal real_steps
        data = collect(
            world.task,
            {name: candidates[name]},
            episodes=1,
            seed=seeds[index],
            max_episode_steps=limit,
            workers=1,
        )
        real_steps += len(data)
        return float(data.returns[0])

    imagined = {name: returns for name, (returns, _) in found.items()}
    pick, confidence, real = spend(imagined, play, real_budget, seed)
    entries = [Candidate(name, float(imagined[name].mean()), tuple(real[name])) for name in candidates]
    return Selection(
        env_id=world.task.env_id,
        pick=pick,
        confidence=confidence,
        real_episodes=real_budget,
        candidates=tuple(sorted(entries, key=lambda each: (-len(each.real_returns), -each.imagined_mean))),
        real_steps=real_steps,
        imagined_steps=sum(taken for _, taken in found.values()),
    )
