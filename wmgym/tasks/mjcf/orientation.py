"""What observations show of a body that turns in space: heading, tilt, axes, velocities in its own frame.

All are functions of a quaternion (w, x, y, z) and of the velocities beside it, for NumPy arrays and torch
tensors alike. A wheeled robot shows the cosine and the sine of its heading, a legged one gravity and its
velocity as they are in its own frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wmgym.io.schema import STRICT
from wmgym.tasks.layout import Array, arctan2, cos, sin
from wmgym.tasks.mjcf.robot import Robot

MATRIX = range(9)  # of rotation, row by row: columns are the body's axes
HEADING = range(9, 11)  # cosine and sine of the yaw
TWIST = range(11, 13)  # of the turn about the vertical axis that is left when the tilt is taken off
EULER = range(13, 16)  # roll, pitch and yaw, of the matrix Rz(yaw) Ry(pitch) Rx(roll)
OTHER_EULER = range(16, 19)  # the same of Rx(roll) Ry(pitch) Rz(yaw)
TWIST_ANGLE = 19
LOCAL = range(20, 23)  # linear velocity in the body's frame
SPIN = range(23, 26)  # angular velocity in world axes
LEVEL = range(26, 28)  # linear velocity along and across the heading
QUATERNION = range(28, 32)  # as it was a moment ago
POSITIVE = range(32, 36)  # the quaternion whose w is not below 0
COUNT = 36

ANGLES = (*EULER, *OTHER_EULER, TWIST_ANGLE)
LINEAR = (*MATRIX, *LOCAL, *SPIN)
"""Those of which sums are usual: places of sites, velocities of what is off the body's middle."""

_OF_VELOCITY = frozenset((*LOCAL, *LEVEL))
_WITHOUT_HEADING = frozenset((6, 7, 8, *EULER[:2], *LOCAL, SPIN[2], *LEVEL))


@dataclass(frozen=True)
class Orientation:
    """Where a core holds a rotation.

    Attributes:
        at: first of its quaternion's four numbers.
        spin: first of three, its angular velocity in its own frame.
        velocity: likewise its linear velocity in world axes; None of a ball joint.
        ago: seconds before the state; velocities are the state's.
    """

    __pydantic_config__ = STRICT

    at: int
    spin: int
    velocity: int | None = None
    ago: float = 0.0

    @property
    def numbers(self) -> tuple[int, ...]:
        """Which of ``COUNT`` it has."""
        return tuple(k for k in range(COUNT) if self.velocity is not None or k not in _OF_VELOCITY)

    def takes(self, number: int) -> set[int]:
        """Core dimensions that a number is made of."""
        found = set(range(self.at, self.at + 4))
        if number in _OF_VELOCITY and self.velocity is not None:
            found |= set(range(self.velocity, self.velocity + 3))
        return found | (set(range(self.spin, self.spin + 3)) if number in SPIN else set())

    def fits(self, dim: int) -> bool:
        """Whether a core of so many dimensions has all of it."""
        firsts = (self.at + 1, self.spin, self.at if self.velocity is None else self.velocity)
        return all(0 <= first <= dim - 3 for first in firsts) and self.at >= 0

    def number(self, core: Array) -> Callable[[int], Array]:
        """A function that gives one of the numbers of cores ``(..., dim)``: ``(...)``."""
        first = self.velocity or 0
        moving, turning = (tuple(core[..., at + k] for k in range(3)) for at in (first, self.spin))
        quaternion = self._quaternion(core)
        matrix = matrix_of(quaternion)

        def yaw() -> Array:
            return arctan2(matrix(3), matrix(0))

        def twist() -> Array:
            w, _, _, z = quaternion
            return arctan2(2 * w * z, w * w - z * z)

        def upright() -> Array:
            """How long the first axis is in the level plane."""
            return cos(yaw()) * matrix(0) + sin(yaw()) * matrix(3)

        def number(k: int) -> Array:
            if k in MATRIX:
                return matrix(k)
            if k in HEADING:
                return (cos, sin)[k - HEADING[0]](yaw())
            if k in TWIST:
                return (cos, sin)[k - TWIST[0]](twist())
            if k in EULER:
                roll, pitch = arctan2(matrix(7), matrix(8)), arctan2(-matrix(6), upright())
                return (roll, pitch, yaw())[k - EULER[0]]
            if k in OTHER_EULER:
                turn = arctan2(-matrix(1), matrix(0))
                across = cos(turn) * matrix(0) - sin(turn) * matrix(1)
                return (arctan2(-matrix(5), matrix(8)), arctan2(matrix(2), across), turn)[k - OTHER_EULER[0]]
            if k == TWIST_ANGLE:
                return twist()
            if k in LOCAL:
                return sum(matrix(3 * i + k - LOCAL[0]) * moving[i] for i in range(3))
            if k in SPIN:
                return sum(matrix(3 * (k - SPIN[0]) + i) * turning[i] for i in range(3))
            if k in QUATERNION:
                return quaternion[k - QUATERNION[0]]
            if k in POSITIVE:
                return quaternion[k - POSITIVE[0]] * (1 - 2 * (quaternion[0] < 0))
            return along(yaw(), moving)[k - LEVEL[0]]

        return number

    def _quaternion(self, core: Array) -> tuple[Array, ...]:
        """Not always of unit length."""
        quaternion = tuple(core[..., self.at + k] for k in range(4))
        if not self.ago:
            return quaternion
        half = [core[..., self.spin + k] * (-self.ago / 2) for k in range(3)]
        square = half[0] * half[0] + half[1] * half[1] + half[2] * half[2]
        # The series of the cosine and of the sine over its angle: moments are short.
        cosine = 1 - square / 2 * (1 - square / 12 * (1 - square / 30 * (1 - square / 56)))
        ratio = 1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72)))
        return multiplied(quaternion, (cosine, *(each * ratio for each in half)))


@dataclass(frozen=True)
class Heading:
    """Where a core holds the heading of a body that slides and turns in a plane.

    Attributes:
        at: its angle.
        spin: the angular velocity.
        sense: 1 where it turns the first slide's axis towards the second's, else -1.
        velocity: those along the two slides.
        ago: seconds before the state; velocities are the state's.
    """

    __pydantic_config__ = STRICT

    at: int
    spin: int
    sense: int
    velocity: tuple[int, int]
    ago: float = 0.0

    @property
    def numbers(self) -> tuple[int, ...]:
        """Which of ``COUNT`` it has: the velocity along and across it."""
        return tuple(LEVEL)

    def takes(self, number: int) -> set[int]:
        """Core dimensions that a number is made of."""
        return {self.at, *self.velocity}

    def fits(self, dim: int) -> bool:
        """Whether a core of so many dimensions has all of it."""
        return all(0 <= i < dim for i in (self.at, self.spin, *self.velocity))

    def number(self, core: Array) -> Callable[[int], Array]:
        """A function that gives one of the numbers of cores ``(..., dim)``: ``(...)``."""
        velocity = tuple(core[..., i] for i in self.velocity)
        return lambda k: along(self.angle(core), velocity)[k - LEVEL[0]]

    def angle(self, core: Array) -> Array:
        """By which the first slide's axis has turned towards the second's."""
        return self.sense * (core[..., self.at] - self.ago * core[..., self.spin])


def orientations(robot: Robot, ago: float = 0.0) -> tuple[Orientation | Heading, ...]:
    """Those of all bodies that are loose, hang on a ball joint, or slide and turn in a plane."""
    found: list[Orientation | Heading] = []
    for before, at in enumerate(sorted(at for at in robot.rotations if at < robot.sizes[0])):
        spin = robot.sizes[0] + at - before
        free = tuple(range(at - 3, at)) in robot.vectors
        found.append(Orientation(at, spin, spin - 3 if free else None, ago))
    found += [Heading(*each, ago=ago) for each in robot.headings]
    return tuple(found)


def unit(number: int) -> str:
    """Of one of ``COUNT``."""
    if number in ANGLES:
        return "rad"
    return "m/s" if number in _OF_VELOCITY else "rad/s" if number in SPIN else "1"


def without_heading(numbers: set[int]) -> bool:
    """Whether the numbers are the same whichever way the body heads, with its velocities."""
    return numbers <= _WITHOUT_HEADING


def multiplied(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    """Product of two quaternions, by components."""
    (w, x, y, z), (v, p, q, r) = a, b
    return (
        w * v - x * p - y * q - z * r,
        w * p + x * v + y * r - z * q,
        w * q - x * r + y * v + z * p,
        w * r + x * q - y * p + z * v,
    )


def along(heading: Array, velocity: tuple[Array, ...]) -> tuple[Array, Array]:
    """Velocities along and across a heading, of those along two axes."""
    c, s = cos(heading), sin(heading)
    return c * velocity[0] + s * velocity[1], c * velocity[1] - s * velocity[0]


def about(axis: int, angle: Array) -> tuple[Array, ...]:
    """The quaternion of a turn about an axis, of which 2 is the vertical one."""
    zero = angle * 0
    parts = [cos(angle / 2), zero, zero, zero]
    parts[1 + axis] = sin(angle / 2)
    return tuple(parts)


def matrix_of(quaternion: tuple[Array, ...]) -> Callable[[int], Array]:
    """A function that gives an entry of the rotation matrix, row by row; of quaternions of any length."""
    w, x, y, z = quaternion
    scale = 2 / (w * w + x * x + y * y + z * z)
    entries: tuple[Callable[[], Array], ...] = (
        lambda: 1 - scale * (y * y + z * z), lambda: scale * (x * y - w * z), lambda: scale * (x * z + w * y),
        lambda: scale * (x * y + w * z), lambda: 1 - scale * (x * x + z * z), lambda: scale * (y * z - w * x),
        lambda: scale * (x * z - w * y), lambda: scale * (y * z + w * x), lambda: 1 - scale * (x * x + y * y),
    )  # fmt: skip
    return lambda k: entries[k]()
