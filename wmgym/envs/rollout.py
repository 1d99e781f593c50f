"""Whole imagined episodes of a policy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wmgym.data.acting import Actor, PolicyError
from wmgym.data.policy import PolicyFn
from wmgym.envs.vector_env import ImaginedVectorEnv
from wmgym.io.progress import track
from wmgym.models.dynamics import Propagation
from wmgym.models.world import WorldModel
from wmgym.tasks.actions import uniform


def rollout(
    world: WorldModel,
    policy: PolicyFn | None,
    starts: np.ndarray,
    seed: int = 0,
    *,
    max_episode_steps: int | None = None,
    propagation: Propagation = "member",
    progress: bool = False,
    look: Callable[[np.ndarray], None] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Imagine one whole episode of a policy from each start state, all side by side.

    Args:
        world: where to imagine them.
        policy: observations ``(n, *obs_shape)`` to actions ``(n, *action_shape)``; None draws actions
            uniformly.
        starts: ``(n, state_dim)`` start states, or ``(n, core_dim)`` cores.
        seed: decides everything random.
        max_episode_steps: steps after which an episode is truncated; None takes the real env's limit.
        propagation: see ``WorldModel.step``.
        progress: show a bar on a terminal.
        look: called after each step with the cores ``(m, core_dim)`` of episodes that go on and have not
            diverged.

    Returns:
        Undiscounted returns ``(n,)`` float64, lengths ``(n,)`` int64, and whether each episode diverged
        ``(n,)`` bool.

    Raises:
        PolicyError: of the policy; see ``Actor``.
        ValueError: no time limit, or starts of another shape.
    """
    n = len(starts)
    env = ImaginedVectorEnv(world, n, max_episode_steps=max_episode_steps, propagation=propagation)
    if env.max_episode_steps is None:
        raise ValueError("the task has no time limit to end episodes by; pass max_episode_steps=")
    obs, _ = env.reset(seed=seed, options={"state": starts})
    rng = np.random.default_rng(seed)
    actor = None if policy is None else Actor(policy, world.task)
    returns, lengths = np.zeros(n), np.zeros(n, np.int64)
    diverged, going = np.zeros(n, bool), np.ones(n, bool)
    with track("imagine", env.max_episode_steps, show=progress) as advance:
        while going.any():
            if actor is None:
                action = uniform(world.task.action_space, rng, n)
            else:
                try:
                    action = actor(world.task.flat(obs), range(n))
                except PolicyError as error:
                    raise PolicyError(f"{error}; imagined step {lengths.max()}") from error
            obs, reward, terminated, truncated, infos = env.step(action)
            returns += reward * going
            lengths += going
            diverged |= going & infos.get("final_info", infos)["diverged"].astype(bool)
            going &= ~(terminated | truncated)
            if look is not None:
                look(env.core()[going & ~diverged])
            advance(1)
    return returns, lengths, diverged
