"""Conformal quantiles of open-loop errors: tables of half-widths by number of steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from wmgym.calibration.open_loop import OpenLoopStep, spread
from wmgym.data.transitions import Transitions
from wmgym.models.dynamics import PROPAGATIONS
from wmgym.models.error_bounds import SMALLEST_DISAGREEMENT, Calibration
from wmgym.models.state_unit import state_unit
from wmgym.models.support import Support

Scores: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Values ``(n, d)``, and the group ``(n,)`` of those that depend on each other."""

_CHECKED = (1, 2, 4, 8, 16, 32, 64, 128, 256, 368, 512, 1000)
"""Steps at which groups are left out in turn, which costs a sort for each."""

_POWERS = (0.25, 0.5, 0.75, 1.0)  # 0 would be the bound by the step alone, which ranks no episodes


@dataclass(frozen=True)
class ConformalTable:
    """Conformal quantiles after h = 1 .. ``horizon`` steps.

    Attributes:
        quantile: ``(horizon, d)`` of the scores, in their unit.
        coverage: ``(horizon,)`` share of a group's scores within the quantile made from the other groups,
            mean over groups; NaN at steps where that was not computed.
    """

    quantile: np.ndarray
    coverage: np.ndarray

    @classmethod
    def of(cls, scores: list[Scores], level: float, few_groups: bool) -> ConformalTable:
        """The table of the scores after each number of steps; few groups raise the level."""
        checked = [h for h in _CHECKED if h <= len(scores)]
        if few_groups:
            level = raised_level([scores[h - 1] for h in checked], level)
        coverage = np.full(len(scores), np.nan)
        for h in checked:
            coverage[h - 1] = left_out_coverage(*scores[h - 1], level)
        return cls(np.array([grouped_quantile(*each, level) for each in scores]), coverage)

    def at_least(self, other: ConformalTable) -> ConformalTable:
        """With quantiles no smaller than another's."""
        return ConformalTable(np.maximum(self.quantile, other.quantile), self.coverage)


def error_bounds(
    blank: Calibration,
    replays: OpenLoopStep,
    group: np.ndarray,
    few_groups: bool,
    lasting: OpenLoopStep | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of a ``Calibration`` that one propagation's replays give, by their names there.

    Args:
        blank: the level and the marginal state range.
        replays: ``n`` held-out windows, in which those that a termination ended keep their last values.
        group: ``(n,)``, see ``groups``.
        few_groups: whether the level is to be raised for them.
        lasting: the same windows with NaN where a termination ended them, if any was. Bounds hold for these
            alone too: where most policies fall early, their last errors say nothing of one that does not.
    """
    powers = _powers(blank, replays, group)
    steps, by_step, by_disagreement = _tables(blank, replays, powers, group, few_groups)
    if lasting is not None:
        _, *alone = _tables(blank, lasting, powers, group, few_groups)
        by_step, by_disagreement = by_step.at_least(alone[0]), by_disagreement.at_least(alone[1])
    distrust, so_far = [], []
    worst = np.zeros((len(group), 1))  # of the steps so far and of all dimensions
    for step, quantile in zip(steps, by_disagreement.quantile, strict=True):
        bound = blank.saturated(quantile * step.scale, step.core)
        distrust.append(np.median((bound / blank.data_std).mean(1)))
        # What never moves has neither bound nor error.
        relative = np.divide(step.error, bound, out=np.zeros_like(bound), where=bound > 0)
        worst[step.there] = np.maximum(worst[step.there], relative.max(1, keepdims=True))
        so_far.append((worst[step.there], step.group))
    tube = ConformalTable.of(so_far, blank.level, few_groups)
    return {
        "half_width": by_step.quantile,
        "per_disagreement": by_disagreement.quantile,
        "power": powers,
        "distrust": np.array(distrust),
        "tube": np.maximum.accumulate(tube.quantile[:, 0]),
        "coverage": np.stack([by_step.coverage, by_disagreement.coverage]),
    }


def _tables(
    blank: Calibration, replays: OpenLoopStep, powers: np.ndarray, group: np.ndarray, few_groups: bool
) -> tuple[list[_Step], ConformalTable, ConformalTable]:
    """The windows step by step, and the quantiles of errors and of errors given disagreement."""
    steps = [_Step(replays, group, h, power) for h, power in enumerate(powers, start=1)]
    plain = [(step.error, step.group) for step in steps]
    given = [(step.error / step.scale, step.group) for step in steps]
    by_step, by_disagreement = (
        ConformalTable.of(scores, blank.level, few_groups) for scores in (plain, given)
    )
    return steps, by_step, by_disagreement


def marginal_calibration(
    calib: Transitions, std_scale: np.ndarray, level: float, support: Support | None = None
) -> Calibration:
    """A calibration without bounds by step: all it knows is the marginal range of held-out states.

    Args:
        calib: held-out episodes.
        std_scale: see ``Calibration``.
        level: likewise.
        support: what is known of the fit's data, see ``state_unit``.
    """
    core, dim = calib.core, calib.core.shape[1]
    center = np.median(core, axis=0)
    none = {propagation: np.zeros((0, dim), np.float32) for propagation in PROPAGATIONS}
    steps = {propagation: np.zeros(0, np.float32) for propagation in PROPAGATIONS}
    return Calibration(
        level=level,
        std_scale=std_scale,
        half_width=none,
        per_disagreement=none,
        power=steps,
        tube=steps,
        distrust=steps,
        windows=np.zeros(0, np.int64),
        episodes=calib.num_episodes,
        coverage=none,
        data_std=state_unit(core, calib.task.core.geometry, None if support is None else support.core),
        center=center.astype(np.float32),
        reach=_reach(calib, np.abs(core - center), level).astype(np.float32),
        fingerprints=calib.fingerprints(),
    )


def _reach(calib: Transitions, away: np.ndarray, level: float) -> np.ndarray:
    """How far states ``(n, d)`` get from the centre: as far as most states of most policies ``(d,)``.

    In one mixture of all, policies that do little would decide for those that do much.
    """
    names = dict.fromkeys(calib.episode_policy)
    if len(names) < 2:
        return grouped_quantile(away, calib.episode, level)
    who = np.array(calib.episode_policy)[calib.episode]
    own = [grouped_quantile(away[who == name], calib.episode[who == name], level) for name in names]
    found: np.ndarray = np.quantile(own, level, axis=0, method="higher")
    return found


def groups(calib: Transitions, starts: np.ndarray) -> tuple[np.ndarray, bool]:
    """Which windows depend on each other, and whether there are few groups of them.

    Args:
        calib: held-out episodes.
        starts: ``(n,)`` first row of each window.

    Returns:
        The group ``(n,)`` of each window: its policy, or its episode where one policy made all of them. The
        flag is true for policies, which are too few for a quantile to count them.
    """
    names = list(dict.fromkeys(calib.episode_policy))
    episode = calib.episode[starts]
    if len(names) < 2:
        return episode, False
    return np.array([names.index(name) for name in calib.episode_policy])[episode], True


def grouped_quantile(values: np.ndarray, group: np.ndarray, level: float) -> np.ndarray:
    """Conformal quantile ``(d,)`` of each column of ``values`` ``(n, d)``, where every group weighs the same.

    The level is raised to ``level (1 + 1/n)`` for ``n`` values, as split conformal prediction asks; past the
    largest value the largest is returned; of none, 0. The mixture of groups is "pooling CDFs" (Dunn,
    Wasserman & Ramdas 2022, arXiv:1809.07441).
    """
    n = len(values)
    if not n:
        return np.zeros(values.shape[1], values.dtype)
    order = np.argsort(values, axis=0)
    return _crossing(values, order, _weights(group), min(level * (1 + 1 / n), 1.0))


def _weights(group: np.ndarray) -> np.ndarray:
    """``(n,)`` by which every group weighs the same, and all together 1."""
    _, inverse, counts = np.unique(group, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (counts[inverse] * len(counts)))


def _crossing(values: np.ndarray, order: np.ndarray, weight: np.ndarray, mass: float) -> np.ndarray:
    """Of each column of ``values`` ``(n, d)``, sorted by ``order``, the first with ``mass`` up to it."""
    below = (np.cumsum(weight[order], axis=0) < mass - 1e-12).sum(0)  # (d,)
    last = np.minimum(below, len(values) - 1)
    found: np.ndarray = np.take_along_axis(values, np.take_along_axis(order, last[None], 0), 0)[0]
    return found


def raised_level(scores: list[Scores], level: float) -> float:
    """The smallest level at which quantiles of the other groups surely cover each group as often as promised.

    That is where the mean over groups of what is covered, less its standard error, is as promised: a few
    groups say little about the next one, and are often more alike than it is. One level for all numbers of
    steps: what a single step says is mostly chance. What quantiles of ``k - 1`` groups lack shrinks by
    ``(k - 1) / k`` with one group more, so the level is raised by that share.
    """
    count = len(np.unique(scores[0][1]))
    for share in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        raised = level + (1 - level) * share
        covered = [_left_out(values, group, raised) for values, group in scores]
        sure = [each.mean() - each.std(ddof=1) / np.sqrt(len(each)) for each in covered if len(each) > 1]
        if not sure or np.mean(sure) >= level:
            break
    return float(level + (raised - level) * (count - 1) / count)


def left_out_coverage(values: np.ndarray, group: np.ndarray, level: float) -> float:
    """Share of a group's values within the quantile of the others, mean over groups; NaN for one group."""
    shares = _left_out(values, group, level)
    return float(shares.mean()) if len(shares) else float("nan")


def _left_out(values: np.ndarray, group: np.ndarray, level: float) -> np.ndarray:
    """That share for each of up to 20 groups; none where there is one group."""
    names = np.unique(group)
    if len(names) < 2:
        return np.zeros(0)
    order, weight = np.argsort(values, axis=0), _weights(group) * len(names) / (len(names) - 1)
    shares = []
    for name in spread(names, 20):
        out = group == name
        mass = min(level * (1 + 1 / (len(group) - out.sum())), 1.0)
        quantile = _crossing(values, order, np.where(out, 0.0, weight), mass)  # of the others
        shares.append((values[out] <= quantile).mean())
    return np.array(shares)


class _Step:
    """The windows that last ``h`` steps: errors, and what disagreement says that they should be."""

    def __init__(self, replays: OpenLoopStep, group: np.ndarray, h: int, power: float) -> None:
        self.there = ~np.isnan(replays.disagreement[h - 1][:, 0])  # (n,)
        self.error, self.core = replays.error[h - 1][self.there], replays.core[h - 1][self.there]
        self.group = group[self.there]
        self.scale = np.maximum(replays.disagreement[h - 1][self.there], SMALLEST_DISAGREEMENT) ** power


def _powers(blank: Calibration, replays: OpenLoopStep, group: np.ndarray) -> np.ndarray:
    """The exponent ``(horizon,)`` of disagreement with the narrowest bounds, smoothed over checked steps."""
    checked = [h for h in _CHECKED if h <= len(replays.error)]
    width = np.empty((len(checked), len(_POWERS)))
    for i, h in enumerate(checked):
        for k, power in enumerate(_POWERS):
            step = _Step(replays, group, h, power)
            quantile = grouped_quantile(step.error / step.scale, step.group, blank.level)
            width[i, k] = (blank.saturated(quantile * step.scale, step.core) / blank.data_std).mean()
    share = width / np.maximum(width[:, :1], 1e-12)
    padded = np.concatenate([share[:1], share, share[-1:]])
    best = np.argmin(padded[:-2] + 2 * padded[1:-1] + padded[2:], axis=1)
    steps = np.log(np.arange(1, len(replays.error) + 1))
    return np.asarray(np.interp(steps, np.log(checked), np.array(_POWERS)[best]))
