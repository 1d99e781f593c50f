"""How a task's simulator state, observation, reward and termination relate.

Every function here works on NumPy arrays and on torch tensors alike, batched over leading axes, so that one
formula serves the imagined env (torch, differentiable) and the check against the real one (NumPy, float64).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np

Array: TypeAlias = Any
"""A NumPy array or a torch tensor; functions return the kind they were given."""

RewardFn: TypeAlias = Callable[[Array, Array, Array, Array], Array]
TerminatedFn: TypeAlias = Callable[[Array, Array, Array], Array]


@dataclass(frozen=True)
class Core:
    """The part of the simulator state that the dynamics step, and its relation to the observation.

    Attributes:
        dim: number of core dimensions.
        observe: core ``(..., dim)`` to the flat observation ``(..., obs_dim)``.
        from_obs: flat observation to core; exact unless the env clips what it shows.
        read: live env to core ``(dim,)`` in float64; None reads the observation through ``from_obs``.
        angles: core dimensions in radians that live on the circle.
        displacement_dim: world displacements a reward is paid for and the observation omits.
        position: live env to the world positions ``(displacement_dim,)`` whose change is that displacement.
    """

    dim: int
    observe: Callable[[Array], Array]
    from_obs: Callable[[Array], Array]
    read: Callable[[gym.Env[Any, Any]], np.ndarray] | None = None
    angles: tuple[int, ...] = ()
    displacement_dim: int = 0
    position: Callable[[gym.Env[Any, Any]], np.ndarray] | None = None


@dataclass(frozen=True)
class Known:
    """A task whose reward and termination are known in code.

    Attributes:
        core: the state layout.
        dt: seconds of simulated time a step.
        reward: ``(core, action, next_core, displacement) -> (batch,)`` with the action as the agent gave it.
        terminated: ``(core, action, next_core) -> (batch,)`` of bool.
    """

    core: Core
    dt: float
    reward: RewardFn
    terminated: TerminatedFn


def identity_core(dim: int) -> Core:
    """The core of an env whose whole observation is its state."""
    return Core(dim=dim, observe=_same, from_obs=_same)


def _same(array: Array) -> Array:
    return array
