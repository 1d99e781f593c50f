"""Score policies in the real env and in imagination from the same start states."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from wmgym.calibration import online
from wmgym.calibration.open_loop_rows import mean_rows
from wmgym.data.collect import collect
from wmgym.data.pool import as_policies
from wmgym.data.transitions import Transitions
from wmgym.envs.rollout import rollout
from wmgym.evaluation.counterfactual import counterfactual
from wmgym.evaluation.gap_report import RANDOM, GapReport, PolicyScore
from wmgym.evaluation.verdict import verdict
from wmgym.io.deprecation import renamed
from wmgym.models.dynamics import Propagation
from wmgym.models.saving import load
from wmgym.models.world import WorldModel


@renamed(mode="propagation")
def score(
    world: WorldModel | str | os.PathLike[str],
    policies: Any,
    real_episodes: int = 20,
    seed: int = 0,
    *,
    max_episode_steps: int | None = None,
    propagation: Propagation = "member",
    workers: int | None = None,
    progress: bool = False,
) -> GapReport:
    """Run every policy, and uniform random actions, for whole episodes in the real env and in imagination.

    Args:
        world: the learned simulator, the directory of a saved one, or the id of one that ships, such as
            ``"Hopper-v5"``.
        policies: one policy or a mapping of names to policies: functions of a batch of observations, models
            with ``predict`` such as SB3's, or paths of saved policies; or the path of a directory of saved
            policies, all of which are scored.
        real_episodes: episodes for each policy on either side; imagined ones start where the real ones did.
        seed: decides start states and everything random.
        max_episode_steps: end episodes after this many steps, on both sides, where that is earlier than the
            env's own time limit; needed where the env has none.
        propagation: how the imagined env uses the ensemble; see ``WorldModel.step``.
        workers: processes for the real env; None uses every core where that pays.
        progress: show a bar on a terminal.

    Returns:
        Real and imagined returns of every policy with bootstrap intervals, and of the random one, which
        anchors the scale of the gap; what the world predicts open loop and under other actions; the verdict.

    Raises:
        ValueError: no policies, a policy of the reserved name "random", fewer than 2 episodes, or an env
            without a time limit and no ``max_episode_steps``.
    """
    candidates = as_policies(policies, split=None)
    if candidates.get(RANDOM) is not None:
        raise ValueError(f"the name {RANDOM!r} is reserved for uniform random actions; rename the policy")
    if real_episodes < 2:
        raise ValueError(f"an interval needs at least 2 episodes, got real_episodes={real_episodes}")
    world = world if isinstance(world, WorldModel) else load(world)
    limits = [steps for steps in (max_episode_steps, world.task.max_episode_steps) if steps is not None]
    if not limits:
        raise ValueError(f"{world.task.env_id or 'the task'} has no time limit; pass max_episode_steps=")
    if min(limits) < 1:
        raise ValueError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
    limit = min(limits)
    runs: dict[str, _Run] = {}
    episodes: dict[str, Transitions] = {}
    for name, policy in {**candidates, RANDOM: None}.items():
        real = collect(
            world.task,
            {name: policy},
            episodes=real_episodes,
            seed=seed,
            max_episode_steps=limit,
            workers=workers,
            progress=progress,
        )
        imagined = rollout(
            world,
            policy,
            real.state[real.first],
            seed,
            max_episode_steps=limit,
            propagation=propagation,
            progress=progress,
        )
        bounded = world.calibration is not None
        freshness = online.check(world, real, propagation, seed) if bounded else None
        episodes[name] = real
        runs[name] = (real.returns, real.lengths, *imagined, freshness)
    random_mean = runs[RANDOM][0].mean()
    spread = max(returns.mean() for returns, *_ in runs.values()) - random_mean
    scale = float(spread) if spread > 0 else max(abs(float(random_mean)), 1.0)
    scores = [_compare(name, run, scale, seed) for name, run in runs.items()]
    checked = [freshness for *_, freshness in runs.values() if freshness is not None]
    report = GapReport(
        env_id=world.task.env_id,
        episodes=real_episodes,
        seed=seed,
        scores=tuple(sorted(scores, key=lambda entry: -entry.real_mean)),
        real_steps=int(sum(run[1].sum() for run in runs.values())),
        imagined_steps=int(sum(run[3].sum() for run in runs.values())),
        max_episode_steps=limit,
        level=checked[0].level if checked else None,
        open_loop=mean_rows([freshness.by_steps for freshness in checked]),
        counterfactual=counterfactual(world, episodes, propagation, seed),
    )
    return replace(report, verdict=verdict(report))


_Run: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, online.Freshness | None]
"""Real returns and lengths, imagined ones and ``diverged``, ``(episodes,)`` each; how bounds did."""


def _compare(name: str, run: _Run, scale: float, seed: int) -> PolicyScore:
    real, real_lengths, imagined, imagined_lengths, diverged, freshness = run
    difference = (imagined - real) / scale
    return PolicyScore(
        name=name,
        real_mean=float(real.mean()),
        real_interval=mean_interval(real, seed),
        imagined_mean=float(imagined.mean()),
        imagined_interval=mean_interval(imagined, seed),
        gap=float(difference.mean()),
        gap_interval=mean_interval(difference, seed),
        real_length=float(real_lengths.mean()),
        imagined_length=float(imagined_lengths.mean()),
        diverged=float(diverged.mean()),
        coverage=None if freshness is None else freshness.coverage,
        stale=freshness is not None and freshness.stale,
        real_returns=tuple(real.tolist()),
        imagined_returns=tuple(imagined.tolist()),
    )


def mean_interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of ``values`` ``(n,)``, with 2,000 resamples."""
    found = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=2_000, rng=np.random.default_rng(seed)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
