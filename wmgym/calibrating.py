"""Calibrate a world on real episodes that it never saw."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import torch
from gymnasium import spaces

from wmgym.data import Transitions
from wmgym.dynamics import targets
from wmgym.progress import Advance, track
from wmgym.task import Task
from wmgym.world import MODES, Calibration, Mode, WorldModel

_MAX_WINDOWS = 256  # starts replayed, spread evenly over the held-out data
_ONE_SIGMA = 0.6827


def calibrate(
    world: WorldModel,
    calib: Transitions,
    *,
    level: float = 0.9,
    horizon: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> WorldModel:
    """Give a world error bounds from held-out episodes.

    First the one-step noise is scaled, per target dimension, so that one sigma covers 68.27 % of the held-out
    changes. Then the real actions are replayed open loop from many held-out states, in every mode, and the
    errors after each number of steps give conformal half-widths. Windows of one episode depend on each other,
    so each episode's errors enter as one distribution and the quantile is that of their equal mixture
    ("pooling CDFs", Dunn, Wasserman & Ramdas 2022, arXiv:1809.07441).

    Args:
        world: the world to calibrate.
        calib: real episodes that ``fit`` did not see.
        level: probability that each stated half-width shall hold with.
        horizon: steps to state bounds for; None takes the longest held-out episode.
        seed: decides the sampled replays.
        progress: show a bar on a terminal.

    Raises:
        ValueError: episodes that ``fit`` saw, another task, imagined data, or a level outside (0, 1).
    """
    _refuse(world, calib, level, horizon)
    longest = int(calib.lengths.max())
    horizon = min(horizon or longest, longest)
    scale = _noise_scale(world, calib)
    scaled = _with_noise(world, scale)
    windows = _starts(calib, _MAX_WINDOWS)
    half_width, coverage = {}, {}
    with track("calibrate", len(MODES) * horizon, show=progress) as advance:
        for mode in MODES:
            rows = list(_widths(scaled, calib, windows, horizon, mode, level, seed, advance))
            half_width[mode] = np.array([width for width, _ in rows], np.float32)
            coverage[mode] = np.array([covered for _, covered in rows], np.float32)
    left = _steps_left(calib)[windows]
    return world.with_calibration(
        Calibration(
            level=level,
            std_scale=scale,
            half_width=half_width,
            windows=(left[None] >= np.arange(1, horizon + 1)[:, None]).sum(1).astype(np.int64),
            episodes=calib.num_episodes,
            coverage=coverage,
            data_std=_spread(calib),
            fingerprints=calib.fingerprints(),
        )
    )


def replay_errors(
    world: WorldModel, real: Transitions, starts: np.ndarray, horizon: int, mode: Mode, seed: int = 0
) -> Iterator[np.ndarray]:
    """Replay real actions in imagination, open loop.

    Yields:
        For h = 1 .. ``horizon`` the absolute error ``(len(starts), core_dim)`` after h steps from each row in
        ``starts``, raw units; NaN where the real episode was over by then.
    """
    device = world.device
    generator = torch.Generator(device).manual_seed(seed)
    state = world.init(torch.tensor(real.state[starts], device=device), generator)
    left = _steps_left(real)[starts]
    going = np.arange(len(starts))
    for h in range(horizon):
        keep = left[going] > h
        if not keep.all():  # replay only what can still be compared
            mask = torch.tensor(keep, device=device)
            state, going = state.map(lambda rows, mask=mask: rows[mask]), going[keep]  # type: ignore[misc]
        error = np.full((len(starts), real.core.shape[1]), np.nan, np.float32)
        if len(going):
            rows = starts[going] + h
            action = _given_actions(world, real.action[rows])
            with torch.no_grad():
                state = world.step(state, action, mode, generator).state
            error[going] = np.abs(state.core.cpu().numpy() - real.next_core[rows])
        yield error


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


def _refuse(world: WorldModel, calib: Transitions, level: float, horizon: int | None) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    if horizon is not None and horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    if calib.source != "real":
        raise ValueError("calibration needs real episodes; these are imagined")
    imagined, real = _name(world.task), _name(calib.task)
    if imagined != real or calib.core.shape[1] != world.task.core.dim:
        raise ValueError(f"the world imagines {imagined}, the data is of {real}")
    seen = set(world.provenance.fingerprints) & set(calib.fingerprints())
    if seen:
        raise ValueError(
            f"{len(seen)} of these episodes were used by fit; calibrate on episodes it never saw"
        )


def _name(task: Task) -> str:
    """The env and its keywords; a tuple and the list that a file makes of it are the same."""
    return f"{task.env_id!r} {json.dumps(dict(task.env_kwargs), sort_keys=True, default=repr)}"


def _noise_scale(world: WorldModel, calib: Transitions) -> np.ndarray:
    """Factor ``(target_dim,)`` for the one-step noise; 1 where the data has no target."""
    encoded = world.encode_action(_given_actions(world, calib.action))
    core = torch.tensor(calib.core, device=world.device)
    with torch.no_grad():
        prediction = world.dynamics.predict(core, encoded)  # (members, n, target_dim)
    target = targets(calib).numpy()
    mean, std = (x.cpu().numpy()[..., : target.shape[1]] for x in (prediction.mean, prediction.std))
    scale = np.ones(world.dynamics.target_dim, np.float32)
    scale[: target.shape[1]] = std_scale(((target - mean) / std).reshape(-1, target.shape[1]))
    return scale


def _with_noise(world: WorldModel, scale: np.ndarray) -> WorldModel:
    """The world with one-step noise scaled; a calibration without bounds yet."""
    empty: dict[Mode, np.ndarray] = {mode: np.zeros((0, world.task.core.dim), np.float32) for mode in MODES}
    blank = Calibration(0.5, scale, empty, np.zeros(0, np.int64), 0, {}, np.zeros(0, np.float32), ())
    return world.with_calibration(blank)


def _given_actions(world: WorldModel, stored: np.ndarray) -> torch.Tensor:
    """Stored actions as the agent gave them: Discrete ones count from the space's start again."""
    space = world.task.action_space
    start = int(space.start) if isinstance(space, spaces.Discrete) else 0
    return torch.tensor(stored, device=world.device) + start


def _widths(
    world: WorldModel,
    calib: Transitions,
    windows: np.ndarray,
    horizon: int,
    mode: Mode,
    level: float,
    seed: int,
    advance: Advance,
) -> Iterator[tuple[np.ndarray, float]]:
    """For every horizon the half-widths ``(core_dim,)`` and their leave-one-episode-out coverage."""
    group = calib.episode[windows]
    for h, error in enumerate(replay_errors(world, calib, windows, horizon, mode, seed), start=1):
        there = ~np.isnan(error[:, 0])
        values, episodes = error[there], group[there]
        covered = _left_out_coverage(values, episodes, level) if h in _COVERAGE_AT else float("nan")
        advance(1)
        yield grouped_quantile(values, episodes, level), covered


_COVERAGE_AT = frozenset({1, 2, 4, 8, 16, 32, 64, 128, 256, 368, 512, 1000})  # costs a sort for each episode


def _left_out_coverage(values: np.ndarray, group: np.ndarray, level: float) -> float:
    """Coverage of each episode by the bound made from the others, averaged over episodes."""
    names = np.unique(group)
    if len(names) < 2:
        return float("nan")
    names = names[np.linspace(0, len(names) - 1, min(len(names), 20)).astype(int)]
    shares = []
    for name in names:
        own = group == name
        shares.append((values[own] <= grouped_quantile(values[~own], group[~own], level)).mean())
    return float(np.mean(shares))


def _starts(calib: Transitions, most: int) -> np.ndarray:
    """Rows to replay from: every episode's first state, and states spread evenly over the rest."""
    rows = np.arange(len(calib))
    if len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).astype(int)]
    first = calib.first[np.linspace(0, calib.num_episodes - 1, min(calib.num_episodes, most)).astype(int)]
    return np.union1d(rows, first)


def _steps_left(data: Transitions) -> np.ndarray:
    """Transitions from each row to its episode's end, that row included: ``(n,)``."""
    ends = np.cumsum(data.lengths)
    left: np.ndarray = ends[data.episode] - np.arange(len(data))
    return left


def _spread(calib: Transitions) -> np.ndarray:
    std = calib.core.std(0)
    return np.where(std < 1e-8, 1.0, std).astype(np.float32)
