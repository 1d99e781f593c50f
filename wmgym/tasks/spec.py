"""What is known of a task in code: its reward, its termination and its time step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from wmgym.tasks.layout import Array, Core

RewardFn: TypeAlias = Callable[[Array, Array, Array, Array], Array]
TerminatedFn: TypeAlias = Callable[[Array, Array, Array, Array], Array]


@dataclass(frozen=True)
class Known:
    """A task whose reward and termination are known in code.

    Attributes:
        core: the state layout.
        dt: seconds of simulated time a step.
        reward: ``(state, action, next_state, unobserved) -> (batch,)`` with the action as the agent gave it.
        terminated: ``(state, action, next_state, unobserved) -> (batch,)`` of bool.
    """

    core: Core
    dt: float
    reward: RewardFn
    terminated: TerminatedFn


def never(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
    """The termination of tasks that have none: false, of the caller's array kind."""
    return next_state[..., 0] != next_state[..., 0]


def unless(healthy: Callable[[Array], Array], when: bool) -> TerminatedFn:
    """The termination of tasks that end where ``healthy`` says no, or never where ``when`` is false."""
    return (lambda state, action, next_state, unobserved: ~healthy(next_state)) if when else never
