"""Real steps from the states that a policy comes to in a world, and in reality perhaps never."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from wmgym.data.branch import from_states
from wmgym.data.joining import concat
from wmgym.data.policy import MLPPolicy, PolicyFn, apply_policy
from wmgym.data.transitions import Transitions
from wmgym.envs.rollout import rollout
from wmgym.models.dynamics import Propagation
from wmgym.models.world import WorldModel
from wmgym.tasks.actions import uniform

_STEPS = 20  # of each episode
_NOISES = (0.0, 0.2)
_IMAGINED = 64  # episodes whose states real ones branch off


def branch_off(
    world: WorldModel,
    policy: MLPPolicy,
    starts: np.ndarray,
    steps: int,
    seed: int,
    *,
    limit: int,
    propagation: Propagation,
) -> tuple[Transitions | None, int]:
    """Short real episodes that begin where imagined ones have come to, and the real steps that they took.

    Where the world errs it leads a policy to states that real episodes do not reach, and what it pays there
    is what was learned: real steps from these very states tell it so. None where the steps are too few.

    Args:
        world: where the policy was trained, of an env that ``can_be_put`` into states.
        policy: of that training.
        starts: ``(n, state_dim)`` where imagined episodes begin.
        steps: real ones at most.
        seed: decides everything random.
        limit: steps of an imagined episode.
        propagation: see ``WorldModel.step``.
    """
    space, long = world.task.action_space, min(_STEPS, limit - 1)
    count = steps // (long + 1) // len(_NOISES) if long else 0
    if not count:
        return None, 0
    starts = np.resize(starts, (_IMAGINED, starts.shape[1]))
    low, high = (side[: world.task.core.dim] for side in (world.low, world.high))
    parts, taken = list[Transitions](), 0
    for place, noise in enumerate(_NOISES):
        rng, cores = np.random.default_rng((seed, place)), list[np.ndarray]()
        acts = with_noise(policy, space, noise, rng)
        rollout(
            world, acts, starts, seed, max_episode_steps=limit, propagation=propagation, look=cores.append
        )
        chosen = rng.permutation(np.concatenate(cores))[:count]
        found, spent = from_states(world.task, acts, policy.name, chosen, long, seed=seed + place)
        taken += spent
        if found is None:
            continue
        within = ((found.next_core >= low) & (found.next_core <= high)).all(1)
        kept = np.setdiff1d(np.arange(found.num_episodes), found.episode[~within])  # the rest fell apart
        if len(kept):
            parts.append(found.select(kept))
    return (concat(parts) if parts else None), taken


def with_noise(
    policy: PolicyFn, space: spaces.Space[Any], noise: float, rng: np.random.Generator
) -> PolicyFn:
    """The policy with Gaussian noise on its actions, as a share of half their range.

    Where actions are whole numbers, that is the share of them that are random; all count from where the
    policy's do.
    """
    if not isinstance(space, spaces.Box):
        return _SometimesRandom(policy, space, noise, rng)
    scale = noise * (space.high - space.low) / 2

    def act(obs: np.ndarray) -> np.ndarray:
        action = np.asarray(policy(obs), np.float32)
        return (action + scale * rng.standard_normal(action.shape)).astype(np.float32)

    return act


class _SometimesRandom:
    """A policy of whole-number actions, a share of them random.

    Attributes:
        action_space: the policy's, which may count from elsewhere than the env's; ``Actor`` moves both.
    """

    def __init__(
        self, policy: PolicyFn, space: spaces.Space[Any], share: float, rng: np.random.Generator
    ) -> None:
        own = getattr(policy, "action_space", None)
        self.action_space: Any = space if own is None else own
        self._policy, self._share, self._rng = policy, share, rng

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        action = apply_policy(self._policy, obs)
        wild = self._rng.random(len(action)) < self._share
        drawn = uniform(self.action_space, self._rng, len(action))
        return np.where(wild.reshape(-1, *(1,) * (action.ndim - 1)), drawn, action)
