"""Score policies in the real env and in imagination from the same start states."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wmgym.calibration import online
from wmgym.data.collect import collect
from wmgym.data.policy import PolicyFn
from wmgym.envs.rollout import _imagine
from wmgym.evaluation.gap_report import RANDOM, GapReport, PolicyScore
from wmgym.evaluation.intervals import mean_interval
from wmgym.models.dynamics import Propagation
from wmgym.models.world import WorldModel


def score(
    world: WorldModel,
    policies: Mapping[str, PolicyFn],
    real_episodes: int = 20,
    seed: int = 0,
    *,
    propagation: Propagation = "member",
    workers: int | None = None,
    progress: bool = False,
) -> GapReport:
    """Run every policy, and the random one, for whole episodes in the real env and in imagination.

    Args:
        world: the learned simulator.
        policies: callables by name; each takes a batch of observations.
        real_episodes: episodes a policy on either side; imagined ones start from the real ones' start states.
        seed: decides start states and all draws.
        propagation: of the imagined env; see ``WorldModel.step``.
        workers: processes for the real env; None uses every core where that pays.
        progress: show a bar on a terminal.

    Raises:
        ValueError: no policies, or a policy of the reserved name "random".
    """
    if not policies or RANDOM in policies:
        raise ValueError(f"pass at least one policy by name; {RANDOM!r} is reserved for the baseline")
    if real_episodes < 2:
        raise ValueError(f"an interval needs at least 2 episodes, got real_episodes={real_episodes}")
    runs, fresh = {}, dict[str, online.Freshness | None]()
    entrants: dict[str, PolicyFn | None] = {**policies, RANDOM: None}
    for name, policy in entrants.items():
        real = collect(
            world.task, {name: policy}, episodes=real_episodes, seed=seed, workers=workers, progress=progress
        )
        runs[name] = (
            real.returns,
            real.lengths,
            *_imagine(world, policy, real.state[real.first], seed, propagation, progress),
        )
        fresh[name] = None if world.calibration is None else online.check(world, real, propagation, seed)
    random_mean = runs[RANDOM][0].mean()
    spread = max(returns.mean() for returns, *_ in runs.values()) - random_mean
    scale = float(spread) if spread > 0 else max(abs(float(random_mean)), 1.0)
    scores = [_compare(name, *run, fresh[name], scale, seed) for name, run in runs.items()]
    return GapReport(
        env_id=world.task.env_id,
        episodes=real_episodes,
        seed=seed,
        scores=tuple(sorted(scores, key=lambda entry: -entry.real_mean)),
        real_steps=int(sum(run[1].sum() for run in runs.values())),
        imagined_steps=int(sum(run[3].sum() for run in runs.values())),
    )


def _compare(
    name: str,
    real: np.ndarray,
    real_lengths: np.ndarray,
    imagined: np.ndarray,
    imagined_lengths: np.ndarray,
    diverged: np.ndarray,
    fresh: online.Freshness | None,
    scale: float,
    seed: int,
) -> PolicyScore:
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
        coverage=None if fresh is None else fresh.coverage,
        stale=fresh is not None and fresh.stale,
        real_returns=tuple(real.tolist()),
        imagined_returns=tuple(imagined.tolist()),
    )
