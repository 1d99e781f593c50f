"""Arithmetic on NumPy arrays and torch tensors alike.

What surrounds the networks is a hundred small operations, each of which costs torch three times what it costs
NumPy. NumPy's sine, cosine and tanh are faster at any size too, and round alike wherever a number stands,
while torch's round differently in a vector's tail. So NumPy it is on the CPU, except where gradients flow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

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
    return np.minimum(np.maximum(rows, low), high)


def padded(rows: Array) -> Array:
    """Zero rows added up to a ``MULTIPLE``."""
    spare = -len(rows) % MULTIPLE
    if not spare:
        return rows
    if isinstance(rows, Tensor):
        return functional.pad(rows, (0, 0, 0, spare))
    return np.concatenate([rows, np.zeros((spare, rows.shape[1]), rows.dtype)])


def widened(matrix: Tensor) -> Tensor:
    """Zero columns added up to a ``WIDTH``."""
    return functional.pad(matrix, (0, -matrix.shape[-1] % WIDTH))
