"""Whether bounds still hold on new real episodes, and adapting them where they do not."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from wmgym.calibration.open_loop import OpenLoopStep, open_loop_steps, spread_starts, stacked
from wmgym.calibration.open_loop_rows import OpenLoopRow, open_loop_rows
from wmgym.data.layouts import laid_out
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
        level: probability with which each bound is to hold.
        by_steps: errors and bounds after 1, 2, 4, ... steps and after the last.
    """

    coverage: float
    episodes: int
    stale: bool
    level: float
    by_steps: tuple[OpenLoopRow, ...]


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
    table, data = _table(world), laid_out(data, world.task)
    starts, every = _replayed(world, data, propagation, seed)
    episodes = _by_episode(data, starts, every)
    # Steps beyond an episode's end, which repeat the last one, tell nothing more of it.
    given = [_missed(table, propagation, each)[0][1, : len(each.error)] for each in episodes]
    shares = [1 - each.mean() for each in given]
    coverage = float(np.mean(shares))
    chance = 1.645 * float(np.sqrt(table.level * (1 - table.level) / len(shares)))
    rows = open_loop_rows(table, data, starts, every, propagation)
    return Freshness(coverage, len(shares), coverage < table.level - chance, table.level, rows)


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
        coverage, episodes = [], _by_episode(data, *_replayed(world, data, propagation, seed))
        for n, replays in enumerate(episodes, start=1):
            (alone, given), _ = _missed(table, propagation, replays)
            shares = {"half_width": alone, "per_disagreement": given, "distrust": given.mean(1)}
            rescaled = {
                name: _rescaled(table, getattr(table, name)[propagation], share, n)
                for name, share in shares.items()
            }
            table = _changed(table, propagation, **rescaled)
            coverage.append([1 - alone.mean(1), 1 - given.mean(1)])
        worst = np.concatenate([_missed(table, propagation, replays)[1] for replays in episodes])
        stretch = np.float32(np.quantile(worst, table.level, method="higher"))
        measured = np.mean(coverage, 0).astype(np.float32)
        table = _changed(table, propagation, tube=stretch * table.tube[propagation], coverage=measured)
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


def _table(world: WorldModel) -> Calibration:
    if world.calibration is None:
        raise ValueError("this world has no bounds; calibrate it first")
    return world.calibration


def _replayed(
    world: WorldModel, data: Transitions, propagation: Propagation, seed: int
) -> tuple[np.ndarray, OpenLoopStep]:
    """Windows of every episode, each up to its last step: the rows they start from, and what came of them."""
    starts = spread_starts(data, _MAX_WINDOWS)
    horizon = min(_table(world).horizon, int(data.lengths.max()))
    return starts, stacked(open_loop_steps(world, data, starts, horizon, propagation, seed, trust=True))


def _by_episode(data: Transitions, starts: np.ndarray, every: OpenLoopStep) -> list[OpenLoopStep]:
    """The windows of every episode, in the data's order."""
    there, found = ~np.isnan(every.error[..., 0]), []
    for episode in np.unique(data.episode[starts]):
        own = data.episode[starts] == episode
        rows = np.ix_(there[:, own].any(1), own)
        found.append(OpenLoopStep(*(getattr(every, part.name)[rows] for part in fields(OpenLoopStep))))
    return found


def _missed(
    table: Calibration, propagation: Propagation, replays: OpenLoopStep
) -> tuple[np.ndarray, np.ndarray]:
    """How much of an episode's ``n`` windows lies outside the bounds.

    Returns:
        Shares ``(2, horizon, core_dim)`` of windows, outside the bounds by the step and given disagreement;
        steps beyond the episode's end repeat the last one's. And for each window ``(n,)`` its largest error
        as a multiple of the tube at its end.
    """
    steps, windows, dim = replays.error.shape
    elapsed = np.arange(1, steps + 1).repeat(windows)
    core, disagreement = replays.core.reshape(-1, dim), replays.disagreement.reshape(-1, dim)
    bounds = [table.error_bound(elapsed, propagation, core, given) for given in (None, disagreement)]
    alone, given = (bound.reshape(replays.error.shape) for bound in bounds)
    there = ~np.isnan(replays.error[..., 0])
    shares = [(replays.error > bound).sum(1) / there.sum(1)[:, None] for bound in (alone, given)]
    # What never moves has bounds and errors of zero.
    unbounded = np.where(replays.error > 0, np.inf, 0.0).astype(np.float32)
    worst = np.divide(replays.error, given, out=unbounded, where=given > 0).max((0, 2))
    at_end = table.tube[propagation][there.sum(0) - 1]
    repeated = np.minimum(np.arange(table.horizon), steps - 1)
    multiple = np.divide(worst, at_end, out=np.where(worst > 0, np.inf, 0.0), where=at_end > 0)
    return np.array(shares)[:, repeated], multiple


def _changed(table: Calibration, propagation: Propagation, **arrays: np.ndarray) -> Calibration:
    """The table with other arrays of one propagation, by field."""
    fields: Any = {name: {**getattr(table, name), propagation: array} for name, array in arrays.items()}
    return replace(table, **fields)


def _rescaled(table: Calibration, bound: np.ndarray, missed: np.ndarray, n: int) -> np.ndarray:
    factor = np.exp(RATE / np.sqrt(n) * (missed - (1 - table.level)))
    return np.asarray(bound * factor).astype(np.float32)
