"""Calibrate a world on real episodes that it never saw."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from wmgym import drift
from wmgym.calibration import SMALLEST_DOUBT, Calibration
from wmgym.data import Transitions
from wmgym.dynamics import MODES, Mode, targets
from wmgym.progress import Advance, track
from wmgym.replaying import given_actions, replay, spread_starts, steps_left
from wmgym.task import Task
from wmgym.world import WorldModel

_MAX_WINDOWS = 256  # starts replayed, spread evenly over the held-out data
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
    divided by the episode's doubt, what two ensemble members disagreed by so far. Windows of one episode
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
    scale = _noise_scale(world, calib)
    blank = _without_bounds(calib, scale, level)
    scaled = world.with_calibration(blank)
    starts = spread_starts(calib, _MAX_WINDOWS)
    found: dict[Mode, list[_Bounds]] = {}
    with track("calibrate", len(MODES) * horizon, show=progress) as advance:
        for mode in MODES:
            found[mode] = list(_bounds(scaled, calib, starts, horizon, mode, level, seed, advance))

    def by_mode(name: str) -> dict[Mode, np.ndarray]:
        rows = {mode: [getattr(row, name) for row in found[mode]] for mode in MODES}
        return {mode: np.array(values, np.float32) for mode, values in rows.items()}

    left = steps_left(calib)[starts]
    return world.with_calibration(
        replace(
            blank,
            half_width=by_mode("half_width"),
            per_doubt=by_mode("per_doubt"),
            tube=by_mode("tube"),
            distrust=by_mode("distrust"),
            coverage={mode: shares.T.copy() for mode, shares in by_mode("coverage").items()},
            windows=(left[None] >= np.arange(1, horizon + 1)[:, None]).sum(1).astype(np.int64),
        )
    )


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


def _noise_scale(world: WorldModel, calib: Transitions) -> np.ndarray:
    """Factor ``(target_dim,)`` for the one-step noise; 1 where the data has no target."""
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


@dataclass(frozen=True)
class _Bounds:
    """One row of a calibration."""

    half_width: np.ndarray
    per_doubt: np.ndarray
    tube: float
    distrust: float
    coverage: tuple[float, float]


def _bounds(
    world: WorldModel,
    calib: Transitions,
    starts: np.ndarray,
    horizon: int,
    mode: Mode,
    level: float,
    seed: int,
    advance: Advance,
) -> Iterator[_Bounds]:
    """Bounds after each number of steps."""
    given = world.calibration
    assert given is not None
    group, few = _groups(calib, starts)
    levels, worst = [level, level], np.zeros(len(starts))
    for h, step in enumerate(replay(world, calib, starts, horizon, mode, seed, trust=True), start=1):
        there = ~np.isnan(step.doubt)
        error, who = step.error[there], group[there]
        doubt = np.maximum(step.doubt[there], SMALLEST_DOUBT)[:, None]
        ratio, shares = error / doubt, (float("nan"), float("nan"))
        if h in _COVERAGE_AT:
            if few:
                levels = [_raised_level(values, who, level) for values in (error, ratio)]
            pairs = zip((error, ratio), levels, strict=True)
            alone, doubted = (_left_out_coverage(values, who, own) for values, own in pairs)
            shares = alone, doubted
        half_width, per_doubt = (
            grouped_quantile(values, who, own) for values, own in zip((error, ratio), levels, strict=True)
        )
        bound = np.minimum(per_doubt * doubt, given.reach + np.abs(step.core[there] - given.center))
        used = bound > 0  # what never moves has no error either
        relative = np.divide(error, bound, out=np.zeros_like(bound), where=used)
        worst[there] = np.maximum(worst[there], relative.max(1))
        advance(1)
        yield _Bounds(
            half_width,
            per_doubt,
            float(grouped_quantile(worst[:, None], group, level)[0]),
            float(np.median((bound / given.data_std).mean(1))),
            shares,
        )


_COVERAGE_AT = frozenset({1, 2, 4, 8, 16, 32, 64, 128, 256, 368, 512, 1000})  # costs a sort for each group


def _groups(calib: Transitions, starts: np.ndarray) -> tuple[np.ndarray, bool]:
    """What windows depend on each other: the policy's, or the episode's where one policy made all of them.

    The flag tells that there are few groups, too few for a quantile to count them.
    """
    names = list(dict.fromkeys(calib.episode_policy))
    episode = calib.episode[starts]
    if len(names) < 2:
        return episode, False
    return np.array([names.index(name) for name in calib.episode_policy])[episode], True


def _raised_level(values: np.ndarray, group: np.ndarray, level: float) -> float:
    """The smallest level at which bounds from the other groups cover each one as often as promised."""
    levels = level + (1 - level) * np.array([0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95])
    enough = (own for own in levels if not _left_out_coverage(values, group, own) < level)
    return float(next(enough, levels[-1]))


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
