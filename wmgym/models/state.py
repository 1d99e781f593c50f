"""The state of a batch of imagined episodes, its prediction, and the outcome of a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from wmgym.models.batching import alike, as_tensor
from wmgym.models.dynamics import (
    Carry,
    Dynamics,
    Prediction,
    Propagation,
    predict_all,
    predict_assigned,
    predict_pair,
)


@dataclass(frozen=True)
class WorldState:
    """State of ``batch`` imagined episodes.

    Attributes:
        core: ``(batch, core_dim)``, raw units.
        shown: ``(batch, shown_dim)``, the readouts that the observation shows beside the core.
        member: ``(batch,)`` int64, the ensemble member that each episode follows; propagation "mean" asks
            all.
        companion: ``(batch, core_dim)``, where the next member has come to from the episode's start, by its
            own path under the same actions; stands still where steps were not asked for trust.
        cumulative_disagreement: ``(batch, core_dim)``, distance of core and companion summed over the steps,
            in standard deviations of the calibration data.
        carry: what the dynamics remember of each episode, leading shape ``(batch,)``; None for no memory.
        companion_carry: the same of the companion's path.
    """

    core: Tensor
    shown: Tensor
    member: Tensor
    companion: Tensor
    cumulative_disagreement: Tensor
    carry: Carry = None
    companion_carry: Carry = None

    @property
    def full(self) -> Tensor:
        """Core and readouts ``(batch, state_dim)``, as the task's functions take them."""
        return torch.cat([self.core, self.shown], 1) if self.shown.shape[1] else self.core

    def map(self, change: Callable[[Tensor], Tensor]) -> WorldState:
        """The same done to all of it: rows chosen, repeated or copied."""
        parts: list[Any] = [_mapped(getattr(self, part.name), change) for part in fields(self)]
        return WorldState(*parts)

    def put(self, rows: Tensor, other: WorldState) -> WorldState:
        """A copy in which ``other``'s episodes, in their order, are at ``rows``, a bool mask ``(batch,)``."""
        pairs = ((getattr(self, part.name), getattr(other, part.name)) for part in fields(self))
        parts: list[Any] = [_put(rows, *pair) for pair in pairs]
        return WorldState(*parts)


def _mapped(part: Carry, change: Callable[[Tensor], Tensor]) -> Carry:
    if part is None:
        return None
    return tuple(change(each) for each in part) if isinstance(part, tuple) else change(part)


def _put(rows: Tensor, here: Carry, there: Carry) -> Carry:
    """``here`` with ``there`` at ``rows``; a carry that one of them lacks is zeros."""
    if isinstance(here, tuple) or isinstance(there, tuple):
        count = len(here if isinstance(here, tuple) else there or ())
        pairs = zip(here or (None,) * count, there or (None,) * count, strict=True)
        return tuple(_put_rows(rows, *pair) for pair in pairs)
    return None if here is None and there is None else _put_rows(rows, here, there)


def _put_rows(rows: Tensor, here: Tensor | None, there: Tensor | None) -> Tensor:
    if here is None:
        assert there is not None
        here = there.new_zeros(len(rows), *there.shape[1:])
    here = here.clone()
    here[rows] = 0 if there is None else there
    return here


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


def deal_members(held: Tensor, count: int, num_members: int, generator: torch.Generator) -> Tensor:
    """Members for ``count`` new episodes beside those ``held``: the least used first, ties at random."""
    used = torch.bincount(held, minlength=num_members)
    rounds = -(-count // num_members) + int(used.max() - used.min())
    # A slot's rank in its member's queue.
    level = used[:, None] + torch.arange(rounds, device=held.device)
    tie = torch.rand(num_members, rounds, generator=generator, device=held.device)
    chosen = torch.argsort((level + 0.5 * tie).flatten())[:count] // rounds
    return chosen[torch.randperm(count, generator=generator, device=held.device)]


def predict_step(
    model: Dynamics, state: WorldState, action: Tensor, propagation: Propagation, trust: bool
) -> tuple[Prediction, Prediction | None]:
    """What a model predicts of episodes ``(batch, ...)``: by each one's member, or by the mean of all.

    With ``trust`` also what the next member predicts of their companions.
    """
    member, carry = state.member, state.carry
    if propagation != "mean":
        if trust:
            return predict_pair(
                model, state.core, state.companion, action, member, carry, state.companion_carry
            )
        return predict_assigned(model, state.core, action, member, carry), None
    every = predict_all(model, state.core, action, carry)
    mean = as_tensor(alike(every.mean)[0].mean(0))
    logit = None if every.end_logit is None else every.end_logit.mean(0)
    own = Prediction(mean, lambda: every.std.mean(0), logit, every.carry)
    if not trust:
        return own, None
    following = (member + 1) % model.num_members
    return own, predict_assigned(model, state.companion, action, following, state.companion_carry)
