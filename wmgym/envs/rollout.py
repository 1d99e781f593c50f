"""Whole imagined episodes of a policy."""

from __future__ import annotations

import numpy as np

from wmgym.data.policy import PolicyFn, apply_policy, random_actions
from wmgym.envs.vector_env import ImaginedVectorEnv
from wmgym.io.progress import track
from wmgym.models.dynamics import Propagation
from wmgym.models.world import WorldModel


def imagine(
    world: WorldModel,
    policy: PolicyFn | None,
    starts: np.ndarray,
    seed: int = 0,
    *,
    max_episode_steps: int | None = None,
    propagation: Propagation = "member",
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns, lengths and divergence ``(n,)`` of one imagined episode from each start."""
    env = ImaginedVectorEnv(world, len(starts), max_episode_steps=max_episode_steps, propagation=propagation)
    obs, _ = env.reset(seed=seed, options={"state": starts})
    rng = np.random.default_rng(seed)
    returns, lengths, diverged = (
        np.zeros(len(starts)),
        np.zeros(len(starts), np.int64),
        np.zeros(len(starts), bool),
    )
    going = np.ones(len(starts), bool)
    limit = env.max_episode_steps
    if limit is None:
        raise ValueError("the task has no time limit to end episodes by; pass max_episode_steps=")
    with track("imagine", limit, show=progress) as advance:
        while going.any():
            if policy is None:
                action = random_actions(world.task.action_space, rng, len(starts))
            else:
                action = apply_policy(policy, obs)
            obs, reward, terminated, truncated, infos = env.step(action)
            returns += reward * going
            lengths += going
            diverged |= going & infos.get("final_info", infos)["diverged"].astype(bool)
            going &= ~(terminated | truncated)
            advance(1)
    return returns, lengths, diverged
