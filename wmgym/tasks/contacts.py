"""Which shapes of a robot can touch which, and the joints that move them: plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Vector: TypeAlias = tuple[float, float, float]
Quaternion: TypeAlias = tuple[float, float, float, float]
JointKind: TypeAlias = Literal["hinge", "slide", "ball", "free", "mocap"]

_SIZES = {"free": (7, 6), "ball": (4, 3), "mocap": (3, 4)}  # numbers of position and velocity; else one each


@dataclass(frozen=True)
class Part:
    """A rigid part of a robot, which one joint moves against the part before it or the world.

    Attributes:
        parent: the part that it hangs on; -1 for the world.
        kind: of joint; "mocap" is put where the env says.
        place: first core dimension of the joint's position.
        velocity: likewise of its velocity; of a mocap body, of its quaternion.
        offset: metres, where the joint's frame is in the parent's.
        turn: how it is turned there, w, x, y, z.
        axis: of a hinge or a slide, in the joint's frame.
        anchor: metres in that frame, the point that a hinge or a ball leaves where it is.
        zero: the joint's position at which the part is where the frame says.
    """

    parent: int
    kind: JointKind
    place: int
    velocity: int
    offset: Vector = (0.0, 0.0, 0.0)
    turn: Quaternion = (1.0, 0.0, 0.0, 0.0)
    axis: Vector = (0.0, 0.0, 1.0)
    anchor: Vector = (0.0, 0.0, 0.0)
    zero: float = 0.0

    @property
    def positions(self) -> range:
        """Core dimensions of the joint's position."""
        return range(self.place, self.place + _SIZES.get(self.kind, (1, 1))[0])

    @property
    def velocities(self) -> range:
        """Likewise of its velocity; of a mocap body, of its quaternion."""
        return range(self.velocity, self.velocity + _SIZES.get(self.kind, (1, 1))[1])


@dataclass(frozen=True)
class Contact:
    """Two shapes that can touch: a sphere, a capsule or the corners of a box, and a plane or a rounded solid.

    Attributes:
        part: that the first one is fixed to; -1 for the world.
        points: metres in the part's frame; two that touch no plane are the ends of a capsule.
        radius: about each point, metres.
        solid: part that the second one is fixed to; -1 for the world.
        place: where its middle is there.
        turn: how it is turned there.
        flat: whether it is a plane, whose normal is its z axis.
        half: half of its edges, metres; 0 for a sphere, along z for a capsule.
        solid_radius: by which it is rounded.
        axes: of its frame, along which the first one ever moves.
    """

    part: int
    points: tuple[Vector, ...]
    radius: float
    solid: int
    place: Vector
    turn: Quaternion
    flat: bool
    half: Vector
    solid_radius: float
    axes: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True)
class Contacts:
    """What of a robot touches what.

    Attributes:
        parts: each after the one that it hangs on.
        pairs: what touches.
        base: part in whose frame velocities against the ground are seen; -1 where world axes matter.
        ago: seconds before the state of which it is seen.
    """

    parts: tuple[Part, ...] = ()
    pairs: tuple[Contact, ...] = ()
    base: int = -1
    ago: float = 0.0

    def fit(self, dim: int) -> bool:
        """Whether stored numbers fit each other and a core of this many dimensions."""
        count = len(self.parts)
        return (
            all(
                -1 <= part.parent < k
                and all(each.start >= 0 and each.stop <= dim for each in (part.positions, part.velocities))
                for k, part in enumerate(self.parts)
            )
            and all(-1 <= k < count for each in self.pairs for k in (each.part, each.solid))
            and all(each.points and set(each.axes) <= {0, 1, 2} for each in self.pairs)
            and -1 <= self.base < count
        )


NO_CONTACTS = Contacts()
