"""Dynamics that let MuJoCo take the steps on which the members of an ensemble disagree most."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wmgym.models.dynamics import Carry, Dynamics, Prediction, predict_assigned
from wmgym.models.residual import MujocoDynamics
from wmgym.models.world import WorldModel

SHARE = 0.15
"""Share of the fit's transitions whose disagreement is above the threshold; policies see about as many."""


@dataclass
class FallbackDynamics:
    """A world's dynamics, and MuJoCo's step where two of its members disagree by more than a threshold.

    Attributes:
        base: the world's dynamics, without a memory.
        exact: MuJoCo's step of the task's model.
        unit: ``(target_dim,)``, what differences are divided by.
        threshold: mean difference of two members, in these units, above which MuJoCo steps.
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
        exact, taken = self._exact(core, action, apart)
        mean = said.mean.clone()
        mean[:, taken] = exact
        return replace(said, mean=mean, carry=taken[:, None].to(core.dtype))

    def predict_assigned(
        self, core: Tensor, action: Tensor, member: Tensor, carry: Carry = None
    ) -> Prediction:
        """Each row by its own member, or by MuJoCo where the next one disagrees."""
        said = predict_assigned(self.base, core, action, member)
        other = predict_assigned(self.base, core, action, (member + 1) % self.num_members)
        exact, taken = self._exact(core, action, _apart(said.mean, other.mean, self.unit))
        mean = said.mean.clone()
        mean[taken] = exact
        return replace(said, mean=mean, carry=taken[:, None].to(core.dtype))

    def _exact(self, core: Tensor, action: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
        """MuJoCo's targets ``(taken, target_dim)``, and which rows ``(batch,)`` bool take them."""
        taken = ~(apart <= self.threshold)  # a NaN is no trust
        if not taken.any():
            return core.new_zeros(0, self.target_dim), taken
        return self.exact.predict(core[taken], action[taken]).mean[0], taken


def with_fallback(world: WorldModel) -> WorldModel:
    """The world with dynamics that leave the steps they are least sure of to MuJoCo.

    Raises:
        ValueError: a world that MuJoCo cannot step, of a single member, without a sample of its data, or
            whose dynamics have a memory.
    """
    dynamics, support = world.dynamics, world.support
    if dynamics.num_members < 2 or support is None or getattr(dynamics, "memory", 0) > 0:
        raise ValueError(
            "fallback='mujoco' needs an ensemble without memory and a sample of its fit's data; fit the "
            "world with at least 2 members"
        )
    exact = MujocoDynamics(world.task)
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
