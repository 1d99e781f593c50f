"""Chart: the coordinates in which a network sees a core, and in which it predicts the change of one.

The laws of motion do not depend on where a robot stands or which way it faces, so the network is told
neither: velocities come in the body's frame, a floating base's orientation as the direction of gravity, and
the orientation's change is a rotation vector, composed on SO(3) (Sola 2017, arXiv:1711.02508, section 4).

Whether a foot stands, slips or flies is decided within millimetres, which a network that sees angles alone
cannot resolve: it also sees each foot's distance to the ground and its velocity, squashed at those scales.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wmgym.tasks import Geometry

_NEAR, _SLOW = 0.005, 0.1  # metres and metres a second: where a foot's distance and velocity count most


class Chart(nn.Module):
    """Maps cores ``(batch, dim)`` to features, and pairs of cores to changes and back.

    A change is ``(batch, change_dim)``: the core dimensions that can move, in order and without the
    quaternion, then its rotation vector, then the displacement. Differentiable; float32 or float64.
    """

    _angles: Tensor
    _plain: Tensor
    _moving: Tensor
    _seen: Tensor
    _turned: Tensor
    _segments: Tensor
    _offsets: Tensor
    _radii: Tensor

    def __init__(self, geometry: Geometry) -> None:
        """Prepare the index lists of one geometry."""
        super().__init__()
        self.geometry = g = geometry
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
        turned = [[column[i] for i in vector] for vector in (*velocities, *positions)]
        seen_angles = [i for i in g.angles if i not in g.free]
        lists = {"_angles": seen_angles, "_plain": plain, "_moving": moving}
        for name, rows in (*lists.items(), ("_seen", [list(v) for v in velocities]), ("_turned", turned)):
            self.register_buffer(name, torch.tensor(rows, dtype=torch.int64), persistent=False)
        self._identity = not (g.free or g.fixed or g.angles or turn)
        self._rotates = bool(turned)
        self._prepare_feet()
        self.feature_dim = len(plain) + 2 * len(seen_angles) + rotation + self._seen.numel() + 3 * len(g.feet)
        self.change_dim = len(moving) + rotation + g.displacement_dim

    def _prepare_feet(self) -> None:
        """Matrices from the core to segments' angles and rates, and from their cosines and sines to feet."""
        g, count = self.geometry, len(self.geometry.feet)
        segments = [*dict.fromkeys(joints for _, chain in g.feet for joints, _, _ in chain)]
        sums = torch.zeros(g.dim, 2 * len(segments))
        for k, joints in enumerate(segments):
            for angle, velocity, sign in joints:
                sums[angle, k] += sign
                sums[velocity, len(segments) + k] += sign
        offsets = torch.zeros(2 * len(segments), 2 * count)  # to all feet's x, then to their z
        for foot, (_, chain) in enumerate(g.feet):
            for joints, along, up in chain:
                cos = segments.index(joints)
                sin = len(segments) + cos
                offsets[cos, foot] += along
                offsets[sin, foot] += up
                offsets[cos, count + foot] += up
                offsets[sin, count + foot] -= along
        self.register_buffer("_segments", sums, persistent=False)
        self.register_buffer("_offsets", offsets, persistent=False)
        self.register_buffer("_radii", torch.tensor([radius for radius, _ in g.feet]), persistent=False)

    def feet(self, core: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distance of each foot to the ground, and its forward and upward velocity: ``(batch, feet)``."""
        assert self.geometry.root is not None
        height, forward, upward = self.geometry.root
        angle, rate = (core @ self._segments.to(core.dtype)).chunk(2, -1)
        cos, sin = torch.cos(angle), torch.sin(angle)
        offsets = self._offsets.to(core.dtype)
        _, z = (torch.cat([cos, sin], -1) @ offsets).chunk(2, -1)
        along, up = (torch.cat([-sin * rate, cos * rate], -1) @ offsets).chunk(2, -1)
        distance = core[..., height, None] + z - self._radii
        return distance, core[..., forward, None] + along, core[..., upward, None] + up

    def features(self, core: Tensor) -> Tensor:
        """What the network sees: ``(batch, feature_dim)``."""
        if self._identity and not self.geometry.feet:
            return core
        parts = [core.index_select(-1, self._plain)]
        if self.geometry.feet:
            distance, along, up = self.feet(core)
            parts.append(torch.tanh(torch.cat([distance / _NEAR, along / _SLOW, up / _SLOW], -1)))
        if len(self._angles):
            angle = core.index_select(-1, self._angles)
            parts += [torch.cos(angle), torch.sin(angle)]
        if self._rotates:
            frame = self._frame(core)
            if self.geometry.quaternion is not None:
                parts.append(frame[:, 2])  # the world's up, in the body's frame
            if len(self._seen):
                parts.append(_into(frame, core[:, self._seen]).flatten(1))
        return torch.cat(parts, -1)

    def difference(self, core: Tensor, next_core: Tensor, displacement: Tensor) -> Tensor:
        """The change ``(batch, change_dim)`` from one core to another."""
        if self._identity:
            return torch.cat([next_core - core, displacement], -1)
        parts = [(next_core - core).index_select(-1, self._moving)]
        if self.geometry.quaternion is not None:
            parts.append(rotation_between(self._quaternion(core), self._quaternion(next_core)))
        change = torch.cat([*parts, displacement], -1)
        if not self._rotates:
            return change
        turned = _into(self._frame(core), change[:, self._turned])
        return change.index_copy(1, self._turned.flatten(), turned.flatten(1))

    def move(self, core: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """Invert ``difference``: the next core and the displacement."""
        g = self.geometry
        if self._rotates:
            back = _out_of(self._frame(core), change[:, self._turned])
            change = change.index_copy(1, self._turned.flatten(), back.flatten(1))
        split = change.shape[1] - g.displacement_dim
        if self._identity or (not g.fixed and g.quaternion is None):
            return core + change[:, :split], change[:, split:]
        next_core = core.index_add(1, self._moving, change[:, : len(self._moving)])
        if g.quaternion is not None:
            at = g.quaternion
            turned = compose(self._quaternion(core), change[:, split - 3 : split])
            next_core = torch.cat([next_core[:, :at], turned, next_core[:, at + 4 :]], 1)
        return next_core, change[:, split:]

    def _quaternion(self, core: Tensor) -> Tensor:
        at = self.geometry.quaternion
        assert at is not None
        return functional.normalize(core[:, at : at + 4], dim=1)

    def _frame(self, core: Tensor) -> Tensor:
        """Rotation matrices ``(batch, k, k)`` from the body's frame to the world's."""
        if self.geometry.quaternion is not None:
            return rotation_matrix(self._quaternion(core))
        assert self.geometry.pitch is not None
        at, sense = self.geometry.pitch
        cos, sin = torch.cos(core[:, at]), torch.sin(core[:, at]) * sense
        return torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)


def rotation_matrix(quaternion: Tensor) -> Tensor:
    """Matrices ``(n, 3, 3)`` of unit quaternions ``(n, 4)`` in the order w, x, y, z."""
    w, x, y, z = quaternion.unbind(1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, 1).view(-1, 3, 3)


def compose(quaternion: Tensor, rotation: Tensor) -> Tensor:
    """Turn unit quaternions by rotation vectors ``(n, 3)``, radians, given in their own frame."""
    half = rotation.square().sum(1, keepdim=True).clamp(min=1e-30).sqrt() / 2
    turn = torch.cat([torch.cos(half), rotation / 2 * torch.sinc(half / torch.pi)], 1)
    return functional.normalize(multiply(quaternion, turn), dim=1)


def rotation_between(quaternion: Tensor, other: Tensor) -> Tensor:
    """The shortest rotation vector that ``compose`` needs to turn the first into the other."""
    sign = torch.tensor([1.0, -1.0, -1.0, -1.0], dtype=quaternion.dtype, device=quaternion.device)
    turn = multiply(quaternion * sign, other)
    turn = torch.where(turn[:, :1] < 0, -turn, turn)  # a quaternion and its negative are one orientation
    length = turn[:, 1:].square().sum(1, keepdim=True).clamp(min=1e-30).sqrt()
    return turn[:, 1:] * (2 * torch.atan2(length, turn[:, :1]) / length)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """The product of quaternions ``(n, 4)``."""
    (aw, av), (bw, bv) = (a[:, :1], a[:, 1:]), (b[:, :1], b[:, 1:])
    scalar = aw * bw - (av * bv).sum(1, keepdim=True)
    return torch.cat([scalar, aw * bv + bw * av + torch.linalg.cross(av, bv)], 1)


def _into(frame: Tensor, vectors: Tensor) -> Tensor:
    """Vectors ``(n, count, k)`` in world axes, seen from the frame."""
    return vectors @ frame


def _out_of(frame: Tensor, vectors: Tensor) -> Tensor:
    return vectors @ frame.transpose(1, 2)
