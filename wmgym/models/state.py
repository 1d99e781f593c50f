"""The state of a batch of imagined episodes, and the outcome of a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class WorldState:
    """State of ``batch`` imagined episodes.

    Attributes:
        core: ``(batch, core_dim)``, raw units.
        shown: ``(batch, shown_dim)``, the readouts that the observation shows beside the core.
        member: ``(batch,)`` int64, the ensemble member each episode believes in; mean mode asks them all.
        companion: ``(batch, core_dim)``, where the next member has come to from the episode's start, by its own
            path under the same actions; stands still where steps were not asked for trust.
        cumulative_disagreement: ``(batch, core_dim)``, distance of core and companion added up over the steps, in standard
            deviations of the calibration data.
    """

    core: Tensor
    shown: Tensor
    member: Tensor
    companion: Tensor
    cumulative_disagreement: Tensor

    @property
    def full(self) -> Tensor:
        """Core and readouts ``(batch, state_dim)``, as the task's functions take them."""
        return torch.cat([self.core, self.shown], 1) if self.shown.shape[1] else self.core

    def map(self, change: Callable[[Tensor], Tensor]) -> WorldState:
        """The same done to all of it: rows chosen, repeated or copied."""
        return WorldState(*(change(getattr(self, part.name)) for part in fields(self)))

    def put(self, rows: Tensor, other: WorldState) -> WorldState:
        """A copy in which ``other``'s episodes, in their order, are at ``rows``, a bool mask ``(batch,)``."""

        def merged(name: str) -> Tensor:
            part: Tensor = getattr(self, name).clone()
            part[rows] = getattr(other, name)
            return part

        return WorldState(*(merged(part.name) for part in fields(self)))


@dataclass(frozen=True)
class WorldStep:
    """Outcome of one imagined step.

    Attributes:
        state: the next state; always finite.
        displacement: ``(batch, displacement_dim)``, how far the root moved in world axes.
        reward: ``(batch,)``.
        terminated: ``(batch,)`` bool.
        diverged: ``(batch,)`` bool: the prediction was not finite or left the range of the data; the state
            was put back to the nearest one allowed, and the episode should be truncated.
    """

    state: WorldState
    displacement: Tensor
    reward: Tensor
    terminated: Tensor
    diverged: Tensor
