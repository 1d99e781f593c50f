"""Dynamics that let MuJoCo take the steps on which the members of an ensemble disagree most."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wmgym.models.dynamics import Carry, Dynamics, Prediction, predict_assigned
from wmgym.models.residual import MujocoDynamics, ResidualDynamics
from wmgym.models.world import WorldModel

SHARE = 0.18
"""Share of an episode's steps that MuJoCo takes in the long run."""

MOST = 0.2
"""Share of an episode's steps that MuJoCo takes at most, at any time."""

RATE = 0.1
"""By how much a step moves the logarithm of an episode's threshold, once it has gone on for a while. With a
fixed threshold MuJoCo took nearly all steps of policies unlike those of the fit, and none of others."""


@dataclass
class FallbackDynamics:
    """A world's dynamics, and MuJoCo's step where two of its members disagree by more than a threshold.

    The threshold follows each episode, so that MuJoCo takes about ``SHARE`` of its steps: a step that it
    takes raises it, another one lowers it, first by much and then by less (Robbins & Monro 1951). It never
    takes more than ``MOST`` of them. The carry ``(batch, 4)`` holds whether MuJoCo took the last step, how
    many steps there were, how many it took, and the logarithm of the episode's threshold over the first.

    Attributes:
        base: the world's dynamics, without a memory.
        exact: MuJoCo's step of the task's model.
        unit: ``(target_dim,)``, what differences are divided by.
        threshold: mean difference of two members, in these units, above which MuJoCo takes a first step.
    """

    base: Dynamics
    exact: MujocoDynamics
    unit: Tensor
    threshold: float

    def __post_init__(self) -> None:
        """Predict in the base's coordinates."""
        self.num_members, self.target_dim = self.base.num_members, self.base.target_dim
        self.coordinates = getattr(self.base, "coordinates", self.exact.coordinates)

    def predict(self, core: Tensor, action: Tensor, carry: Carry = None) -> Prediction:
        """All members; where any two neighbours disagree, MuJoCo for all of them."""
        said = self.base.predict(core, action)
        apart = _apart(said.mean, said.mean.roll(1, 0), self.unit).amax(0)
        taken, carry = self._taken(apart, carry)
        mean = said.mean.clone()
        mean[:, taken] = self._exact(core, action, taken)
        return replace(said, mean=mean, carry=carry)

    def predict_assigned(
        self, core: Tensor, action: Tensor, member: Tensor, carry: Carry = None
    ) -> Prediction:
        """Each row by its own member, or by MuJoCo where the next one disagrees."""
        said = predict_assigned(self.base, core, action, member)
        other = predict_assigned(self.base, core, action, (member + 1) % self.num_members)
        taken, carry = self._taken(_apart(said.mean, other.mean, self.unit), carry)
        mean = said.mean.clone()
        mean[taken] = self._exact(core, action, taken)
        return replace(said, mean=mean, carry=carry)

    def _taken(self, apart: Tensor, carry: Carry) -> tuple[Tensor, Tensor]:
        """Which rows ``(batch,)`` bool MuJoCo takes, and the carry after that."""
        if carry is None:
            carry = apart.new_zeros(len(apart), 4)
        assert isinstance(carry, Tensor)
        _, steps, sum_taken, height = carry.unbind(1)
        wanted = ~(apart <= self.threshold * height.exp())  # a NaN is no trust
        taken = wanted & (sum_taken + 1 <= MOST * (steps + 1))
        height = height + (RATE + 1 / (1 + steps)) * (wanted.to(apart.dtype) - SHARE)
        now = taken.to(apart.dtype)
        return taken, torch.stack([now, steps + 1, sum_taken + now, height], 1)

    def _exact(self, core: Tensor, action: Tensor, taken: Tensor) -> Tensor:
        """MuJoCo's targets ``(taken, target_dim)``."""
        if not taken.any():
            return core.new_zeros(0, self.target_dim)
        return self.exact.predict(core[taken], action[taken]).mean[0]


def with_fallback(world: WorldModel) -> WorldModel:
    """The world with dynamics that leave the steps they are least sure of to MuJoCo.

    Raises:
        ValueError: a world that MuJoCo cannot step, of a single member, without a sample of its data, or
            whose dynamics, or whose robot's drive, have a memory.
    """
    dynamics, support = world.dynamics, world.support
    if isinstance(dynamics, ResidualDynamics) and not isinstance(dynamics.base, MujocoDynamics):
        raise ValueError(
            "fallback='mujoco' cannot step a world whose correction remembers actions, as adapt leaves it; "
            "use the world from before, or a hybrid (wmgym.residual)"
        )
    if isinstance(dynamics, (MujocoDynamics, ResidualDynamics)):
        raise ValueError(
            "fallback='mujoco' is for learned worlds; this one is MuJoCo's step, corrected or not"
        )
    if dynamics.num_members < 2 or support is None or getattr(dynamics, "memory", 0) > 0:
        raise ValueError(
            "fallback='mujoco' needs an ensemble without memory and a sample of its fit's data; fit the "
            "world with at least 2 members"
        )
    exact = MujocoDynamics(world.task)
    if exact.memory:
        raise ValueError("fallback='mujoco' cannot step a robot that delays its commands or plays")
    with torch.no_grad():
        core = torch.tensor(support.core, device=world.device)
        action = world.encode_action(torch.tensor(support.action, device=world.device))
        said = dynamics.predict(core, action).mean
        unit = said.mean(0).std(0).clamp(min=1e-6)
        apart = _apart(said, said.roll(-1, 0), unit)  # (members, rows)
    threshold = float(torch.quantile(apart.flatten()[:100_000], 1 - SHARE))
    return replace(world, dynamics=FallbackDynamics(dynamics, exact, unit, threshold))


def _apart(one: Tensor, other: Tensor, unit: Tensor) -> Tensor:
    return ((one - other).abs() / unit).mean(-1)
