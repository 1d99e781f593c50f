"""The coordinates in which a network sees a core, and in which it predicts the change of one.

The laws of motion do not depend on where a robot stands or which way it faces, so the network is told
neither: velocities come in the body's frame, a floating base's orientation as the direction of gravity, and
the orientation's change is a rotation vector, composed on SO(3) (Sola 2017, arXiv:1711.02508, section 4).

Whether a foot stands, slips or flies is decided within millimetres, which a network that sees angles alone
cannot resolve: it also sees feet's heights and velocities and joints' distances from stops, squashed there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np
from torch import Tensor

from wmgym.models.batching import Tables, clamp, columns, library, with_columns
from wmgym.models.contacts import ContactFeatures
from wmgym.models.feet import Feet
from wmgym.models.rotations import compose, length, rotation_between, rotation_matrix
from wmgym.tasks.contacts import NO_CONTACTS
from wmgym.tasks.geometry import Geometry
from wmgym.tasks.layout import Array

Label: TypeAlias = tuple[str, int]
"""What a column holds: its kind, and a core dimension (from ``dim`` on, a displacement), an axis or a foot.

Kinds are "world" and "body", a number as it is and as a part of a vector in the body's frame; "cos" and "sin"
of an angle; "up", the direction against gravity in the body's frame; "axes", six numbers of another
orientation's matrix, of which ``i`` counts all; "rotation", a part of a rotation vector in that frame, three
for each quaternion; "clearance", "forward" and "upward" of a foot, see ``feet``, which counts on from scale
to scale; "stop", of a joint; "contact", see ``contacts``.
"""

_STOP = 0.02  # share of a joint's range: likewise


class Coordinates(Tables):
    """Maps cores ``(batch, dim)`` to features, and pairs of cores to changes and back.

    A change is ``(batch, change_dim)``: the core dimensions that can move, in order and without the
    quaternion, then its rotation vector, then the displacement. Takes tensors, differentiably, and NumPy
    arrays alike; float32 or float64.

    Attributes:
        geometry: what the core's numbers mean in space.
        feature_labels: what each feature is.
        change_labels: what each number of a change is.
    """

    def __init__(self, geometry: Geometry) -> None:
        """Prepare the index lists of one geometry."""
        super().__init__()
        self.geometry = g = geometry
        floating, turns = g.quaternion is not None, g.quaternion is not None or g.pitch is not None
        base = tuple(i for at in g.quaternions for i in range(at, at + 4))
        seen = [i for vector in g.velocities for i in vector] if turns else []
        wrapped = [i for i, _, _ in g.wrapped]
        angles = [i for i in (*g.angles, *wrapped) if i not in g.free]
        copies = [i for i, _ in g.copies]
        ruled = [rule.number for rule in g.rules]
        apart = {*g.free, *g.angles, *wrapped, *copies, *base, *seen}
        plain = [i for i in range(g.dim) if i not in apart]
        moving = [i for i in range(g.dim) if i not in {*g.fixed, *copies, *ruled, *base}]
        feet = range(len(g.feet))
        self.contacts = ContactFeatures(g.contacts, g.free) if g.contacts.pairs else None
        self.feature_labels: tuple[Label, ...] = (
            *(("world", i) for i in plain),
            *(
                (kind, foot + scale * len(g.feet))
                for scale in range(len(g.foot_scales))
                for kind in ("clearance", "forward", "upward")
                for foot in feet
            ),
            *((kind, i) for kind in ("cos", "sin") for i in angles),
            *(("up", axis) for axis in range(3 * floating)),
            *(("body", i) for i in seen),
            *(("axes", i) for i in range(6 * len(g.rotations))),
            *(("stop", i) for i, _, _ in g.stops),
            *(("contact", i) for i in range(self.contacts.feature_dim if self.contacts else 0)),
        )
        turned = {i for vector in (*g.velocities, *g.positions) for i in vector} if turns else set()
        moved = range(g.dim, g.dim + g.displacement_dim)
        self.change_labels: tuple[Label, ...] = (
            *(("body" if i in turned else "world", i) for i in moving),
            *(("rotation", axis) for axis in range(3 * len(g.quaternions))),
            *(("body" if i in turned else "world", i) for i in moved),
        )
        self.feature_dim, self.change_dim = len(self.feature_labels), len(self.change_labels)
        column = {i: k for k, (kind, i) in enumerate(self.change_labels) if kind != "rotation"}
        vectors = [column[i] for vector in (*g.velocities, *g.positions) for i in vector] if turns else []
        # Components of one vector, for the unit that they share.
        axes = [k for k, (kind, _) in enumerate(self.change_labels) if kind == "rotation"]
        self.vectors: tuple[tuple[int, ...], ...] = tuple(
            tuple(column[i] for i in vector if i in column) for vector in g.vectors if vector[0] not in base
        )
        self.vectors += tuple(tuple(axes[k : k + 3]) for k in range(0, len(axes) * bool(g.rotations), 3))
        lists = {"plain": plain, "angles": angles, "seen": seen, "moving": moving, "turned": vectors}
        for name, indices in lists.items():
            self._keep(name, np.array(indices, np.int64))
        self._keep("changing", np.array(sorted({*moving, *base}), np.int64))
        self._keep("rotating", np.array([*moving, *base], np.int64))
        self._moving_before = sum(i < g.quaternion for i in moving) if g.quaternion is not None else 0
        self._axes = 3 if floating else 2  # that a vector has
        traits = g.free, g.fixed, g.angles, g.rotations, g.wrapped, g.whole, g.copies, g.rules
        self._plain_core = not (turns or any(traits))  # a short cut for small batches
        self._keep("wrapped", np.array(wrapped, np.int64))
        self._keep("wrapped_change", np.array([column[i] for i in wrapped], np.int64))
        low, high = np.array([ends for _, *ends in g.wrapped], np.float32).reshape(-1, 2).T
        self._keep("interval_low", low)
        self._keep("interval", high - low)
        of_wrapped = {i: 2 * np.pi / (end - start) for i, start, end in g.wrapped}
        self._keep("radians", np.array([of_wrapped.get(i, 1.0) for i in angles], np.float32))
        self._keep("stopped", np.array([i for i, _, _ in g.stops], np.int64))
        self._keep("stops", np.array([(a, b, _STOP * (b - a)) for _, a, b in g.stops], np.float32).T)
        self._keep("whole", np.array(g.whole, np.int64))
        self._keep("copies", np.array(copies, np.int64))
        self._keep("copied", np.array([source for _, source in g.copies], np.int64))
        terms = max((len(rule.terms) for rule in g.rules), default=0)
        padded = [(*rule.terms, *[(0, 0.0)] * (terms - len(rule.terms))) for rule in g.rules]
        self._keep("follow", np.array(ruled, np.int64))
        for name, side, kind in (("sources", 0, np.int64), ("factors", 1, np.float32)):
            each = [[term[side] for term in rule] for rule in padded]
            self._keep(name, np.array(each, kind).reshape(len(padded), terms).T)
        self._keep("offsets", np.array([rule.offset for rule in g.rules], np.float32))
        ends = [[rule.low, rule.high] for rule in g.rules]
        self._clipped = any(end is not None for pair in ends for end in pair)
        most = np.finfo(np.float32).max
        for name, side, none in (("followed_low", 0, -most), ("followed_high", 1, most)):
            limits = [none if pair[side] is None else pair[side] for pair in ends]
            self._keep(name, np.array(limits, np.float32))
        self.feet = Feet(g) if g.feet else None

    def features(self, core: Array) -> Array:
        """What the network sees: ``(batch, feature_dim)``."""
        g, lib = self.geometry, library(core)
        if self._plain_core and not (g.feet or g.stops or self.contacts):
            return core
        parts = [columns(core, self._table("plain", core))]
        if self.feet is not None:
            parts += self.feet.features(core)
        if len(self._tables["angles"]):
            angle = columns(core, self._table("angles", core))
            if g.wrapped:
                angle = angle * self._table("radians", core)
            parts += [lib.cos(angle), lib.sin(angle)]
        if len(self._tables["turned"]):
            frame = self._frame(core, self._quaternion(core))
            if g.quaternion is not None:
                parts.append(frame[:, 2])  # the world's up, in the body's frame
            if len(self._tables["seen"]):
                parts.append(self._turn(columns(core, self._table("seen", core)), frame))
        parts += [rotation_matrix(_unit(core, at))[:, :2].reshape(-1, 6) for at in g.rotations]
        if g.stops:  # -1 at the lower one, 1 at the upper one, 0 far from both
            place, (low, high, near) = columns(core, self._table("stopped", core)), self._table("stops", core)
            parts.append(lib.tanh((place - low) / near) + lib.tanh((place - high) / near))
        if self.contacts is not None:
            parts.append(self.contacts(core))
        return lib.concatenate(parts, 1)

    def without_contacts(self) -> Coordinates:
        """Coordinates in which near states are alike; contacts change within millimetres."""
        if self.contacts is None:
            return self
        return Coordinates(replace(self.geometry, contacts=NO_CONTACTS))

    def difference(self, core: Array, next_core: Array, displacement: Array) -> Array:
        """The change ``(batch, change_dim)`` from one core to another."""
        moved = columns(next_core - core, self._table("moving", core))
        if self.geometry.wrapped:
            at, interval = self._table("wrapped_change", core), self._table("interval", core)
            moved = with_columns(moved, at, _shortest(columns(moved, at), interval))
        parts, quaternion = [moved], self._quaternion(core)
        parts += [rotation_between(_unit(core, at), _unit(next_core, at)) for at in self.geometry.quaternions]
        change = library(core).concatenate([*parts, displacement], 1)
        turned = self._table("turned", core)
        if not len(turned):
            return change
        frame = self._frame(core, quaternion)
        return with_columns(change, turned, self._turn(columns(change, turned), frame))

    def move(self, core: Array, change: Array) -> tuple[Array, Array]:
        """Invert ``difference``: the next core, but for what follows from it, and the displacement."""
        g, turned, moving = self.geometry, self._table("turned", core), self._table("moving", core)
        split = change.shape[1] - g.displacement_dim
        if self._plain_core:
            return core + change[:, :split], change[:, split:]
        quaternion = self._quaternion(core)
        if len(turned):
            frame = self._frame(core, quaternion).swapaxes(1, 2)
            change = with_columns(change, turned, self._turn(columns(change, turned), frame))
        moved = columns(core, moving) + change[:, : len(moving)]
        if g.rotations:
            at, bases = len(moving), g.quaternions
            turns = (change[:, at + 3 * k : at + 3 * k + 3] for k in range(len(bases)))
            turned_to = [compose(_unit(core, base), turn) for base, turn in zip(bases, turns, strict=True)]
            every = library(core).concatenate([moved, *turned_to], 1)
            next_core = with_columns(core, self._table("rotating", core), every)
            return self._with_copies(self._with_whole(next_core)), change[:, split:]
        if quaternion is not None:
            at, turn = self._moving_before, compose(quaternion, change[:, split - 3 : split])
            moved = library(core).concatenate([moved[:, :at], turn, moved[:, at:]], 1)
        apart = g.fixed or g.copies or g.rules
        next_core = with_columns(core, self._table("changing", core), moved) if apart else moved
        if g.wrapped:
            at, interval = self._table("wrapped", core), self._table("interval", core)
            past = columns(next_core, at) - self._table("interval_low", core)
            within = past - interval * library(core).floor(past / interval)
            next_core = with_columns(next_core, at, within + self._table("interval_low", core))
        return self._with_copies(self._with_whole(next_core)), change[:, split:]

    def followed(self, core: Array, next_core: Array, action: Array) -> Array:
        """The next core ``(batch, dim)`` with what follows from a step by rules.

        Args:
            core: before the step.
            next_core: what ``move`` gave.
            action: as networks see it ``(batch, action_dim)``.
        """
        if not self.geometry.rules:
            return next_core
        known, said = library(core).concatenate([core, next_core, action], 1), self._table("offsets", core)
        terms = zip(self._table("sources", core), self._table("factors", core), strict=True)
        for sources, factors in terms:
            said = said + columns(known, sources) * factors
        if self._clipped:
            said = clamp(said, self._table("followed_low", core), self._table("followed_high", core))
        return self._with_copies(with_columns(next_core, self._table("follow", core), said))

    def _with_whole(self, core: Array) -> Array:
        if not self.geometry.whole:
            return core
        at = self._table("whole", core)
        return with_columns(core, at, _rounded(columns(core, at)))

    def _with_copies(self, core: Array) -> Array:
        if not self.geometry.copies:
            return core
        copied = columns(core, self._table("copied", core))
        return with_columns(core, self._table("copies", core), copied)

    def distance(self, core: Array, other: Array) -> Array:
        """From ``other`` to ``core`` ``(batch, dim)``; the shorter way round where one is wrapped."""
        apart = core - other
        if not self.geometry.wrapped:
            return apart
        at, interval = self._table("wrapped", core), self._table("interval", core)
        return with_columns(apart, at, _shortest(columns(apart, at), interval))

    def _quaternion(self, core: Array) -> Array | None:
        """Of unit length; None where the base has no orientation."""
        at = self.geometry.quaternion
        return None if at is None else _unit(core, at)

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
        if isinstance(frame, np.ndarray):
            frame = np.ascontiguousarray(frame)  # of another look at a matrix NumPy makes products one by one
        return (vectors.reshape(len(vectors), -1, self._axes) @ frame).reshape(vectors.shape)


def _unit(core: Array, at: int) -> Array:
    """The quaternion ``(batch, 4)`` that begins at a dimension, of unit length."""
    return core[:, at : at + 4] / length(core[:, at : at + 4])


def _shortest(change: Array, interval: Array) -> Array:
    """Changes of what is wrapped into an interval, the shorter way round."""
    return change - interval * library(change).round(change / interval)


def _rounded(values: Array) -> Array:
    """Whole numbers; a gradient passes as if they were not rounded."""
    if isinstance(values, Tensor):
        return values + (values.round() - values).detach()
    return values.round()
