"""Whether one policy is better than another in the real env."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any, Literal

from wmgym.data.collect import collect_each
from wmgym.data.policy import PolicyFn
from wmgym.data.pool import as_policies
from wmgym.data.units import Executor
from wmgym.evaluation.gap_report import env_name
from wmgym.evaluation.imagined import (
    Imagined,
    divide,
    further_seeds,
    imagine,
    over_policies,
    start_states,
)
from wmgym.evaluation.intervals import prediction_powered
from wmgym.evaluation.score import require_env, time_limit
from wmgym.io.arguments import count_or_none, seed_number, whole_number
from wmgym.models.dynamics import Propagation
from wmgym.models.saving import load
from wmgym.models.world import WorldModel

LEAST = 6
"""Paired episodes at least: of fewer, all go one way by chance in more than 5 % of comparisons of equals."""


@dataclass(frozen=True)
class Comparison:
    """Two policies from the same start states.

    Attributes:
        env_id: the real env.
        names: the first and the second policy.
        episodes: real episodes of each.
        real_means: mean real returns of the two.
        imagined_means: mean imagined returns of the two.
        difference: estimated real mean return of the second minus the first, from real and imagined episodes.
        interval: its 95 % interval.
        coefficient: how much imagination weighed in it; 0 is not at all.
        better: "second" or "first" where the interval leaves zero out, else None.
        real_steps: real env steps that this took.
        imagined_steps: imagined env steps that this took.
    """

    env_id: str
    names: tuple[str, str]
    episodes: int
    real_means: tuple[float, float]
    imagined_means: tuple[float, float]
    difference: float
    interval: tuple[float, float]
    coefficient: float
    better: Literal["first", "second"] | None
    real_steps: int
    imagined_steps: int

    def __str__(self) -> str:
        """The answer in a sentence, and the difference."""
        first, second = self.names
        low, high = self.interval
        answer = {
            "first": f"{first} is better than {second}",
            "second": f"{second} is better than {first}",
            None: f"{self.episodes} episodes do not tell {first} and {second} apart",
        }[self.better]
        return (
            f"{env_name(self.env_id)}: {answer}; {second} minus {first} is {self.difference:+,.1f}"
            f" [{low:+,.1f}, {high:+,.1f}] (95 % interval)"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return asdict(self)


def compare(
    world: WorldModel | str | os.PathLike[str],
    first: Any,
    second: Any,
    real_episodes: int = 20,
    seed: int = 0,
    *,
    imagined_episodes: int = 1_000,
    max_episode_steps: int | None = None,
    propagation: Propagation = "member",
    workers: int | None = None,
    executor: Executor | str | None = None,
    progress: bool = False,
) -> Comparison:
    """Compare two policies in the real env, from the same start states, with imagination as control variate.

    The test is two-sided at 5 %: of two equally good policies, one is called better in at most that share of
    comparisons.

    Args:
        world: the learned simulator, the directory of a saved one, or the id of one that ships.
        first: a policy, in any form that ``score`` takes one in.
        second: another.
        real_episodes: real episodes of each, at least 6.
        seed: decides start states and everything random.
        imagined_episodes: imagined episodes of each; as many as ``real_episodes`` or fewer leave imagination
            out of the interval.
        max_episode_steps: end episodes after this many steps where that is earlier than the time limit.
        propagation: how the imagined env uses the ensemble; see ``WorldModel.step``.
        workers: processes; None uses every core where that pays.
        executor: where the policies are imagined and played: ``"serial"``, ``"processes"``, ``"ray"`` or what
            ``wmgym.make_executor`` made; None leaves it to ``workers``.
        progress: show a bar on a terminal.

    Raises:
        ValueError: a directory of several policies, a number that is not whole or too small, too few
            episodes, or no time limit.
    """
    seed, real_episodes = seed_number(seed), whole_number("real_episodes", real_episodes)
    imagined_episodes = whole_number("imagined_episodes", imagined_episodes, least=0)
    max_episode_steps, workers = (
        count_or_none("max_episode_steps", max_episode_steps),
        count_or_none("workers", workers),
    )
    pair, names = _pair(first, second)
    if real_episodes < LEAST:
        raise ValueError(
            f"a comparison needs at least {LEAST} paired episodes, got real_episodes={real_episodes};"
            " wmgym.rank needs none"
        )
    world = world if isinstance(world, WorldModel) else load(world)
    require_env(world)
    limit = time_limit(world, max_episode_steps)
    real = collect_each(
        world.task,
        pair,
        episodes=real_episodes,
        seed=seed,
        max_episode_steps=limit,
        workers=workers,
        executor=executor,
        progress=progress,
    )
    draws, further = divide(real_episodes, imagined_episodes)
    more = start_states(world.task, further_seeds(seed, further))
    starts = real["first"].state[real["first"].first]

    def run(policy: PolicyFn | None) -> Imagined:
        return imagine(world, policy, starts, more, seed, draws=draws, limit=limit, propagation=propagation)

    steps = 2 * imagined_episodes * limit
    imagined = over_policies(run, pair, world, steps, workers=workers, executor=executor, progress=progress)
    returns = {name: data.returns for name, data in real.items()}
    found = prediction_powered(
        returns["second"] - returns["first"],
        imagined["second"].returns - imagined["first"].returns,
        imagined["second"].more - imagined["first"].more,
    )
    low, high = found.interval
    means = [float(returns[name].mean()) for name in pair]
    expected = [float(imagined[name].returns.mean()) for name in pair]
    return Comparison(
        env_id=world.task.env_id,
        names=names,
        episodes=real_episodes,
        real_means=(means[0], means[1]),
        imagined_means=(expected[0], expected[1]),
        difference=found.mean,
        interval=found.interval,
        coefficient=found.coefficient,
        better="second" if low > 0 else "first" if high < 0 else None,
        real_steps=sum(len(data) for data in real.values()),
        imagined_steps=sum(each.steps for each in imagined.values()),
    )


def _pair(first: Any, second: Any) -> tuple[dict[str, PolicyFn | None], tuple[str, str]]:
    """The two policies as "first" and "second", and what they are called."""
    found = [as_policies(policy, split=None) for policy in (first, second)]
    for policies in found:
        if len(policies) != 1:
            raise ValueError(f"compare takes one policy on either side, got {sorted(policies)}")
    (one,), (other,) = found
    names = (one, other) if one != other else (f"{one} (first)", f"{other} (second)")
    return {"first": found[0][one], "second": found[1][other]}, names
