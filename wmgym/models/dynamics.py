"""The protocol of a one-step model, and what it predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

import torch
from torch import Tensor

from wmgym.data.transitions import Transitions
from wmgym.models.coordinates import Coordinates

Propagation: TypeAlias = Literal["mean", "member", "sample"]
"""Mean of all members; one member an episode; one member an episode and its noise at every step."""

PROPAGATIONS: tuple[Propagation, ...] = get_args(Propagation)
Precision: TypeAlias = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Prediction:
    """What ensemble members say of one step, in raw units.

    Attributes:
        mean: ``(..., target_dim)``, the change first.
        noise: ``std``, or what computes it: half of a network's last layer, and often nobody asks.
        end_logit: ``(...)`` logit of termination, or None where the task's formula decides.
    """

    mean: Tensor
    noise: Tensor | Callable[[], Tensor]
    end_logit: Tensor | None

    @property
    def std(self) -> Tensor:
        """``(..., target_dim)``, of the target's own noise; > 0."""
        return self.noise() if callable(self.noise) else self.noise


class Dynamics(Protocol):
    """A one-step model of ``num_members`` members."""

    num_members: int
    target_dim: int

    def predict(self, core: Tensor, action: Tensor) -> Prediction:
        """All members for all rows: leading shape ``(num_members, batch)``. Actions are encoded floats."""
        ...

    def predict_assigned(self, core: Tensor, action: Tensor, member: Tensor) -> Prediction:
        """Each row by its own member ``(batch,)`` int64, paying for that one: leading shape ``(batch,)``."""
        ...

    def predict_pair(
        self, core: Tensor, companion: Tensor, action: Tensor, member: Tensor
    ) -> tuple[Prediction, Tensor]:
        """``predict_assigned``, and the next member's mean for ``companion`` cores ``(batch, target_dim)``."""
        ...


def targets(data: Transitions) -> Tensor:
    """What a dynamics model should have predicted: ``(n, target_dim)`` float32, raw units.

    The reward is among it only where the task knows none and the data has it.
    """
    core, next_core = torch.tensor(data.core), torch.tensor(data.next_core)
    displacement = torch.tensor(data.displacement).float()
    change: Tensor = Coordinates(data.task.core.geometry).difference(core, next_core, displacement)
    if data.task.reward is not None or data.reward is None:
        return change
    return torch.cat([change, torch.tensor(data.reward).float()[:, None]], 1)
