"""Numbers that more than one benchmark computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import stats

import wmgym
from benchmarks.harness.results import Row
from wmgym.calibration.open_loop import open_loop_steps
from wmgym.data.policy import MLPPolicy, apply_policy
from wmgym.data.transitions import Transitions


@torch.no_grad()
def imagine(world: wmgym.WorldModel, state: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Cores ``(n, steps, core_dim)`` that the mean of the ensemble predicts, open loop."""
    at = world.init(torch.tensor(state), torch.Generator().manual_seed(0))
    path = []
    for t in range(actions.shape[1]):
        at = world.step(at, torch.tensor(actions[:, t]), "mean").state
        path.append(at.core.numpy())
    return np.stack(path, 1).astype(np.float64)


def imagined_episodes(
    world: wmgym.WorldModel, policy: MLPPolicy, starts: np.ndarray, propagation: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns, lengths, divergence ``(n,)`` and the rows ``[core, action]`` met on the way."""
    env = wmgym.ImaginedVectorEnv(world, len(starts), propagation=propagation)
    obs, _ = env.reset(seed=0, options={"state": starts})
    returns, lengths = np.zeros(len(starts)), np.zeros(len(starts), np.int64)
    diverged, going, rows = np.zeros(len(starts), bool), np.ones(len(starts), bool), []
    while going.any():
        core = env.core()
        action = apply_policy(policy, obs)
        rows.append(np.concatenate([core, action.reshape(len(core), -1)], 1)[going])
        obs, reward, terminated, truncated, infos = env.step(action)
        returns += reward * going
        lengths += going
        diverged |= going & infos.get("final_info", infos)["diverged"].astype(bool)
        going &= ~(terminated | truncated)
    return returns, lengths, diverged, np.concatenate(rows)


def core_error(task: Any, found: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Difference of cores ``(..., core_dim)``: angles the short way round, quaternions of like sign."""
    geometry, error = task.core.geometry, found - real
    angles = [*geometry.angles]
    error[..., angles] = (error[..., angles] + np.pi) % (2 * np.pi) - np.pi
    for first in geometry.quaternions:
        at = slice(first, first + 4)
        sign = np.sign((found[..., at] * real[..., at]).sum(-1, keepdims=True))
        error[..., at] = np.where(sign < 0, -1, 1) * found[..., at] - real[..., at]
    return error


def window_error(
    world: wmgym.WorldModel, test: Transitions, std: np.ndarray, horizon: int, rng: np.random.Generator
) -> float:
    """Normalised error after ``horizon`` steps, mean over 200 windows at most."""
    starts = test.window_starts(horizon)
    if not len(starts):
        return float("nan")
    starts = rng.choice(starts, size=min(200, len(starts)), replace=False)
    path = imagine(world, test.state[starts], test.action[starts[:, None] + np.arange(horizon)])[:, -1]
    error = core_error(world.task, path, test.next_core[starts + horizon - 1].astype(np.float64)) / std
    return float(np.sqrt(np.minimum(error**2, 1e4).mean(1)).mean())


def coverage_at(world: wmgym.WorldModel, real: Transitions, horizons: tuple[int, ...]) -> dict[str, float]:
    """Share of errors inside the bounds given disagreement, after numbers of steps that some windows last."""
    table, starts, found = world.calibration, starts_of(real, 128), dict[str, float]()
    assert table is not None
    for h, step in enumerate(open_loop_steps(world, real, starts, max(horizons), "member", trust=True), 1):
        there = ~np.isnan(step.disagreement[:, 0])
        if h in horizons and there.any():
            elapsed = np.full(there.sum(), h)
            bound = table.error_bound(elapsed, "member", step.core[there], step.disagreement[there])
            found[str(h)] = round(float((step.error[there] <= bound).mean()), 4)
    return found


def spread(data: Transitions) -> np.ndarray:
    """Standard deviation ``(core_dim,)``, the unit of normalised errors; 1 where nothing moves."""
    std = data.core.std(0)
    return np.where(std < 1e-8, 1.0, std)


def starts_of(test: Transitions, count: int) -> np.ndarray:
    """Rows spread evenly over every policy's episodes, ``count`` a policy."""
    names, found = np.array(test.episode_policy)[test.episode], []
    for name in dict.fromkeys(test.episode_policy):
        rows = np.flatnonzero(names == name)
        found.append(rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)])
    return np.concatenate(found)


def auroc(score: np.ndarray, label: np.ndarray) -> float | None:
    """Probability that a labelled row scores above another one; None where all are of one kind."""
    if label.all() or not label.any():
        return None
    ranked = stats.mannwhitneyu(score[label], score[~label]).statistic
    return float(ranked / (label.sum() * (~label).sum()))


def fair_width(error: np.ndarray, bound: np.ndarray, level: float = 0.9) -> float:
    """Mean width of bounds ``(n, dim)`` scaled so that they cover exactly ``level`` of the errors."""
    return float(np.quantile(error / np.maximum(bound, 1e-12), level) * bound.mean())


def break_even(rows: list[Row], env_id: str) -> int | None:
    """Of the sizes in the rows of ``throughput`` the first at which imagined envs outrun mujoco.rollout."""
    rates = {
        (r["engine"], r["num_envs"]): r["steps_per_s"]
        for r in rows
        if r["env"] == env_id and r["precision"] != "bfloat16"
    }
    rollout = max(rate for (engine, _), rate in rates.items() if engine == "mujoco.rollout")
    ahead = [n for (engine, n), rate in rates.items() if engine == "ImaginedVectorEnv" and rate > rollout]
    return min(ahead, default=None)


def matters(row: Row, errors: float = 2.0) -> bool:
    """Whether a shift changes the return by a tenth, and by more than so many standard errors."""
    size = abs(row["change"])
    return bool(row["kind"] != "usual" and size >= 0.1 and size > errors * row["change_se"])
