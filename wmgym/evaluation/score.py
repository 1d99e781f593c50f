"""Score policies in the real env and in imagination from the same start states."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from wmgym.calibration import online
from wmgym.calibration.open_loop_rows import mean_rows
from wmgym.data.collect import collect_each
from wmgym.data.pool import as_policies
from wmgym.data.transitions import Transitions
from wmgym.data.units import Executor
from wmgym.evaluation.agreement import LEAST, agreement, count_lineages
from wmgym.evaluation.counterfactual import counterfactual
from wmgym.evaluation.gap_report import RANDOM, GapReport, Origin, PolicyScore
from wmgym.evaluation.imagined import (
    Imagined,
    divide,
    further_seeds,
    imagine,
    over_policies,
    start_states,
)
from wmgym.evaluation.intervals import mean_interval, prediction_powered
from wmgym.evaluation.speed import measure
from wmgym.evaluation.verdict import verdict
from wmgym.io.arguments import count_or_none, seed_number, whole_number
from wmgym.io.deprecation import renamed
from wmgym.io.provenance import cpu_seconds, library_versions
from wmgym.models.dynamics import Propagation
from wmgym.models.saving import load
from wmgym.models.world import WorldModel
from wmgym.tasks.task import on_robot

_NOTHING = 1e-9  # a difference of returns below this is none


@renamed(mode="propagation")
def score(
    world: WorldModel | str | os.PathLike[str],
    policies: Any,
    real_episodes: int = 20,
    seed: int = 0,
    *,
    env: Any = None,
    imagined_episodes: int | None = None,
    trained_in_world: Collection[str] = (),
    calibrated_on: Collection[str] = (),
    max_episode_steps: int | None = None,
    propagation: Propagation = "member",
    workers: int | None = None,
    executor: Executor | str | None = None,
    progress: bool = False,
) -> GapReport:
    """Run every policy, and uniform random actions, for whole episodes in the real env and in imagination.

    Args:
        world: the learned simulator, the directory of a saved one, or the id of one that ships, such as
            ``"Hopper-v5"``.
        policies: one policy or a mapping of names to policies: functions of a batch of observations, models
            with ``predict`` such as SB3's, or paths of saved policies; or the path of a directory of saved
            policies, all of which are scored.
        real_episodes: real episodes for each policy.
        seed: decides start states and everything random.
        env: another real env than the world's, of the same spaces: a robot that has changed. An id, an env
            such as ``wmgym.shift`` makes, a function that makes one, or a task.
        imagined_episodes: imagined episodes for each policy: up to four from the start state of each real
            one, the others from further resets of the real env, which takes no step for them. More of them
            sharpen the estimate of the real return. None is one for each real episode.
        trained_in_world: names of policies that were trained in this very world and may exploit its errors;
            they are scored, and left out of the agreement.
        calibrated_on: names of policies whose episodes, other ones, made the world's error bounds. The
            verdict judges the bounds by the others.
        max_episode_steps: end episodes after this many steps, on both sides, where that is earlier than the
            env's own time limit; needed where the env has none.
        propagation: how the imagined env uses the ensemble; see ``WorldModel.step``.
        workers: processes, for the real env and for imagination; None uses every core where that pays.
        executor: where the policies are imagined and played: ``"serial"``, ``"processes"``, ``"ray"`` or what
            ``wmgym.make_executor`` made; None leaves it to ``workers``.
        progress: show a bar on a terminal.

    Returns:
        Real and imagined returns of every policy with intervals, a prediction-powered estimate of the real
        return from both, and the score of the random policy, which anchors the scale of the gap; how well
        imagination ranks the policies, what the world predicts open loop and under other actions, the
        verdict.

    Raises:
        ValueError: a world of recorded data, without an env; an ``env`` of other spaces; no policies, a
            policy of the reserved name "random", a number that is not whole or too small, fewer than 2
            episodes, fewer imagined than real ones, or an env without a time limit and no
            ``max_episode_steps``.
    """
    wall, cpu = time.perf_counter(), cpu_seconds()
    seed, real_episodes = seed_number(seed), whole_number("real_episodes", real_episodes)
    imagined_episodes = count_or_none("imagined_episodes", imagined_episodes)
    max_episode_steps, workers = (
        count_or_none("max_episode_steps", max_episode_steps),
        count_or_none("workers", workers),
    )
    candidates = as_policies(policies, split=None)
    if candidates.get(RANDOM) is not None:
        raise ValueError(f"the name {RANDOM!r} is reserved for uniform random actions; rename the policy")
    trained_in_world = _named("trained_in_world", trained_in_world, candidates)
    calibrated_on = _named("calibrated_on", calibrated_on, candidates)
    if real_episodes < 2:
        raise ValueError(
            f"an interval needs at least 2 episodes, got real_episodes={real_episodes}; wmgym.rank needs none"
        )
    total = real_episodes if imagined_episodes is None else imagined_episodes
    if total < real_episodes:
        raise ValueError(
            f"imagined_episodes={total} is less than real_episodes={real_episodes}; imagine at least as many"
        )
    world = world if isinstance(world, WorldModel) else load(world)
    if env is not None:
        world = replace(world, task=on_robot(world.task, env))
    require_env(world)
    limit = time_limit(world, max_episode_steps)
    everyone = {**candidates, RANDOM: None}
    before = cpu_seconds()
    real = collect_each(
        world.task,
        everyone,
        episodes=real_episodes,
        seed=seed,
        max_episode_steps=limit,
        workers=workers,
        executor=executor,
        progress=progress,
    )
    real_cpu = cpu_seconds() - before
    draws, further = divide(real_episodes, total)
    more = start_states(world.task, further_seeds(seed, further))

    def judge(given: tuple[Any, Transitions]) -> tuple[Imagined, online.Freshness | None]:
        policy, mine = given
        imagined = imagine(
            world, policy, mine.state[mine.first], more, seed,
            draws=draws, limit=limit, propagation=propagation,
        )  # fmt: skip
        bounded = world.calibration is not None
        return imagined, online.check(world, mine, propagation, seed) if bounded else None

    judged = over_policies(
        judge,
        {name: (policy, real[name]) for name, policy in everyone.items()},
        world,
        len(everyone) * total * limit,
        workers=workers,
        executor=executor,
        progress=progress,
    )
    scale = gap_scale({name: data.returns for name, data in real.items()})
    scores = [
        replace(
            _score(name, real[name], *judged[name], scale, limit, seed),
            trained_in_world=name in trained_in_world,
            calibrated_on=name in calibrated_on,
        )
        for name in everyone
    ]
    ranked = [entry for entry in scores if entry.name != RANDOM and not entry.trained_in_world]
    agreed = None
    if len(ranked) >= LEAST:
        means = np.array([(entry.real_mean, entry.imagined_mean) for entry in ranked]).T
        lineages = count_lineages(
            {entry.name: candidates[entry.name] for entry in ranked},
            {entry.name: real[entry.name].action for entry in ranked},
        )
        agreed = agreement(*means, scale=scale, lineages=lineages, seed=seed)
    checked = [freshness for _, freshness in judged.values() if freshness is not None]
    report = GapReport(
        env_id=world.task.env_id,
        episodes=real_episodes,
        seed=seed,
        scale=scale,
        scores=tuple(sorted(scores, key=lambda entry: -entry.real_mean)),
        real_steps=sum(len(data) for data in real.values()),
        imagined_steps=sum(imagined.steps for imagined, _ in judged.values()),
        max_episode_steps=limit,
        imagined_episodes=total,
        agreement=agreed,
        level=checked[0].level if checked else None,
        open_loop=mean_rows([freshness.by_steps for freshness in checked]),
        counterfactual=counterfactual(world, real, propagation, seed),
    )
    imagined_s = sum(imagined.seconds for imagined, _ in judged.values())
    speed = measure(
        world, (report.real_steps, real_cpu), (report.imagined_steps, imagined_s), total, limit, seed
    )
    spent = time.perf_counter() - wall, cpu_seconds() - cpu
    origin = Origin(_fingerprint(world), library_versions(), *spent, speed=speed)
    return replace(report, verdict=verdict(report), origin=origin)


def require_env(world: WorldModel) -> None:
    """Refuse a world that was made of recorded data, whose policies no real env plays.

    Raises:
        ValueError: says what to do instead.
    """
    if not world.task.has_env:
        raise ValueError(
            "this world has no env to score policies against: its data were recorded, or DynaSAC was given "
            "the env itself, which cannot be made again. "
            "wmgym.score_open_loop(world, recorded) judges it by episodes that it has not seen, and "
            "wmgym.rank needs no real episode; where there is an env, save the world and load it with "
            "task=wmgym.make_task(...)"
        )


def time_limit(world: WorldModel, max_episode_steps: int | None) -> int:
    """Steps after which episodes end on both sides.

    Raises:
        ValueError: neither the task nor the caller gives any, or less than 1.
    """
    limits = [steps for steps in (max_episode_steps, world.task.max_episode_steps) if steps is not None]
    if not limits:
        raise ValueError(f"{world.task.env_id or 'the task'} has no time limit; pass max_episode_steps=")
    if min(limits) < 1:
        raise ValueError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
    return min(limits)


def _named(label: str, names: Collection[str], policies: Collection[str]) -> set[str]:
    """The names that an argument gives, be it one; refuse those of no policy."""
    found = {names} if isinstance(names, str) else set(names)
    if unknown := sorted(found - set(policies)):
        raise ValueError(f"{label} names {unknown}, which are none of the policies")
    return found


def gap_scale(returns: Mapping[str, np.ndarray]) -> float:
    """The return scale, which counts as a gap of 1: how far the best policy's mean is above the random one's.

    But no less than returns of one policy differ among themselves: a policy that is hardly better than
    random actions would make a large gap of any chance difference.
    """
    random_mean = returns[RANDOM].mean()
    lead = float(max(own.mean() for own in returns.values()) - random_mean)
    within = float(np.sqrt(np.mean([own.var() for own in returns.values()])))
    found = max(lead, within)  # tails of smooth rewards differ by 1e-100, which is nothing
    return found if found > _NOTHING else max(abs(float(random_mean)), 1.0)


def _score(
    name: str,
    data: Transitions,
    imagined: Imagined,
    freshness: online.Freshness | None,
    scale: float,
    limit: int,
    seed: int,
) -> PolicyScore:
    real = data.returns
    difference = (imagined.returns - real) / scale
    every = np.concatenate([imagined.returns, imagined.more])
    estimate = prediction_powered(real, imagined.returns, imagined.more)
    return PolicyScore(
        name=name,
        real_mean=float(real.mean()),
        real_interval=mean_interval(real, seed),
        imagined_mean=float(every.mean()),
        imagined_interval=mean_interval(every, seed),
        gap=float(difference.mean()),
        gap_interval=mean_interval(difference, seed),
        real_length=float(data.lengths.mean()),
        imagined_length=float(imagined.lengths.mean()),
        diverged=float(imagined.diverged.mean()),
        coverage=None if freshness is None else freshness.coverage,
        stale=freshness is not None and freshness.stale,
        real_returns=tuple(real.tolist()),
        imagined_returns=tuple(imagined.returns.tolist()),
        more_imagined_returns=tuple(imagined.more.tolist()),
        estimate=estimate.mean,
        estimate_interval=estimate.interval,
        failed=float((data.lengths < limit).mean()),
        failed_imagined=float(imagined.failed.mean()),
    )


def _fingerprint(world: WorldModel) -> str:
    """A hash of all that a world is made of; of one that cannot be saved, empty."""
    try:
        arrays, _ = world.pack()
    except ValueError:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
