"""Rotations as unit quaternions and rotation vectors."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from wmgym.models.batching import columns, constant, library
from wmgym.tasks.layout import Array


def rotation_matrix(quaternion: Array) -> Array:
    """Matrices ``(n, 3, 3)`` of unit quaternions ``(n, 4)`` in the order w, x, y, z."""
    first, second, factor, one = _constants("matrix", quaternion)
    terms = columns(quaternion, first) * columns(quaternion, second) * factor
    return (one + terms[:, :9] + terms[:, 9:]).reshape(-1, 3, 3)


def compose(quaternion: Array, rotation: Array) -> Array:
    """Turn unit quaternions by rotation vectors ``(n, 3)``, radians, given in their own frame."""
    lib, angle = library(rotation), length(rotation)
    half = angle / 2
    return multiply(quaternion, lib.concatenate([lib.cos(half), rotation * (lib.sin(half) / angle)], 1))


def rotation_between(quaternion: Array, other: Array) -> Array:
    """The shortest rotation vector that ``compose`` needs to turn the first into the other."""
    lib, (conjugate,) = library(quaternion), _constants("conjugate", quaternion)
    turn = multiply(quaternion * conjugate, other)
    turn = lib.where(turn[:, :1] < 0, -turn, turn)  # a quaternion and its negative are one orientation
    size = length(turn[:, 1:])
    return turn[:, 1:] * (2 * lib.arctan2(size, turn[:, :1]) / size)


def multiply(a: Array, b: Array) -> Array:
    """Hamilton product of quaternions ``(n, 4)``."""
    order, sign = _constants("product", b)
    matrix = (columns(b, order) * sign).reshape(-1, 4, 4)
    return (a[:, None] @ matrix)[:, 0]


def length(vectors: Array) -> Array:
    """Lengths ``(n, 1)`` of vectors ``(n, k)``; never 0, so that the gradient is finite."""
    return library(vectors).sqrt((vectors * vectors).sum(1)[:, None] + 1e-30)


_W, _X, _Y, _Z = range(4)
_CONSTANTS = {
    # The entries of a rotation matrix, row by row: one, and two products of quaternions' entries each.
    "matrix": (
        np.array([_Y, _X, _X, _X, _X, _Y, _X, _Y, _X, _Z, _W, _W, _W, _Z, _W, _W, _W, _Y]),
        np.array([_Y, _Y, _Z, _Y, _X, _Z, _Z, _Z, _X, _Z, _Z, _Y, _Z, _Z, _X, _Y, _X, _Y]),
        np.array([-2, 2, 2, 2, -2, 2, 2, 2, -2, -2, -2, 2, 2, -2, -2, -2, 2, -2], np.float32),
        np.eye(3, dtype=np.float32).reshape(9),
    ),
    # The rows of the matrix that a quaternion is multiplied by from the left.
    "product": (
        np.array([_W, _X, _Y, _Z, _X, _W, _Z, _Y, _Y, _Z, _W, _X, _Z, _Y, _X, _W]),
        np.array([1, 1, 1, 1, -1, 1, -1, 1, -1, 1, 1, -1, -1, -1, 1, 1], np.float32),
    ),
    "conjugate": (np.array([1, -1, -1, -1], np.float32),),
}


def _constants(name: str, like: Array) -> tuple[Array, ...]:
    return _on_device(name, like.device) if isinstance(like, Tensor) else _CONSTANTS[name]


@functools.cache
def _on_device(name: str, device: torch.device) -> tuple[Tensor, ...]:
    return tuple(constant(each, device) for each in _CONSTANTS[name])
