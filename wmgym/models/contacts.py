"""How near the shapes of a robot are to what they can touch, and how they move there.

Where joints put a shape follows from their angles (Featherstone 2008, Rigid Body Dynamics Algorithms,
chapter 4), and how far it is from another one from its place in that one's frame. A network that sees angles
alone would have to learn both to within millimetres.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wmgym.models.batching import Tables, columns, library
from wmgym.models.rotations import compose, length, rotation_matrix
from wmgym.tasks.contacts import Contacts, Part
from wmgym.tasks.layout import Array

_NEAR = (0.005, 0.04)  # metres: scales of distances
_SLOW = (0.1, 0.8)  # metres a second: likewise of velocities there
_APART = 1e-3  # seconds before and after, between which velocities are differences


class ContactFeatures(Tables):
    """What a network sees of contacts: ``feature_dim`` numbers a core.

    Inside, batches come last and vectors' axes first, since sums over a first axis are fast.
    """

    def __init__(
        self,
        contacts: Contacts,
        free: tuple[int, ...],
        near: tuple[float, float] = _NEAR,
        slow: tuple[float, float] = _SLOW,
    ) -> None:
        """Prepare constants; ``free`` are core dimensions that do not matter."""
        super().__init__()
        self.near, self.slow = near, slow
        self.parts, self.base, self.ago = contacts.parts, contacts.base, contacts.ago
        self._singles = [k for k, part in enumerate(self.parts) if part.kind in ("hinge", "slide")]
        self._free = set(free)
        made = [_single(self.parts[k]) for k in self._singles]
        names = ("plain", "sine", "versine", "start", "slide", "anchor", "zero")
        for name, each in zip(names, zip(*made, strict=True), strict=bool(made)):
            self._keep(name, np.stack(each, -1)[..., None].astype(np.float32))
        for name in ("place", "velocity"):
            self._keep(name, np.array([getattr(self.parts[k], name) for k in self._singles], np.int64))
        # Where a robot has got to does not matter, and far away float32 would be coarse.
        counts = [self.parts[k].kind == "hinge" or self.parts[k].place not in free for k in self._singles]
        self._keep("counts", np.array(counts, np.float32)[:, None])
        for k, part in enumerate(self.parts):
            if part.kind == "ball":
                turn, anchor = _matrix(part.turn), np.array(part.anchor)
                self._keep(f"turn{k}", turn[..., None].astype(np.float32))
                self._keep(f"offset{k}", (part.offset + turn @ anchor)[..., None].astype(np.float32))
                self._keep(f"anchor{k}", anchor[..., None].astype(np.float32))
        flat = [(pair, (point,)) for pair in contacts.pairs if pair.flat for point in pair.points]
        solid = [(pair, pair.points) for pair in contacts.pairs if not pair.flat]
        # Where a capsule is nearest to a box is not found: its ends count by themselves, beside its middle.
        solid += [(pair, (end,)) for pair, ends in solid if len(ends) > 1 and pair.half[0] for end in ends]
        self._flat, rows = len(flat), [*flat, *solid]
        self._solid, self._long = len(solid), any(len(points) > 1 for _, points in rows)
        for name, vectors in (
            ("first", [points[0] for _, points in rows]),
            ("last", [points[-1] for _, points in rows]),
            ("solid_place", [pair.place for pair, _ in rows]),
            ("half", [pair.half for pair, _ in solid]),
        ):
            self._keep(name, np.array(vectors, np.float32).reshape(-1, 3).T[..., None])
        turns = np.array([_matrix(pair.turn) for pair, _ in rows], np.float32)
        self._keep("solid_turn", np.moveaxis(turns, 0, -1)[..., None])
        of, against = [pair.part for pair, _ in rows], [pair.solid for pair, _ in rows]
        self._moving_solids = max(against, default=-1) >= 0
        self._upright = all(pair.turn == (1.0, 0.0, 0.0, 0.0) for pair, _ in rows)
        # The world stands behind the parts, where anything is seen from it or fixed to it.
        self._world = -1 in of or (self._moving_solids and -1 in against)
        for name, ends in (("of", of), ("against", against)):
            self._keep(name, np.array(ends, np.int64) % (len(self.parts) + 1))
        # The middle line of a capsule; of a box, its middle; a plane has none.
        line = [0.0 if pair.half[0] else pair.half[2] for pair, _ in rows]
        self._keep("line", np.array(line, np.float32)[:, None])
        radii = [pair.radius + pair.solid_radius for pair, _ in rows]
        self._keep("radii", np.array(radii, np.float32)[:, None])
        kept = [*self._moving(flat, self.base >= 0), *self._moving(solid, True, normal=True)]
        self.feature_dim = sum(kept)
        self._keep("kept", np.flatnonzero(kept))

    def _moving(self, rows: list[Any], along: bool, normal: bool = False) -> list[bool]:
        """Which numbers of ``_seen`` ever change; ``along``: velocities begin with that along normals."""
        turned = self.base >= 0 and not normal  # into axes in which all may change
        moves = [[turned or i in pair.axes for pair, _ in rows] for i in range(3)]
        every = np.array(moves, bool)
        speeds = np.concatenate([np.ones((int(along), len(rows)), bool), every])
        blocks = [np.ones((len(self.near), len(rows)), bool), *[speeds] * len(self.slow), *[every] * normal]
        return [bool(each) for block in blocks for each in block.reshape(-1)]

    def forward(self, core: Array) -> Array:
        """``(batch, feature_dim)`` of cores ``(batch, dim)``."""
        lib, k = library(core), self._flat
        distance, rate, normal, base = self._measured(core)
        parts = list[Array]()
        if k:
            moving = rate[:, :k]
            if base is not None:  # along the normal, and in the axes of a base whose heading does not matter
                world = _product(self._table("solid_turn", core)[:, :, :k], moving)
                moving = lib.concatenate([moving[2:], _turned_back(base[:, :, None], world)], 0)
            parts += self._seen(distance[:k], moving)
        if normal is not None:
            along = _sum(normal * rate[:, k:])[None]
            parts += self._seen(distance[k:], lib.concatenate([along, rate[:, k:]], 0), normal)
        found = lib.concatenate([part.reshape(-1, len(core)) for part in parts], 0)
        return columns(found.T, self._table("kept", core))

    def _measured(self, core: Array) -> tuple[Array, Array, Array | None, Array | None]:
        """Distances ``(rows, n)``; rates and normals ``(3, rows, n)`` in solids' axes; the base's axes."""
        lib, n, k = library(core), len(core), self._flat
        turns, places = self._frames(core)
        turn, place = lib.stack(turns, 2), lib.stack(places, 1)  # (3, 3, parts, 3 n), (3, parts, 3 n)
        local = self._local(turn, place, "first")
        if self._long:
            along = self._local(turn, place, "last") - local
            share = self._nearest(local[:, :, :n], along[:, :, :n])
            local = local + lib.concatenate([share] * 3, 1) * along
        at, rate = local[:, :, :n], (local[:, :, 2 * n :] - local[:, :, n : 2 * n]) / (2 * _APART)
        distance, normal = at[2, :k], None
        if self._solid:
            outside, normal = self._outside(at[:, k:])
            distance = lib.concatenate([distance, outside], 0)
        base = turns[self.base][:, :, :n] if self.base >= 0 else None
        return distance - self._table("radii", core), rate, normal, base

    def _seen(self, distance: Array, speeds: Array, normal: Array | None = None) -> list[Array]:
        """Distances ``(rows, n)``, velocities and normals ``(3, rows, n)``, as far as they are near."""
        lib = library(distance)
        near = [lib.tanh(distance / scale) for scale in self.near]
        close = 0.5 - 0.5 * near[-1]  # 0 far away, 1 deep inside
        parts = [*near, *(close * lib.tanh(speeds / slow) for slow in self.slow)]
        return parts if normal is None else [*parts, close * normal]

    def _outside(self, at: Array) -> tuple[Array, Array]:
        """How far points ``(3, rows, n)`` are from boxes, and where that grows."""
        lib, zero = library(at), 0.0 * at  # of the same kind and type
        sign = lib.where(at < 0, zero - 1.0, zero + 1.0)
        over = at * sign - self._table("half", at)
        most = lib.maximum(lib.maximum(over[0], over[1]), over[2])
        beyond = lib.where(over > 0, over, zero)
        far = lib.sqrt(_sum(beyond * beyond) + 1e-12)
        face = lib.where(over >= most, zero + 1.0, zero)  # the nearest one
        return lib.where(most > 0, far, most), sign * lib.where(most > 0, beyond / far, face)

    def _nearest(self, first: Array, along: Array) -> Array:
        """Which share of the way along segments is nearest to the solids' middle lines: ``(rows, n)``.

        Ericson 2005, Real-Time Collision Detection, section 5.1.9.
        """
        line, product = self._table("line", first), along * first
        square = along * along
        across = square[0] + square[1] + 1e-12
        share = _within(-(product[0] + product[1]) / across, 0.0, 1.0)
        height = _within(first[2] + share * along[2], -line, line)
        return _within((height * along[2] - _sum(product)) / (across + square[2]), 0.0, 1.0)

    def _local(self, turn: Array, place: Array, name: str) -> Array:
        """Points ``(3, rows, m)`` in the frames of what they can touch."""
        of, against = self._table("of", turn), self._table("against", turn)
        seen = _product(turn[:, :, of], self._table(name, turn)) + place[:, of]
        if self._moving_solids:
            seen = _turned_back(turn[:, :, against], seen - place[:, against])
        seen = seen - self._table("solid_place", turn)
        return seen if self._upright else _turned_back(self._table("solid_turn", turn), seen)

    def _frames(self, core: Array) -> tuple[list[Array], list[Array]]:
        """Orientations ``(3, 3, m)`` and places ``(3, m)`` of the parts, and of the world where it counts.

        Of ``m`` states: now, a moment before, and a moment after.
        """
        lib = library(core)
        turns, places = list[Array](), list[Array]()
        own = self._moved_by_singles(core) if self._singles else None
        for k, part in enumerate(self.parts):
            if own is not None and k in self._singles:
                at = self._singles.index(k)
                turn, place = own[0][:, :, at], own[1][:, at]
            else:
                turn, place = self._moved_by_rotation(core, k, part)
            if part.parent >= 0:
                above = turns[part.parent]
                place = _product(above, place) + places[part.parent]
                turn = _matrices(above, turn)
            turns.append(turn)
            places.append(place)
        if not self._world:
            return turns, places
        still = 0.0 * core[:, 0]
        still = lib.concatenate([still] * 3, 0)
        eye = lib.stack([lib.stack([still + float(i == j) for j in range(3)], 0) for i in range(3)], 0)
        return [*turns, eye], [*places, lib.stack([still] * 3, 0)]

    def _moved_by_singles(self, core: Array) -> tuple[Array, Array]:
        """By hinges and slides ``(3, 3, k, m)`` and ``(3, k, m)``, against what they hang on."""
        lib = library(core)
        index, moving = self._table("place", core), self._table("velocity", core)
        at = (columns(core, index).T - self._table("zero", core)) * self._table("counts", core)
        at = self._around(at, columns(core, moving).T)
        turn = self._table("plain", core) + lib.sin(at) * self._table("sine", core)
        turn = turn + (1.0 - lib.cos(at)) * self._table("versine", core)
        place = self._table("start", core) + at * self._table("slide", core)
        return turn, place - _product(turn, self._table("anchor", core))

    def _moved_by_rotation(self, core: Array, k: int, part: Part) -> tuple[Array, Array]:
        """By a ball, a free joint or the env, likewise of one part."""
        lib = library(core)
        first = part.velocity if part.kind == "mocap" else part.place + 3 * (part.kind == "free")
        unit = core[:, first : first + 4]
        unit = unit / length(unit)
        if part.kind == "mocap":
            unit = lib.concatenate([unit] * 3, 0)
        else:
            at = part.velocity + 3 * (part.kind == "free")
            turn = core[:, at : at + 3]
            unit = compose(unit, turn * -self.ago) if self.ago else unit
            turn = turn * _APART
            unit = lib.concatenate([unit, compose(unit, -turn), compose(unit, turn)], 0)
        matrix = rotation_matrix(unit).swapaxes(0, 2).swapaxes(0, 1)
        if part.kind == "ball":
            matrix = _matrices(self._table(f"turn{k}", core), matrix)
            return matrix, self._table(f"offset{k}", core) - _product(matrix, self._table(f"anchor{k}", core))
        place = [core[:, i] * float(i not in self._free) for i in range(part.place, part.place + 3)]
        moving = core[:, part.velocity : part.velocity + 3].T * float(part.kind != "mocap")
        return matrix, self._around(lib.stack(place, 0), moving)

    def _around(self, at: Array, velocity: Array) -> Array:
        """At the moment that is seen, a moment before, and a moment after, side by side."""
        at, step = (at - velocity * self.ago if self.ago else at), velocity * _APART
        return library(at).concatenate([at, at - step, at + step], 1)


def _single(part: Part) -> tuple[np.ndarray, ...]:
    """Constants of a hinge or a slide; see ``ContactFeatures._moved_by_singles``."""
    turn, axis = _matrix(part.turn), np.array(part.axis)
    hinge = part.kind == "hinge"
    anchor = np.array(part.anchor) * hinge
    x, y, z = axis * hinge
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    start = np.array(part.offset) + turn @ anchor
    slide = turn @ axis * (not hinge)
    return turn, turn @ cross, turn @ cross @ cross, start, slide, anchor, np.array(part.zero)


def _matrix(quaternion: tuple[float, ...]) -> np.ndarray:
    unit = np.array(quaternion) / np.linalg.norm(quaternion)
    return np.asarray(rotation_matrix(unit[None])[0])


def _sum(vectors: Array) -> Array:
    return vectors[0] + vectors[1] + vectors[2]


def _product(turn: Array, vector: Array) -> Array:
    """Vectors ``(3, ...)`` turned by matrices ``(3, 3, ...)``."""
    return turn[:, 0] * vector[0] + turn[:, 1] * vector[1] + turn[:, 2] * vector[2]


def _turned_back(turn: Array, vector: Array) -> Array:
    """Likewise by the matrices' inverses."""
    return turn[0] * vector[0] + turn[1] * vector[1] + turn[2] * vector[2]


def _matrices(one: Array, other: Array) -> Array:
    """Products of matrices ``(3, 3, ...)``."""
    return one[:, 0, None] * other[0] + one[:, 1, None] * other[1] + one[:, 2, None] * other[2]


def _within(values: Array, low: Array, high: Array) -> Array:
    lib = library(values)
    values = lib.where(values < low, low + 0.0 * values, values)
    return lib.where(values > high, high + 0.0 * values, values)
