"""Conformal quantiles of open-loop errors, by step and by disagreement."""

from __future__ import annotations

import numpy as np

from wmgym.calibration.open_loop import OpenLoop
from wmgym.data.transitions import Transitions
from wmgym.models.dynamics import PROPAGATIONS, Propagation
from wmgym.models.error_bounds import SMALLEST_DISAGREEMENT, Calibration

_ONE_SIGMA = 0.6827


def grouped_quantile(values: np.ndarray, group: np.ndarray, level: float) -> np.ndarray:
    """Conformal quantile per column of ``values`` ``(n, d)``, each group weighing the same.

    The level is raised to ``level (1 + 1/n)`` for ``n`` values, as split conformal prediction asks; past the
    largest value the largest is returned.
    """
    n = len(values)
    _, inverse, counts = np.unique(group, return_inverse=True, return_counts=True)
    weight = 1.0 / (counts[inverse] * len(counts))
    order = np.argsort(values, axis=0)
    mass = np.cumsum(weight[order], axis=0)  # (n, d)
    target = min(level * (1 + 1 / n), 1.0)
    first = np.minimum((mass < target - 1e-12).sum(0), n - 1)
    quantile: np.ndarray = np.take_along_axis(values, np.take_along_axis(order, first[None], 0), 0)[0]
    return quantile


def std_scale(z: np.ndarray) -> np.ndarray:
    """Factor per column that makes one sigma cover 68.27 % of standardised errors ``z`` ``(n, d)``."""
    return np.asarray(np.maximum(np.quantile(np.abs(z), _ONE_SIGMA, axis=0), 1e-3))


def _without_bounds(calib: Transitions, scale: np.ndarray, level: float) -> Calibration:
    """What the data says before any replay."""
    core, dim = calib.core, calib.core.shape[1]
    center, std = np.median(core, axis=0), core.std(0)
    none: dict[Propagation, np.ndarray] = {
        propagation: np.zeros((0, dim), np.float32) for propagation in PROPAGATIONS
    }
    steps: dict[Propagation, np.ndarray] = {
        propagation: np.zeros(0, np.float32) for propagation in PROPAGATIONS
    }
    return Calibration(
        level=level,
        std_scale=scale,
        half_width=none,
        per_disagreement=none,
        power=steps,
        tube=steps,
        distrust=steps,
        windows=np.zeros(0, np.int64),
        episodes=calib.num_episodes,
        coverage=none,
        data_std=np.where(std < 1e-8, 1.0, std).astype(np.float32),
        center=center.astype(np.float32),
        reach=grouped_quantile(np.abs(core - center), calib.episode, level).astype(np.float32),
        fingerprints=calib.fingerprints(),
    )


_LOOKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 368, 512, 1000)
"""Steps at which groups are left out in turn, which costs a sort for each; what lies between follows them."""

_POWERS = (0.25, 0.5, 0.75, 1.0)  # 0 would be the bound by the step, which ranks nothing


def _bounds(blank: Calibration, seen: OpenLoop, group: np.ndarray, few: bool) -> dict[str, np.ndarray]:
    """Arrays of a calibration for one mode, by their names there."""
    level, horizon = blank.level, len(seen.disagreement)
    looks = [h for h in _LOOKS if h <= horizon]
    power = _powers(blank, seen, group, looks)
    rows = [_Row(seen, group, h, power[h - 1]) for h in range(1, horizon + 1)]
    levels = [level, level]
    if few:
        looked = [rows[h - 1] for h in looks]
        levels = [_raised_level([(row.scores[k], row.group) for row in looked], level) for k in (0, 1)]
    coverage = np.full((2, horizon), np.nan)
    worst, found = np.zeros((horizon, len(group))), []
    for h, row in enumerate(rows, start=1):
        half_width, per_disagreement = (
            grouped_quantile(values, row.group, own) for values, own in zip(row.scores, levels, strict=True)
        )
        if h in looks:
            coverage[:, h - 1] = [
                _left_out_coverage(values, row.group, own)
                for values, own in zip(row.scores, levels, strict=True)
            ]
        bound = blank.saturated(per_disagreement * row.scale, row.core)
        # What never moves has neither bound nor error.
        relative = np.divide(row.error, bound, out=np.zeros_like(bound), where=bound > 0)
        worst[h - 1, row.there] = relative.max(1)
        found.append((half_width, per_disagreement, np.median((bound / blank.data_std).mean(1))))
    half_widths, per_doubts, distrust = (np.array(column) for column in zip(*found, strict=True))
    worst = np.maximum.accumulate(worst)[..., None]  # so far, all dimensions together
    lasting = [(each[row.there], row.group) for each, row in zip(worst, rows, strict=True)]
    tube_level = _raised_level([lasting[h - 1] for h in looks], level) if few else level
    tube = [grouped_quantile(*each, tube_level)[0] for each in lasting]
    return {
        "half_width": half_widths, "per_disagreement": per_doubts, "power": power, "distrust": distrust,
        "tube": np.maximum.accumulate(tube),
        "coverage": coverage,
    }  # fmt: skip


class _Row:
    """What is left of the replays after ``h`` steps, and the scores that bounds are quantiles of."""

    def __init__(self, seen: OpenLoop, group: np.ndarray, h: int, power: float) -> None:
        self.there = ~np.isnan(seen.disagreement[h - 1][:, 0])
        self.error, self.core = seen.error[h - 1][self.there], seen.core[h - 1][self.there]
        self.group = group[self.there]
        self.scale = np.maximum(seen.disagreement[h - 1][self.there], SMALLEST_DISAGREEMENT) ** power
        self.scores = self.error, self.error / self.scale


def _powers(blank: Calibration, seen: OpenLoop, group: np.ndarray, looks: list[int]) -> np.ndarray:
    """The exponent ``(horizon,)`` of disagreement that makes bounds narrowest, looks and their neighbours taken."""
    width = np.empty((len(looks), len(_POWERS)))
    for i, h in enumerate(looks):
        for k, power in enumerate(_POWERS):
            row = _Row(seen, group, h, power)
            made = grouped_quantile(row.scores[1], row.group, blank.level)
            width[i, k] = (blank.saturated(made * row.scale, row.core) / blank.data_std).mean()
    share = width / np.maximum(width[:, :1], 1e-12)
    padded = np.concatenate([share[:1], share, share[-1:]])
    best = np.argmin(padded[:-2] + 2 * padded[1:-1] + padded[2:], axis=1)
    steps = np.log(np.arange(1, len(seen.disagreement) + 1))
    return np.asarray(np.interp(steps, np.log(looks), np.array(_POWERS)[best]))


def _groups(calib: Transitions, starts: np.ndarray) -> tuple[np.ndarray, bool]:
    """What windows depend on each other: the policy's, or the episode's where one policy made all of them.

    The flag tells that there are few groups, too few for a quantile to count them.
    """
    names = list(dict.fromkeys(calib.episode_policy))
    episode = calib.episode[starts]
    if len(names) < 2:
        return episode, False
    return np.array([names.index(name) for name in calib.episode_policy])[episode], True


def _raised_level(looks: list[tuple[np.ndarray, np.ndarray]], level: float) -> float:
    """The smallest level at which bounds from the other groups cover each one as often as promised.

    One for all numbers of steps: the groups are few, and what one look at them says is mostly chance. What
    bounds from ``k - 1`` groups lack shrinks by ``(k - 1) / k`` with one group more, so the level is raised
    by that share.
    """
    count = len(np.unique(looks[0][1]))
    for share in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        own = level + (1 - level) * share
        shares = [_left_out_coverage(values, group, own) for values, group in looks]
        if np.isnan(shares).all() or np.nanmean(shares) >= level:
            break
    return float(level + (own - level) * (count - 1) / count)


def _left_out_coverage(values: np.ndarray, group: np.ndarray, level: float) -> float:
    """Coverage of each group by the bound made from the others, averaged over groups."""
    names = np.unique(group)
    if len(names) < 2:
        return float("nan")
    names = names[np.linspace(0, len(names) - 1, min(len(names), 20)).astype(int)]
    shares = []
    for name in names:
        own = group == name
        shares.append((values[own] <= grouped_quantile(values[~own], group[~own], level)).mean())
    return float(np.mean(shares))
