"""Arithmetic on NumPy arrays and torch tensors alike.

What surrounds the networks is a hundred small operations, each of which costs torch three times what it costs
NumPy. NumPy's sine, cosine and tanh are faster at any size too, and round alike wherever a number stands,
while torch's round differently in a vector's tail. So NumPy it is on the CPU, except where gradients flow.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wmgym.tasks.actions import ActionSpace, choices
from wmgym.tasks.layout import Array

MULTIPLE = 4
"""Rows are padded to this, since matrix products of fewer rows differ in the last bit on the CPU."""

WIDTH = 16
"""Columns of a matrix are padded to this, since with few of them a row's place in its batch matters."""


def alike(*arrays: Array) -> tuple[Array, ...]:
    """All as NumPy arrays, or all as tensors where one is being differentiated or on another device."""
    for array in arrays:
        if not isinstance(array, np.ndarray) and (array.requires_grad or not array.is_cpu):
            return tuple([as_tensor(each) for each in arrays])
    return tuple([array if isinstance(array, np.ndarray) else array.numpy() for array in arrays])


def as_tensor(array: Array) -> Tensor:
    """The array as a tensor, which shares its memory."""
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else array


def constant(array: np.ndarray, device: torch.device) -> Tensor:
    """The array on a device; the same tensor at every call, since to copy one is to wait for the device."""
    return _constant(array.tobytes(), array.dtype.str, array.shape, device)


@functools.lru_cache(512)
def _constant(data: bytes, kind: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # else the mode of the first caller would stick to it
        return torch.tensor(np.frombuffer(data, kind).reshape(shape), device=device)


def library(array: Array) -> Any:
    """The module whose functions take this array."""
    return torch if isinstance(array, Tensor) else np


def columns(rows: Array, index: Array) -> Array:
    """Some columns of ``(n, k)``, in the order of ``index``."""
    return rows.index_select(1, index) if isinstance(rows, Tensor) else rows.take(index, 1)


def with_columns(rows: Array, index: Array, values: Array) -> Array:
    """``rows`` with ``values`` in some columns."""
    if isinstance(rows, Tensor):
        return rows.index_copy(1, index, values)
    changed = rows.copy()
    changed[:, index] = values
    return changed


def clamp(rows: Array, low: Array, high: Array) -> Array:
    """Values moved between the bounds; NaN stays."""
    if isinstance(rows, Tensor):
        return torch.clamp(rows, as_tensor(low), as_tensor(high))
    moved = np.maximum(rows, low)
    return np.minimum(moved, high, out=moved) if isinstance(moved, np.ndarray) else np.minimum(moved, high)


def any_in_row(flags: Array) -> Array:
    """Which rows ``(n, k)`` have a true one; looks at all at once first, since mostly none has."""
    if isinstance(flags, np.ndarray) and not flags.any():
        return np.zeros(len(flags), bool)
    return flags.any(1)


def padded(rows: Array, multiple: int = MULTIPLE) -> Array:
    """Zero rows ``(..., n, k)`` added up to a multiple; NumPy arrays have two axes."""
    spare = -rows.shape[-2] % multiple
    if not spare:
        return rows
    if isinstance(rows, Tensor):
        return functional.pad(rows, (0, 0, 0, spare))
    return np.concatenate([rows, np.zeros((spare, rows.shape[1]), rows.dtype)])


def beside(left: Array, right: Array) -> Array:
    """Columns of both: a core and the shown readouts are a state."""
    return library(left).concatenate([left, right], 1) if right.shape[1] else left


def one_hot(space: ActionSpace, counted: Tensor) -> Tensor:
    """Whole-number actions, counted from 0, as a network sees them: ``(n, action_dim)`` float32."""
    if counted.ndim == 1:
        return functional.one_hot(counted, int(choices(space))).float()
    parts = zip(counted.unbind(1), choices(space).tolist(), strict=True)
    return torch.cat([functional.one_hot(part, count).float() for part, count in parts], 1)


def widened(matrix: Tensor) -> Tensor:
    """Zero columns added up to a ``WIDTH``."""
    return functional.pad(matrix, (0, -matrix.shape[-1] % WIDTH))


@dataclass(frozen=True)
class MemberPacking:
    """Rows sorted by member.

    Attributes:
        only: the one member that all rows have, if so; they then stay where they are.
        rows: number of rows.
        room: places a member; 0 where each member has as many as it needs.
        source: ``(places,)`` row that each place takes; empty where ``only`` is.
        back: ``(rows,)`` place of each row; likewise.
        ends: place after each member's last one; empty where all have the same room.
    """

    only: int | None
    rows: int
    room: int
    source: Tensor
    back: Tensor
    ends: tuple[int, ...] = ()

    @classmethod
    def of(cls, member: Tensor, num_members: int, ragged: int | None = None) -> MemberPacking:
        """For rows of these members ``(rows,)``; in NumPy, whose small operations cost less.

        From ``ragged`` rows on, each has as many places as it needs where the same for all would waste many.
        """
        none, rows = member[:0], len(member)
        if rows == 1:
            return cls(int(member), 1, 1, none, none)
        held = member.numpy() if member.is_cpu else member.cpu().numpy()
        counts = np.bincount(held, minlength=num_members)
        room = int(counts.max())
        if room == rows:
            return cls(int(held[0]), rows, room, none, none)
        own = ragged is not None and rows >= ragged and room * num_members > _SPARE * rows
        places = counts if own else np.full(num_members, room)
        places = places + -places % MULTIPLE
        ends = places.cumsum()
        order = held.astype(np.int16).argsort(kind="stable")  # a radix sort
        # Empty places repeat the first row, unread.
        shift = ends - places - counts.cumsum() + counts
        place = np.arange(rows) + shift.repeat(counts)
        source, back = np.zeros(ends[-1], np.int64), np.empty_like(place)
        source[place], back[order] = order, place
        index = torch.from_numpy(source), torch.from_numpy(back)
        if not member.is_cpu:
            index = index[0].to(member.device), index[1].to(member.device)
        return (
            cls(None, rows, 0, *index, tuple(ends.tolist()))
            if own
            else cls(None, rows, int(places[0]), *index)
        )

    def pack(self, rows: Array) -> Tensor:
        """Rows ``(batch, k)`` by member ``(members, room, k)``; ``(places, k)`` where rooms differ."""
        if self.only is not None:
            return as_tensor(padded(rows))[None]
        packed = as_tensor(rows).index_select(0, self.source)
        return packed if self.ends else packed.view(-1, self.room, rows.shape[1])

    def of_members(self, packed: Tensor) -> list[Tensor]:
        """What ``pack`` made where rooms differ, apart."""
        begins = (0, *self.ends[:-1])
        return [packed[begin:end] for begin, end in zip(begins, self.ends, strict=True)]

    def unpack(self, packed: Tensor, columns: int) -> Tensor:
        """The way back, for the first few columns."""
        if self.only is not None:
            return packed[0, : self.rows, :columns]
        packed = packed if self.ends else packed.flatten(0, 1)
        return packed[:, :columns].index_select(0, self.back)


class Packings:
    """Packings of the last batches, as episodes keep their members for many steps."""

    def __init__(self, num_members: int) -> None:
        self.num_members = num_members
        self._held: dict[tuple[int, int, bool], tuple[Tensor, int, MemberPacking]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied empty: a copy's tensors lie elsewhere."""
        return Packings, (self.num_members,)

    def of(self, member: Tensor, ragged: int | None = None) -> MemberPacking:
        """See ``MemberPacking.of``."""
        if member.is_inference():  # has no version, so a change in place would go unnoticed
            return MemberPacking.of(member, self.num_members, ragged)
        key = member.data_ptr(), len(member), ragged is None
        _, version, plan = self._held.get(key, (None, 0, None))
        if plan is None or version != member._version:
            plan = MemberPacking.of(member, self.num_members, ragged)
            if len(self._held) >= _HELD:
                self._held.clear()
            self._held[key] = member, member._version, plan  # the tensor too, so that no other is there
        return plan


_HELD = 128  # packings
_SPARE = 1.06  # places for each row, which are worth calls of their own for each member


class Tables(nn.Module):
    """A module with constants for arrays of either kind, which no world stores."""

    def __init__(self) -> None:
        super().__init__()
        self._tables: dict[str, np.ndarray] = {}

    def _keep(self, name: str, table: np.ndarray) -> None:
        """A table for arrays of either kind; see ``_table``."""
        self._tables[name] = table
        self.register_buffer(f"_{name}", torch.from_numpy(table), persistent=False)

    def _table(self, name: str, like: Array) -> Array:
        return getattr(self, f"_{name}") if isinstance(like, Tensor) else self._tables[name]
