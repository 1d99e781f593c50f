"""What is known of a task in code: its reward, its termination and its time step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from wmgym.io.arguments import function
from wmgym.tasks.layout import Array, Core

RewardFn: TypeAlias = Callable[[Array, Array, Array, Array], Array]
TerminatedFn: TypeAlias = Callable[[Array, Array, Array, Array], Array]
UserRewardFn: TypeAlias = Callable[[Array, Array, Array], Array]


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


@dataclass(frozen=True)
class OnCore:
    """A caller's function of observations as one of states; ``name`` is the argument that it came as."""

    core: Core
    function: UserRewardFn
    name: str

    def __post_init__(self) -> None:
        """Refuse what cannot be called."""
        function(self.name, self.function)

    def __call__(self, state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        """What the function says, one value a row."""
        obs, next_obs = self.core.observe(state), self.core.observe(next_state)
        try:
            answer = self.function(obs, action, next_obs)
        except Exception as error:
            said = " ".join(str(error).split())
            raise ValueError(f"{self.name} raised {type(error).__name__}: {said}") from error
        found, need = tuple(getattr(answer, "shape", ())), tuple(next_state.shape[:-1])
        if found != need:
            raise ValueError(f"{self.name} returned shape {found}, expected {need}: one value a row")
        if self.name == "terminated_fn" and "bool" not in str(answer.dtype):
            raise ValueError(f"{self.name} returned {answer.dtype} of shape {found}, expected bool")
        return answer


def never(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
    """The termination of tasks that have none: false, of the caller's array kind."""
    return next_state[..., 0] != next_state[..., 0]


def unless(healthy: Callable[[Array], Array], when: bool) -> TerminatedFn:
    """The termination of tasks that end where ``healthy`` says no, or never where ``when`` is false."""
    return (lambda state, action, next_state, unobserved: ~healthy(next_state)) if when else never


def within(values: Array, bounds: tuple[float, float]) -> Array:
    """Whether values lie strictly between two bounds; a NaN does not."""
    return (bounds[0] < values) & (values < bounds[1])


def forward_reward(
    weight: float,
    ctrl_cost_weight: float,
    dt: float,
    healthy_reward: float = 0.0,
    healthy: Callable[[Array], Array] | None = None,
) -> RewardFn:
    """Reward for speed along x, the first unobserved quantity, and for health, minus control cost."""

    def reward(state: Array, action: Array, next_state: Array, unobserved: Array) -> Array:
        paid = weight * unobserved[..., 0] / dt
        if healthy is not None:
            paid = paid + healthy_reward * healthy(next_state)
        return paid - ctrl_cost_weight * (action**2).sum(-1)

    return reward
