"""What of a robot touches what, and where both are: chains of joints, and the shapes at their ends."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np

from wmgym.tasks.contacts import NO_CONTACTS, Contact, Contacts, JointKind, Part
from wmgym.tasks.mjcf.model import BALL, FREE, HINGE, SLIDE, product, put, turned

_NEAR = 0.03  # metres: what comes as near as this counts
_STATES = 400  # that are looked at
_STILL = 1e-5  # metres: the distance of what slides on a floor says nothing
_SELDOM = 2  # states in which a pair must be near
_MOST = 24  # points in all, those of the pairs that are near most often
_PLANE, _SPHERE, _CAPSULE, _BOX = (
    int(getattr(mujoco.mjtGeom, f"mjGEOM_{name}")) for name in ("PLANE", "SPHERE", "CAPSULE", "BOX")
)
_KINDS: dict[int, JointKind] = {FREE: "free", BALL: "ball", SLIDE: "slide", HINGE: "hinge"}


def find_contacts(model: Any, core: np.ndarray, apart: frozenset[int], base: int | None) -> Contacts:
    """Of the pairs of shapes that come near each other in physical states ``(n, dim)``.

    MuJoCo says which come near. Meshes, height fields, ellipsoids and cylinders are left out.

    Args:
        model: compiled.
        core: the states.
        apart: numbers of them that the network must not see, places that do not matter aside.
        base: number of the place or the angle of a base whose heading does not matter; None where it does.
    """
    chains = _Chains(model)
    near = _Near(model, core)
    contacts = list[Contact]()
    for pair in near.pairs:
        ordered = _ordered(model, chains, *pair)
        found = None if ordered is None else _contact(model, chains, *ordered)
        if found is None or not apart.isdisjoint(chains.numbers(found.part, found.solid)):
            continue
        if sum(len(each.points) for each in contacts) + len(found.points) > _MOST:
            break
        assert ordered is not None
        contacts.append(replace(found, axes=near.axes(*ordered)))
    if not contacts:
        return NO_CONTACTS
    root = next((k for k, part in enumerate(chains.parts) if base in part.positions), -1)
    return chains.only(contacts, root)


class _Near:
    """Which shapes come near each other in some states.

    Attributes:
        pairs: those that are not always as near, most often near first.
    """

    def __init__(self, model: Any, core: np.ndarray) -> None:
        model = copy.copy(model)
        model.geom_margin[:] = np.maximum(model.geom_margin, _NEAR)
        data, found = mujoco.MjData(model), dict[tuple[int, int], dict[int, float]]()
        rows = np.linspace(0, len(core) - 1, min(len(core), _STATES)).astype(np.int64)
        self.long = np.where(model.geom_type == _CAPSULE, model.geom_size[:, 1], model.geom_size.max(1))
        self.long[model.geom_type == _SPHERE] = 0.0
        places, turns = list[np.ndarray](), list[np.ndarray]()
        for k, state in enumerate(core[rows]):
            put(model, data, state)
            places.append(data.geom_xpos.copy())
            turns.append(data.geom_xmat.reshape(-1, 3, 3).copy())
            for contact in data.contact[: data.ncon]:
                one, other = sorted(int(g) for g in contact.geom)
                if one >= 0:
                    least = found.setdefault((one, other), {})
                    least[k] = min(float(contact.dist), least.get(k, np.inf))
        self.place, self.turn, self.found = np.stack(places), np.stack(turns), found
        seen = {pair: each for pair, each in found.items() if len(each) >= min(_SELDOM, len(rows))}
        told = [
            p for p, each in seen.items() if len(each) < len(rows) or np.ptp(list(each.values())) > _STILL
        ]
        self.pairs = sorted(told, key=lambda pair: -len(seen[pair]))

    def axes(self, one: int, other: int) -> tuple[int, ...]:
        """Of the second shape's frame, along which the first one moves where they are near."""
        rows = list(self.found[min(one, other), max(one, other)])
        along = self.turn[rows, one] * self.long[one]  # columns are the ends of its axes
        points = self.place[rows, one][:, :, None] + np.concatenate([along, -along], 2)
        seen = self.turn[rows, other].swapaxes(1, 2) @ (points - self.place[rows, other][:, :, None])
        moved = np.ptp(seen, axis=0).max(1) > _STILL
        return tuple(np.flatnonzero(moved).tolist())


class _Chains:
    """The joints of a model as parts, each moved by one joint against another part or the world."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.parts: list[Part] = []
        # Of each body: the part that it is fixed to, its place and its orientation there.
        self.on: list[tuple[int, np.ndarray, np.ndarray]] = [(-1, np.zeros(3), np.array([1.0, 0, 0, 0]))]
        for body in range(1, model.nbody):
            self._add(body)

    def _add(self, body: int) -> None:
        m = self.model
        part, at, turn = self.on[int(m.body_parentid[body])]
        at, turn = at + turned(turn, m.body_pos[body]), product(turn, m.body_quat[body])
        mocap = int(m.body_mocapid[body])
        if mocap >= 0:
            place = int(m.nq + m.nv + m.na) + 3 * mocap
            rotation = int(m.nq + m.nv + m.na) + 3 * int(m.nmocap) + 4 * mocap
            self.parts.append(Part(-1, "mocap", place, rotation))
            self.on.append((len(self.parts) - 1, np.zeros(3), np.array([1.0, 0, 0, 0])))
            return
        first, count = int(m.body_jntadr[body]), int(m.body_jntnum[body])
        for j in range(first, first + count):
            kind = _KINDS[int(m.jnt_type[j])]
            place, dof = int(m.jnt_qposadr[j]), int(m.nq + m.jnt_dofadr[j])
            if kind == "free":
                self.parts.append(Part(-1, kind, place, dof))
            else:
                self.parts.append(
                    Part(
                        parent=part, kind=kind, place=place, velocity=dof, offset=_plain(at),
                        turn=_plain(turn), axis=_plain(m.jnt_axis[j]), anchor=_plain(m.jnt_pos[j]),
                        zero=0.0 if kind == "ball" else float(m.qpos0[place]),
                    )
                )  # fmt: skip
            part, at, turn = len(self.parts) - 1, np.zeros(3), np.array([1.0, 0, 0, 0])
        self.on.append((part, at, turn))

    def numbers(self, *parts: int) -> set[int]:
        """Of the physical state, all that moves these parts."""
        found = set[int]()
        for part in parts:
            while part >= 0:
                found |= set(self.parts[part].positions)
                part = self.parts[part].parent
        return found

    def only(self, contacts: list[Contact], root: int) -> Contacts:
        """The contacts with the parts that they need."""
        needed = set[int]()
        for part in [root, *(k for each in contacts for k in (each.part, each.solid))]:
            while part >= 0:
                needed.add(part)
                part = self.parts[part].parent
        order = {old: new for new, old in enumerate(sorted(needed))} | {-1: -1}
        return Contacts(
            tuple(replace(self.parts[old], parent=order[self.parts[old].parent]) for old in sorted(needed)),
            tuple(replace(each, part=order[each.part], solid=order[each.solid]) for each in contacts),
            order[root],
        )


def _ordered(model: Any, chains: _Chains, one: int, other: int) -> tuple[int, int] | None:
    """What touches and the solid that it touches, a plane, else a box, else what stands still."""
    kinds, on = model.geom_type, [chains.on[int(model.geom_bodyid[g])][0] for g in (one, other)]
    rank = [2 * (kinds[g] == _PLANE) + (kinds[g] == _BOX) for g in (one, other)]
    if (rank[0], on[0] < 0) > (rank[1], on[1] < 0):
        one, other = other, one
    known = kinds[one] in (_SPHERE, _CAPSULE, _BOX) and kinds[other] in (_PLANE, _SPHERE, _CAPSULE, _BOX)
    return (one, other) if known else None


def _contact(model: Any, chains: _Chains, one: int, other: int) -> Contact:
    """What touches, by its points, and the solid that it touches."""
    kinds = int(model.geom_type[one]), int(model.geom_type[other])
    part, at, turn = _placed(model, chains, one)
    solid, there, facing = _placed(model, chains, other)
    size, long = model.geom_size[one], np.zeros(3)
    if kinds[0] == _BOX and kinds[1] == _PLANE:
        signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1).T
        points, radius = [at + turned(turn, each * size) for each in signs], 0.0
    else:
        radius = float(size[0])
        if kinds[0] == _CAPSULE:
            long[2] = size[1]
        elif kinds[0] == _BOX:  # about a capsule along its longest edge
            radius, axis = float(np.sort(size)[1]), int(np.argmax(size))
            long[axis] = max(0.0, float(size[axis]) - radius)
        ends = (1.0, -1.0) if long.any() else (0.0,)
        points = [at + turned(turn, sign * long) for sign in ends]
    half, round_ = np.zeros(3), 0.0
    if kinds[1] == _BOX:
        half = model.geom_size[other]
    elif kinds[1] != _PLANE:
        round_ = float(model.geom_size[other][0])
        half[2] = model.geom_size[other][1] if kinds[1] == _CAPSULE else 0.0
    return Contact(
        part=part, points=tuple(_plain(each) for each in points), radius=radius, solid=solid,
        place=_plain(there), turn=_plain(facing), flat=kinds[1] == _PLANE, half=_plain(half),
        solid_radius=round_,
    )  # fmt: skip


def _placed(model: Any, chains: _Chains, geom: int) -> tuple[int, np.ndarray, np.ndarray]:
    """The part that a shape is fixed to, its place and its orientation there."""
    part, at, turn = chains.on[int(model.geom_bodyid[geom])]
    return part, at + turned(turn, model.geom_pos[geom]), product(turn, model.geom_quat[geom])


def _plain(values: Any) -> Any:
    return tuple(round(float(value), 9) + 0.0 for value in values)
