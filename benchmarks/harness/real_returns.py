"""Returns of the reference policies in MuJoCo and in the shipped worlds, collected once under ``runs/``.

Returns alone are wanted, so envs are stepped without Gymnasium's wrappers and nothing else is recorded:
faster than ``wmgym.collect``, whose seeds they share.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import wmgym
from benchmarks.harness.results import ROOT, RUNS
from wmgym.data.policy import PolicyFn, apply_policy
from wmgym.data.pool import load_pool
from wmgym.envs.rollout import rollout
from wmgym.models.dynamics import Propagation
from wmgym.tasks import ground_truth
from wmgym.tasks.actions import uniform

SEED, BATCH = 2026, 50


@dataclass(frozen=True)
class Returns:
    """Episodes of one policy, ``(n,)`` each, by start state ``(n, state_dim)``."""

    state: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray


def everyone(env_id: str) -> dict[str, PolicyFn | None]:
    """Every reference policy of a task, held-out ones too, and uniform random actions."""
    return {**load_pool(ROOT / "policies" / env_id, split=None), "random": None}


def held_out(env_id: str) -> set[str]:
    """Names of those that no fit and no calibration of the shipped world saw."""
    return set(load_pool(ROOT / "policies" / env_id, split="held-out"))


def real(env_id: str, name: str, episodes: int) -> Returns:
    """Whole episodes in MuJoCo."""

    def make() -> Returns:
        task, policy, parts = wmgym.make_task(env_id), everyone(env_id)[name], []
        for first in range(0, episodes, BATCH):
            parts.append(_play(task, policy, reset_seeds(SEED, range(first, min(first + BATCH, episodes)))))
        return _joined(parts)

    return _once(f"{env_id}/{name}/real-{episodes}", make)


def perturbed(env_id: str, name: str, episodes: int) -> Returns:
    """The first of the same episodes, in MuJoCo with 0.001 sigma noise on the start state."""

    def make() -> Returns:
        task, policy = wmgym.make_task(env_id), everyone(env_id)[name]
        bounds = wmgym.load(env_id).calibration
        assert bounds is not None
        return _play(task, policy, reset_seeds(SEED, range(episodes)), 1e-3 * bounds.data_std)

    return _once(f"{env_id}/{name}/perturbed-{episodes}", make)


def starts(env_id: str, count: int) -> np.ndarray:
    """Start states ``(count, state_dim)`` from resets of the real env, other than those of ``real``."""
    task = wmgym.make_task(env_id)
    env = task.make()
    return np.concatenate([_reset(task, env, seed)[1] for seed in reset_seeds(SEED + 1, range(count))])


def imagined(
    env_id: str, name: str, state: np.ndarray, label: str, propagation: Propagation = "member"
) -> Returns:
    """Whole imagined episodes from given start states ``(n, state_dim)``."""

    def make() -> Returns:
        world, policy = wmgym.load(env_id), everyone(env_id)[name]
        returns, lengths, _ = rollout(world, policy, state, seed=SEED, propagation=propagation)
        return Returns(state, returns, lengths)

    return _once(f"{env_id}/{name}/{label}", make)


def _play(
    task: wmgym.Task, policy: PolicyFn | None, seeds: list[int], noise: np.ndarray | float = 0.0
) -> Returns:
    envs: list[Any] = [task.make() for _ in seeds]
    begun = [_reset(task, env, seed) for env, seed in zip(envs, seeds, strict=True)]
    obs = np.stack([first for first, _ in begun])
    rng, space, limit = np.random.default_rng(seeds[0]), task.action_space, task.max_episode_steps
    if np.any(noise):
        for row, env in enumerate(envs):
            core = task.read_core(env, obs[row]) + noise * rng.normal(size=task.core.dim)
            place = task.read_unobserved(env)[: task.core.displacement_dim]
            env.unwrapped.set_state(*ground_truth.to_mujoco(task, core, place))
            obs[row] = env.unwrapped._get_obs()
    returns, lengths, going = np.zeros(len(envs)), np.zeros(len(envs), np.int64), np.arange(len(envs))
    while len(going):
        chosen = uniform(space, rng, len(going)) if policy is None else apply_policy(policy, obs)
        action = np.clip(chosen, space.low, space.high).astype(space.dtype)
        rows, over = [], []
        for env, each in zip(going, action, strict=True):
            after, reward, terminated, _, _ = envs[env].unwrapped.step(each)
            returns[env] += float(reward)
            rows.append(after)
            over.append(terminated)
        lengths[going] += 1
        left = ~np.array(over) & (lengths[going] < (limit or 0))
        going, obs = going[left], np.stack(rows)[left]
    for env in envs:
        env.close()
    return Returns(np.concatenate([state for _, state in begun]), returns, lengths)


def _reset(task: wmgym.Task, env: gym.Env[Any, Any], seed: int) -> tuple[np.ndarray, np.ndarray]:
    obs, _ = env.reset(seed=seed)
    obs = np.array(obs)
    return obs, task.state(task.read_core(env, obs)[None], obs[None])


def reset_seeds(seed: int, indices: range) -> list[int]:
    """As ``wmgym.collect`` draws them."""
    return [int(np.random.SeedSequence((seed, index)).generate_state(1)[0]) for index in indices]


def _joined(parts: list[Returns]) -> Returns:
    return Returns(*(np.concatenate([getattr(p, f) for p in parts]) for f in Returns.__dataclass_fields__))


def _once(name: str, make: Callable[[], Returns]) -> Returns:
    path: Path = RUNS / "returns" / f"{name}.npz"
    if not path.exists():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(temporary, **vars(made))
        temporary.replace(path)
    with np.load(path) as found:
        return Returns(**found)
