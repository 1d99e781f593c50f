"""Coordinates: the coordinates in which a network sees a core, and in which it predicts the change of one.

The laws of motion do not depend on where a robot stands or which way it faces, so the network is told
neither: velocities come in the body's frame, a floating base's orientation as the direction of gravity, and
the orientation's change is a rotation vector, composed on SO(3) (Sola 2017, arXiv:1711.02508, section 4).

Whether a foot stands, slips or flies is decided within millimetres, which a network that sees angles alone
cannot resolve: it also sees each foot's distance to the ground and its velocity, squashed at those scales.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from wmgym.models.batching import columns, library, with_columns
from wmgym.models.rotations import _length, compose, rotation_between, rotation_matrix
from wmgym.tasks.layout import Array, Geometry

_NEAR, _SLOW = 0.005, 0.1  # metres and metres a second: where a foot's distance and velocity count most


class Coordinates(nn.Module):
    """Maps cores ``(batch, dim)`` to features, and pairs of cores to changes and back.

    A change is ``(batch, change_dim)``: the core dimensions that can move, in order and without the
    quaternion, then its rotation vector, then the displacement. Takes tensors, differentiably, and NumPy
    arrays alike; float32 or float64.
    """

    def __init__(self, geometry: Geometry) -> None:
        """Prepare the index lists of one geometry."""
        super().__init__()
        self.geometry = g = geometry
        self._tables: dict[str, np.ndarray] = {}
        turn = g.quaternion is not None or g.pitch is not None
        base = () if g.quaternion is None else tuple(range(g.quaternion, g.quaternion + 4))
        velocities = g.velocities if turn else ()
        positions = g.positions if turn else ()
        apart = {*g.free, *g.angles, *base, *(i for vector in velocities for i in vector)}
        plain = [i for i in range(g.dim) if i not in apart]
        moving = [i for i in range(g.dim) if i not in {*g.fixed, *base}]
        rotation = 3 * (g.quaternion is not None)
        column = {i: k for k, i in enumerate(moving)}
        column |= {g.dim + i: len(moving) + rotation + i for i in range(g.displacement_dim)}
        turned = [column[i] for vector in (*velocities, *positions) for i in vector]
        seen_angles = [i for i in g.angles if i not in g.free]
        seen = [i for vector in velocities for i in vector]
        lists = {"plain": plain, "angles": seen_angles, "seen": seen, "moving": moving, "turned": turned}
        for name, indices in lists.items():
            self._keep(name, np.array(indices, np.int64))
        self._keep("changing", np.array(sorted({*moving, *base}), np.int64))
        self._moving_before = sum(i < g.quaternion for i in moving) if g.quaternion is not None else 0
        self._axes = 3 if g.quaternion is not None else 2  # that a vector has
        self._identity = not (g.free or g.fixed or g.angles or turn)
        self._prepare_feet()
        self.feature_dim = len(plain) + 2 * len(seen_angles) + rotation + len(seen) + 3 * len(g.feet)
        self.change_dim = len(moving) + rotation + g.displacement_dim

    def _keep(self, name: str, table: np.ndarray) -> None:
        """A table for arrays of either kind; see ``_table``."""
        self._tables[name] = table
        self.register_buffer(f"_{name}", torch.from_numpy(table), persistent=False)

    def _table(self, name: str, like: Array) -> Array:
        return getattr(self, f"_{name}") if isinstance(like, Tensor) else self._tables[name]

    def _prepare_feet(self) -> None:
        """What adds up to segments' angles and rates in a core, and to feet in what follows from these."""
        g, count = self.geometry, len(self.geometry.feet)
        segments = [*dict.fromkeys(joints for _, chain in g.feet for joints, _, _ in chain)]
        angles = [[(angle, float(sign)) for angle, _, sign in joints] for joints in segments]
        rates = [[(velocity, float(sign)) for _, velocity, sign in joints] for joints in segments]
        self._keep_sums("segments", angles + rates)
        # Cosines, sines, both times the rate, and the core stand side by side.
        cos, sin, sin_rate, cos_rate, core = (k * len(segments) for k in range(5))
        heights, forwards, upwards = [], [], []
        for _, chain in g.feet:
            assert g.root is not None
            parts = [(segments.index(joints), along, up) for joints, along, up in chain]
            height, forward, upward = ([(core + i, 1.0)] for i in g.root)
            for k, along, up in parts:
                height += [(cos + k, up), (sin + k, -along)]
                forward += [(sin_rate + k, -along), (cos_rate + k, up)]
                upward += [(sin_rate + k, -up), (cos_rate + k, -along)]
            heights.append(height)
            forwards.append(forward)
            upwards.append(upward)
        self._keep_sums("offsets", heights + forwards + upwards)
        radii = [radius for radius, _ in g.feet]
        self._keep("radii", np.array([*radii, *[0.0] * 2 * count], np.float32)[:, None])
        self._keep("units", np.repeat(np.array([_NEAR, _SLOW, _SLOW], np.float32), count)[:, None])

    def _keep_sums(self, name: str, sums: list[list[tuple[int, float]]]) -> None:
        """Tables for ``_sum``: of each sum the rows and their factors."""
        terms = [[term for term in each if term[1]] for each in sums]
        depth = max((len(each) for each in terms), default=0)
        full = np.zeros((depth, len(terms), 2), np.float32)
        for k, each in enumerate(terms):
            full[: len(each), k] = each
        self._keep(f"{name}_rows", full[..., 0].reshape(-1).astype(np.int64))
        self._keep(f"{name}_factors", full[..., 1:])

    def _sum(self, values: Array, name: str) -> Array:
        """Sums of a few of ``(k, batch)`` each; a matrix product would round by the size of the batch."""
        index, factors = self._table(f"{name}_rows", values), self._table(f"{name}_factors", values)
        taken = values.index_select(0, index) if isinstance(values, Tensor) else values.take(index, 0)
        total, *terms = taken.reshape(*factors.shape[:2], -1) * factors
        for term in terms:
            total = total + term
        return total

    def feet(self, core: Array) -> tuple[Array, Array, Array]:
        """Distance of each foot to the ground, and its forward and upward velocity: ``(batch, feet)``."""
        found, count = self._feet(core).T, len(self.geometry.feet)
        return found[:, :count], found[:, count : 2 * count], found[:, 2 * count :]

    def _feet(self, core: Array) -> Array:
        """The same in rows ``(3 * feet, batch)``, which are faster to pick from than columns."""
        lib, turns = library(core), self._sum(core.T, "segments")
        half = len(turns) // 2
        angle, rate = turns[:half], turns[half:]
        cos, sin = lib.cos(angle), lib.sin(angle)
        known = lib.concatenate([cos, sin, sin * rate, cos * rate, core.T], 0)
        return self._sum(known, "offsets") - self._table("radii", core)

    def features(self, core: Array) -> Array:
        """What the network sees: ``(batch, feature_dim)``."""
        g, lib = self.geometry, library(core)
        if self._identity and not g.feet:
            return core
        parts = [columns(core, self._table("plain", core))]
        if g.feet:
            parts.append(lib.tanh(self._feet(core) / self._table("units", core)).T)
        if len(self._tables["angles"]):
            angle = columns(core, self._table("angles", core))
            parts += [lib.cos(angle), lib.sin(angle)]
        if len(self._tables["turned"]):
            frame = self._frame(core, self._quaternion(core))
            if g.quaternion is not None:
                parts.append(frame[:, 2])  # the world's up, in the body's frame
            if len(self._tables["seen"]):
                parts.append(self._turn(columns(core, self._table("seen", core)), frame))
        return lib.concatenate(parts, 1)

    def difference(self, core: Array, next_core: Array, displacement: Array) -> Array:
        """The change ``(batch, change_dim)`` from one core to another."""
        lib = library(core)
        if self._identity:
            return lib.concatenate([next_core - core, displacement], 1)
        parts, quaternion = [columns(next_core - core, self._table("moving", core))], self._quaternion(core)
        if quaternion is not None:
            parts.append(rotation_between(quaternion, self._quaternion(next_core)))
        change = lib.concatenate([*parts, displacement], 1)
        turned = self._table("turned", core)
        if not len(turned):
            return change
        frame = self._frame(core, quaternion)
        return with_columns(change, turned, self._turn(columns(change, turned), frame))

    def move(self, core: Array, change: Array) -> tuple[Array, Array]:
        """Invert ``difference``: the next core and the displacement."""
        g, turned, moving = self.geometry, self._table("turned", core), self._table("moving", core)
        split = change.shape[1] - g.displacement_dim
        if self._identity:
            return core + change[:, :split], change[:, split:]
        quaternion = self._quaternion(core)
        if len(turned):
            frame = self._frame(core, quaternion).swapaxes(1, 2)
            change = with_columns(change, turned, self._turn(columns(change, turned), frame))
        moved = columns(core, moving) + change[:, : len(moving)]
        if quaternion is not None:
            at, turn = self._moving_before, compose(quaternion, change[:, split - 3 : split])
            moved = library(core).concatenate([moved[:, :at], turn, moved[:, at:]], 1)
        next_core = with_columns(core, self._table("changing", core), moved) if g.fixed else moved
        return next_core, change[:, split:]

    def _quaternion(self, core: Array) -> Array | None:
        """Of unit length; None where the base has no orientation."""
        at = self.geometry.quaternion
        return None if at is None else core[:, at : at + 4] / _length(core[:, at : at + 4])

    def _frame(self, core: Array, quaternion: Array | None) -> Array:
        """Rotation matrices ``(batch, k, k)`` from the body's frame to the world's."""
        if quaternion is not None:
            return rotation_matrix(quaternion)
        assert self.geometry.pitch is not None
        (at, sense), lib = self.geometry.pitch, library(core)
        cos, sin = lib.cos(core[:, at]), lib.sin(core[:, at]) * sense
        return lib.stack([cos, -sin, sin, cos], 1).reshape(-1, 2, 2)

    def _turn(self, vectors: Array, frame: Array) -> Array:
        """Vectors ``(n, count * k)`` in the axes of the matrices' rows, seen in the axes of their columns."""
        return (vectors.reshape(len(vectors), -1, self._axes) @ frame).reshape(vectors.shape)
