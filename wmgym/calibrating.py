"""Calibrate a world on real episodes that it never saw."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from wmgym import drift
from wmgym.calibration import SMALLEST_DOUBT, Calibration
from wmgym.chart import Chart
from wmgym.data import Transitions
from wmgym.dynamics import MODES, Mode, targets
from wmgym.progress import track
from wmgym.replaying import Replays, given_actions, replay, spread_starts, stacked, steps_left
from wmgym.rules import pit
from wmgym.task import Task
from wmgym.world import WorldModel

_MAX_WINDOWS = 1_024  # starts replayed, spread evenly over the held-out data
_MAX_SPREADS, _COPIES = 128, 16  # starts of sampled copies, and how many of each
_ONE_SIGMA = 0.6827


def calibrate(
    world: WorldModel,
    calib: Transitions,
    *,
    level: float = 0.9,
    horizon: int | None = None,
    update: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> WorldModel:
    """Give a world error bounds from held-out episodes, or adapt those that it has.

    First the one-step noise is scaled, per target dimension, so that one sigma covers 68.27 % of the held-out
    changes. Then the real actions are replayed open loop from many held-out states, in every mode, and the
    errors after each number of steps give conformal half-widths: of the error itself, and of the error
    divided by the episode's doubt, how far two members' own paths have come apart. Windows of one episode
    depend on each other, so each episode's errors enter as one distribution and the quantile is that of their
    equal mixture ("pooling CDFs", Dunn, Wasserman & Ramdas 2022, arXiv:1809.07441).

    Where several policies made the episodes, the same holds of policies: bounds are for one more like them.
    A few policies say little of the next, so the quantile's level is raised until bounds made from all but
    one policy hold for that one as often as promised.

    Args:
        world: the world to calibrate.
        calib: real episodes that ``fit`` did not see; of policies that it did not see either, if the bounds
            are to hold for such.
        level: probability that each stated half-width shall hold with.
        horizon: steps to state bounds for; None takes the longest held-out episode.
        update: keep the bounds there are, their level and their horizon, and adapt them to new episodes in
            the order they are in; for a policy that has moved on, or a robot that has changed. See
            ``wmgym.drift.update``.
        seed: decides the sampled replays.
        progress: show a bar on a terminal.

    Raises:
        ValueError: episodes that ``fit`` saw, another task, imagined data, or a level outside (0, 1).
    """
    _refuse(world, calib, level, horizon, update)
    if update:
        return drift.update(world, calib, seed)
    longest = int(calib.lengths.max())
    horizon = min(horizon or longest, longest)
    starts = spread_starts(calib, _MAX_WINDOWS)
    blank = _without_bounds(calib, _noise_scale(world, calib, starts, seed), level)
    scaled = world.with_calibration(blank)
    bounds: dict[str, dict[Mode, np.ndarray]] = {}
    with track("calibrate", len(MODES) * horizon, show=progress) as advance:
        for mode in MODES:
            steps = replay(scaled, calib, starts, horizon, mode, seed, trust=True)
            replays = stacked(steps, mode, advance)
            for name, values in _bounds(blank, replays, *_groups(calib, starts)).items():
                bounds.setdefault(name, {})[mode] = values.astype(np.float32)
    windows = (steps_left(calib)[starts][None] >= np.arange(1, horizon + 1)[:, None]).sum(1)
    return world.with_calibration(replace(blank, windows=windows.astype(np.int64), **bounds))  # type: ignore[arg-type]


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


def _refuse(world: WorldModel, calib: Transitions, level: float, horizon: int | None, update: bool) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    if horizon is not None and horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    if calib.source != "real":
        raise ValueError("calibration needs real episodes; these are imagined")
    imagined, real = _name(world.task), _name(calib.task)
    if imagined != real or calib.core.shape[1] != world.task.core.dim:
        raise ValueError(f"the world imagines {imagined}, the data is of {real}")
    if update and (horizon is not None or world.calibration is None):
        raise ValueError("update adapts bounds that a world has, horizon included; calibrate it first")
    seen = set(world.provenance.fingerprints) & set(calib.fingerprints())
    if seen:
        raise ValueError(
            f"{len(seen)} of these episodes were used by fit; calibrate on episodes it never saw"
        )
    given = world.calibration
    if update and given is not None and set(given.fingerprints) & set(calib.fingerprints()):
        raise ValueError("some of these episodes made the bounds already; update with new ones")


def _name(task: Task) -> str:
    """The env and its keywords; a tuple and the list that a file makes of it are the same."""
    return f"{task.env_id!r} {json.dumps(dict(task.env_kwargs), sort_keys=True, default=repr)}"


def _noise_scale(world: WorldModel, calib: Transitions, starts: np.ndarray, seed: int) -> np.ndarray:
    """Factor ``(target_dim,)`` for the one-step noise of sampled episodes; 1 where the data has no target.

    First each dimension's noise is made to cover one sigma of one member's errors. But sampled episodes also
    differ by their members, and MuJoCo adds no noise; so as much of it is taken back as makes many copies of
    one start cover one sigma of the truth, on average over numbers of steps.
    """
    scale = _one_step_scale(world, calib)
    off = [
        (abs(np.mean(shares) - _ONE_SIGMA), -share, factor)
        for share, factor, shares in _spreads(world, calib, scale, starts, seed)
    ]
    return min(off, key=lambda entry: entry[:2])[2]


def _spreads(
    world: WorldModel, calib: Transitions, scale: np.ndarray, starts: np.ndarray, seed: int
) -> Iterator[tuple[float, np.ndarray, list[float]]]:
    """For each share of the noise kept: the factor, one-sigma coverage of copies after 1, 8 and 32 steps."""
    starts = starts[np.linspace(0, len(starts) - 1, min(len(starts), _MAX_SPREADS)).astype(int)]
    many, blank = starts.repeat(_COPIES), _without_bounds(calib, scale, 0.5)
    moving = calib.core.std(0) > 1e-8
    changes = Chart(calib.task.core.geometry).change_dim
    for share in (2.0, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25, 0.0):
        factor = np.where(np.arange(len(scale)) < changes, share * scale, scale)
        sampled, shares = world.with_calibration(replace(blank, std_scale=factor)), []
        for h, step in enumerate(replay(sampled, calib, many, 32, "sample", seed), start=1):
            there = ~np.isnan(step.error[::_COPIES, 0])
            if h in (1, 8, 32) and there.any():
                copies = step.core.reshape(len(starts), _COPIES, -1).swapaxes(0, 1)[:, there][..., moving]
                truth = calib.next_core[starts[there] + h - 1][:, moving]
                rank = pit(copies, truth, np.random.default_rng(seed))
                shares.append(float((np.abs(rank - 0.5) <= _ONE_SIGMA / 2).mean()))
        yield share, factor, shares


def _one_step_scale(world: WorldModel, calib: Transitions) -> np.ndarray:
    """Factor ``(target_dim,)`` that makes one sigma cover one member's errors."""
    encoded = world.encode_action(given_actions(world, calib.action))
    core = torch.tensor(calib.core, device=world.device)
    with torch.no_grad():
        prediction = world.dynamics.predict(core, encoded)  # (members, n, target_dim)
    target = targets(calib).numpy()
    mean, std = (x.cpu().numpy()[..., : target.shape[1]] for x in (prediction.mean, prediction.std))
    scale = np.ones(world.dynamics.target_dim, np.float32)
    scale[: target.shape[1]] = std_scale(((target - mean) / std).reshape(-1, target.shape[1]))
    return scale


def _without_bounds(calib: Transitions, scale: np.ndarray, level: float) -> Calibration:
    """What the data says before any replay."""
    core, dim = calib.core, calib.core.shape[1]
    center, std = np.median(core, axis=0), core.std(0)
    none: dict[Mode, np.ndarray] = {mode: np.zeros((0, dim), np.float32) for mode in MODES}
    steps: dict[Mode, np.ndarray] = {mode: np.zeros(0, np.float32) for mode in MODES}
    return Calibration(
        level=level,
        std_scale=scale,
        half_width=none,
        per_doubt=none,
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


def _bounds(blank: Calibration, seen: Replays, group: np.ndarray, few: bool) -> dict[str, np.ndarray]:
    """Arrays of a calibration for one mode, by their names there."""
    level, horizon = blank.level, len(seen.doubt)
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
        half_width, per_doubt = (
            grouped_quantile(values, row.group, own) for values, own in zip(row.scores, levels, strict=True)
        )
        if h in looks:
            coverage[:, h - 1] = [
                _left_out_coverage(values, row.group, own)
                for values, own in zip(row.scores, levels, strict=True)
            ]
        bound = blank.saturated(per_doubt * row.scale, row.core)
        # What never moves has neither bound nor error.
        relative = np.divide(row.error, bound, out=np.zeros_like(bound), where=bound > 0)
        worst[h - 1, row.there] = relative.max(1)
        found.append((half_width, per_doubt, np.median((bound / blank.data_std).mean(1))))
    half_widths, per_doubts, distrust = (np.array(column) for column in zip(*found, strict=True))
    worst = np.maximum.accumulate(worst)[..., None]  # so far, all dimensions together
    lasting = [(each[row.there], row.group) for each, row in zip(worst, rows, strict=True)]
    tube_level = _raised_level([lasting[h - 1] for h in looks], level) if few else level
    tube = [grouped_quantile(*each, tube_level)[0] for each in lasting]
    return {
        "half_width": half_widths, "per_doubt": per_doubts, "power": power, "distrust": distrust,
        "tube": np.maximum.accumulate(tube),
        "coverage": coverage,
    }  # fmt: skip


class _Row:
    """What is left of the replays after ``h`` steps, and the scores that bounds are quantiles of."""

    def __init__(self, seen: Replays, group: np.ndarray, h: int, power: float) -> None:
        self.there = ~np.isnan(seen.doubt[h - 1][:, 0])
        self.error, self.core = seen.error[h - 1][self.there], seen.core[h - 1][self.there]
        self.group = group[self.there]
        self.scale = np.maximum(seen.doubt[h - 1][self.there], SMALLEST_DOUBT) ** power
        self.scores = self.error, self.error / self.scale


def _powers(blank: Calibration, seen: Replays, group: np.ndarray, looks: list[int]) -> np.ndarray:
    """The exponent ``(horizon,)`` of doubt that makes bounds narrowest, looks and their neighbours taken."""
    width = np.empty((len(looks), len(_POWERS)))
    for i, h in enumerate(looks):
        for k, power in enumerate(_POWERS):
            row = _Row(seen, group, h, power)
            made = grouped_quantile(row.scores[1], row.group, blank.level)
            width[i, k] = (blank.saturated(made * row.scale, row.core) / blank.data_std).mean()
    share = width / np.maximum(width[:, :1], 1e-12)
    padded = np.concatenate([share[:1], share, share[-1:]])
    best = np.argmin(padded[:-2] + 2 * padded[1:-1] + padded[2:], axis=1)
    steps = np.log(np.arange(1, len(seen.doubt) + 1))
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
