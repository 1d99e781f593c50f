"""The state of a batch of imagined episodes, and the outcome of a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wmgym.models.dynamics import Carry


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
        lasting_disagreement: ``(batch, core_dim)``, a mean over the last steps of the distance of core
            and companion, at its highest so far, in standard deviations of the calibration data; see
            ``wmgym.models.step.companion_after``.
        carry: what the dynamics remember of each episode, leading shape ``(batch,)``; None for no memory.
        companion_carry: the same of the companion's path.
    """

    core: Tensor
    shown: Tensor
    member: Tensor
    companion: Tensor
    lasting_disagreement: Tensor
    carry: Carry = None
    companion_carry: Carry = None
    _full: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def full(self) -> Tensor:
        """Core and readouts ``(batch, state_dim)``, as the task's functions take them."""
        if not self.shown.shape[1]:
            return self.core
        return torch.cat([self.core, self.shown], 1) if self._full is None else self._full

    def keep_full(self, full: Tensor) -> None:
        """Spare ``full`` the work; only of a state whose tensors nobody changes in place."""
        object.__setattr__(self, "_full", full)

    def rows(self, part: slice) -> WorldState:
        """Some of the episodes, their tensors views of these."""
        state = self.map(lambda tensor: tensor[part])
        if self._full is not None:
            state.keep_full(self._full[part])
        return state

    def map(self, change: Callable[[Tensor], Tensor]) -> WorldState:
        """The same done to all of it: rows chosen, repeated or copied."""
        parts: list[Any] = [_mapped(getattr(self, part.name), change) for part in fields(self) if part.init]
        return WorldState(*parts)

    def put(self, rows: Tensor, other: WorldState) -> WorldState:
        """A copy in which ``other``'s episodes, in their order, are at ``rows``, a bool mask ``(batch,)``."""
        names = [part.name for part in fields(self) if part.init]
        parts: list[Any] = [put_carry(rows, getattr(self, name), getattr(other, name)) for name in names]
        state = WorldState(*parts)
        if self._full is not None:
            state.keep_full(state.full)
        return state


def _mapped(part: Carry, change: Callable[[Tensor], Tensor]) -> Carry:
    if part is None:
        return None
    return tuple(change(each) for each in part) if isinstance(part, tuple) else change(part)


def join_carries(parts: list[Carry]) -> Carry:
    """Carries of some episodes each, as that of all, in their order."""
    if any(part is None for part in parts):
        return None
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))
    return torch.cat(parts)  # type: ignore[arg-type]


def put_carry(rows: Tensor, here: Carry, there: Carry) -> Carry:
    """``here`` with ``there`` at ``rows``, a bool mask; a carry that one of them lacks is zeros."""
    if here is None:
        here = _mapped(there, lambda part: part.new_zeros(len(rows), *part.shape[1:]))
    if there is None:
        there = _mapped(here, lambda part: torch.zeros_like(part[rows]))
    if isinstance(here, tuple) and isinstance(there, tuple):
        return tuple(part.index_put((rows,), new) for part, new in zip(here, there, strict=True))
    assert not isinstance(here, tuple)
    assert not isinstance(there, tuple)
    return None if here is None or there is None else here.index_put((rows,), there)


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
    if count == 1 and not len(held):  # what the rest comes to, and draws
        tie = torch.rand(num_members, 1, generator=generator, device=held.device)
        torch.randperm(1, generator=generator, device=held.device)
        return tie.argmin(0)
    used = np.bincount(held.cpu().numpy(), minlength=num_members)
    rounds = -(-count // num_members) + int(used.max() - used.min())
    # A slot's rank in its member's queue.
    level = (used[:, None] + np.arange(rounds)).astype(np.float32)
    tie = torch.rand(num_members, rounds, generator=generator, device=held.device)
    chosen = np.argsort((level + 0.5 * tie.cpu().numpy()).ravel())[:count] // rounds
    order = torch.randperm(count, generator=generator, device=held.device)
    return torch.from_numpy(chosen[order.cpu().numpy()]).to(held.device)
