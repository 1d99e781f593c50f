"""Whether bounds still hold on new real episodes, and adapting them where they do not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wmgym.calibration.open_loop import OpenLoop, replay, spread_starts, stacked
from wmgym.data.transitions import Transitions
from wmgym.models.dynamics import PROPAGATIONS, Propagation
from wmgym.models.error_bounds import Calibration
from wmgym.models.world import WorldModel

RATE = 0.5
"""The first episode of an update widens a bound that misses all its errors by 57 %, the ninth by 16 %."""

_MAX_WINDOWS = 256


@dataclass(frozen=True)
class Freshness:
    """Whether bounds hold on episodes that they were not made from.

    Attributes:
        coverage: share of errors inside the bounds given disagreement; every episode weighs the same, and
            within an episode every number of steps.
        episodes: number of episodes compared.
        stale: coverage is significantly below ``level``: one-sided test at 5 %, an episode's errors taken as
            all inside or all outside.
    """

    coverage: float
    episodes: int
    stale: bool


def check(
    world: WorldModel, data: Transitions, propagation: Propagation = "member", seed: int = 0
) -> Freshness:
    """Check whether a calibrated world's bounds hold on new real episodes.

    Args:
        world: a calibrated world.
        data: real episodes that neither ``fit`` nor ``calibrate`` saw.
        propagation: which bounds to check; see ``WorldModel.step``.
        seed: decides the draws of propagation "sample".

    Raises:
        ValueError: the world has no bounds.
    """
    table = _table(world)
    replays = _replays(world, data, propagation, seed)
    shares = [np.nanmean(1 - _missed(table, each).given) for each in replays]
    coverage = float(np.mean(shares))
    chance = 1.645 * float(np.sqrt(table.level * (1 - table.level) / len(shares)))
    return Freshness(coverage, len(shares), coverage < table.level - chance)


def update(world: WorldModel, data: Transitions, seed: int = 0) -> WorldModel:
    """Adapt a world's bounds to new real episodes, one after the other in the order they are in.

    Adaptive conformal inference (Gibbs & Candes 2021, arXiv:2106.00170) on the bounds themselves, with steps
    that decay (Angelopoulos, Barber & Bates 2024, arXiv:2402.01139): after the n-th episode every bound is
    multiplied by ``exp(RATE / sqrt(n) * (missed - (1 - level)))``, ``missed`` being the share of its errors
    outside. In the long run the share missed is ``1 - level``, whatever the episodes are.
    ``coverage`` becomes that of each episode by the bounds before it. The tube, a multiple of the bounds, is
    rescaled at the end so that it holds for a share ``level`` of these windows.

    Args:
        world: a calibrated world.
        data: real episodes that neither ``fit`` nor ``calibrate`` saw.
        seed: decides the draws of propagation "sample".

    Raises:
        ValueError: the world has no bounds.
    """
    table = _table(world)
    for propagation in PROPAGATIONS:
        coverage, episodes = [], _replays(world, data, propagation, seed)
        for n, replays in enumerate(episodes, start=1):
            missed = _missed(table, replays)
            shares = {
                "half_width": missed.alone,
                "per_disagreement": missed.given,
                "distrust": missed.given.mean(1),
            }
            table = _adapted(table, propagation, n, **shares)
            coverage.append([1 - missed.alone.mean(1), 1 - missed.given.mean(1)])
        worst = np.concatenate([_missed(table, replays).worst for replays in episodes])
        stretch = np.quantile(worst, table.level, method="higher")
        table = replace(
            table, tube={**table.tube, propagation: np.float32(stretch) * table.tube[propagation]}
        )
        table = replace(
            table, coverage={**table.coverage, propagation: np.mean(coverage, 0).astype(np.float32)}
        )
    for episode in range(data.num_episodes):
        far = np.abs(data.core[data.episode == episode] - table.center)
        table = replace(table, reach=_rescaled(table, table.reach, (far > table.reach).mean(0), episode + 1))
    return world.with_calibration(
        replace(
            table,
            episodes=table.episodes + data.num_episodes,
            fingerprints=(*table.fingerprints, *data.fingerprints()),
        )
    )


@dataclass(frozen=True)
class _Missed:
    """Shares of an episode's windows outside the bounds; steps beyond its end repeat the last one's.

    Attributes:
        alone: ``(horizon, core_dim)`` outside the bounds by the step.
        given: ``(horizon, core_dim)`` outside the bounds given disagreement.
        worst: ``(n,)`` for each window, its largest error as a multiple of the tube at its end.
    """

    alone: np.ndarray
    given: np.ndarray
    worst: np.ndarray


def _table(world: WorldModel) -> Calibration:
    if world.calibration is None:
        raise ValueError("this world has no bounds; calibrate it first")
    return world.calibration


def _replays(world: WorldModel, data: Transitions, propagation: Propagation, seed: int) -> list[OpenLoop]:
    """Every episode's replays, in the data's order."""
    starts = spread_starts(data, _MAX_WINDOWS)
    horizon = min(_table(world).horizon, int(data.lengths.max()))
    every = stacked(replay(world, data, starts, horizon, propagation, seed, trust=True), propagation)
    episodes = (data.episode[starts] == k for k in range(data.num_episodes))
    return [every.of(own) for own in episodes if own.any()]


def _missed(table: Calibration, replays: OpenLoop) -> _Missed:
    horizon, windows, dim = replays.error.shape
    elapsed = np.arange(1, horizon + 1).repeat(windows)
    core, disagreement = (np.nan_to_num(x.reshape(-1, dim)) for x in (replays.core, replays.disagreement))
    alone, given = (
        table.error_bound(elapsed, replays.propagation, core, what).reshape(replays.error.shape)
        for what in (None, disagreement)
    )
    there = ~np.isnan(replays.disagreement[..., 0])
    error = np.nan_to_num(replays.error)
    # What never moves has bounds and errors of zero.
    worst = np.divide(error, given, out=np.where(error > 0, np.inf, 0.0).astype(np.float32), where=given > 0)
    worst = (worst.max(2).max(0) / table.tube[replays.propagation][there.sum(0) - 1]).astype(np.float64)
    reached = np.maximum.accumulate(np.where(there.any(1), np.arange(horizon), 0))

    def share(outside: np.ndarray) -> np.ndarray:
        found = (outside & there[..., None]).sum(1) / np.maximum(there.sum(1), 1)[:, None]
        found = found[reached]
        shares: np.ndarray = found[np.minimum(np.arange(table.horizon), horizon - 1)]
        return shares

    return _Missed(share(error > alone), share(error > given), worst)


def _adapted(table: Calibration, propagation: Propagation, n: int, **missed: np.ndarray) -> Calibration:
    """The table after the n-th episode, given the shares of its errors outside each array of bounds."""
    changed: dict[str, Any] = {}
    for name, share in missed.items():
        old = getattr(table, name)
        changed[name] = {**old, propagation: _rescaled(table, old[propagation], share, n)}
    return replace(table, **changed)


def _rescaled(table: Calibration, bound: np.ndarray, missed: np.ndarray, n: int) -> np.ndarray:
    rescaled: np.ndarray = bound * np.exp(RATE / np.sqrt(n) * (missed - (1 - table.level)))
    return rescaled.astype(np.float32)
