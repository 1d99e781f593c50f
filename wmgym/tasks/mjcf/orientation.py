"""What observations show of a body that turns in space: heading, tilt, axes, velocities in its own frame.

All are functions of a quaternion (w, x, y, z) and of the velocities beside it, for NumPy arrays and torch
tensors alike. A wheeled robot shows the cosine and the sine of its heading, a legged one gravity and its
velocity as they are in its own frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
COUNT = 28

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
        matrix = _matrix(self._quaternion(core))
        first = self.velocity or 0
        moving, turning = (tuple(core[..., at + k] for k in range(3)) for at in (first, self.spin))

        def yaw() -> Array:
            return arctan2(matrix(3), matrix(0))

        def twist() -> Array:
            w, _, _, z = self._quaternion(core)
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
            along, across = (cos(yaw()), sin(yaw())), (-sin(yaw()), cos(yaw()))
            return sum(a * v for a, v in zip((along, across)[k - LEVEL[0]], moving, strict=False))

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


def orientations(robot: Robot, ago: float = 0.0) -> tuple[Orientation, ...]:
    """Those of all bodies that are loose or hang on a ball joint."""
    found = []
    for before, at in enumerate(sorted(at for at in robot.rotations if at < robot.sizes[0])):
        spin = robot.sizes[0] + at - before
        free = tuple(range(at - 3, at)) in robot.vectors
        found.append(Orientation(at, spin, spin - 3 if free else None, ago))
    return tuple(found)


def unit(number: int) -> str:
    """Of one of ``COUNT``."""
    if number in ANGLES:
        return "rad"
    return "m/s" if number in _OF_VELOCITY else "rad/s" if number in SPIN else "1"


def without_heading(numbers: set[int]) -> bool:
    """Whether the numbers are the same whichever way the body heads, with its velocities."""
    return numbers <= _WITHOUT_HEADING


class Told:
    """What an observation tells of an orientation: the way back from columns that show one number each."""

    def __init__(self, orientation: Orientation, shown: Mapping[int, tuple[int, float, float]]) -> None:
        """Take by number ``(column, factor, offset)``."""
        self.orientation, self.shown = orientation, dict(shown)
        self.whole = self._entries()
        self.tilt = {6, 7, 8} <= self.whole or {*EULER[:2]} <= set(shown)
        pair, angle = {*HEADING} <= set(shown), EULER[2] in shown
        self.yaw = pair or angle or {0, 3} <= self.whole
        self.twist = not self.yaw and ({*TWIST} <= set(shown) or TWIST_ANGLE in shown)
        self.other = {*OTHER_EULER} <= set(shown)
        moving = (LOCAL, LEVEL) if orientation.velocity is not None else ()
        self.moving = next((each for each in moving if set(each[:2]) <= set(shown)), None)
        self.local = self.moving is LOCAL and {*LOCAL} <= set(shown)
        self.spin = {*SPIN} <= set(shown)

    @property
    def anything(self) -> bool:
        """Whether that is more than nothing."""
        return self.tilt or self.yaw or self.twist or self.other

    def known(self, anyway: bool = False) -> set[int]:
        """Core dimensions that are determined; with ``anyway`` but for the heading where none is shown."""
        if not (self.other or (self.tilt and (anyway or self.yaw or self.twist))):
            return set()
        found = set(range(self.orientation.at, self.orientation.at + 4))
        for told, first in ((self.local, self.orientation.velocity), (self.spin, self.orientation.spin)):
            found |= set(range(first, first + 3)) if told and first is not None else set()
        return found

    def numbers(self, obs: Array) -> dict[int, Array]:
        """Core dimensions ``(...)`` by their place; no tilt or heading where none is shown."""
        entry, value = self._entry(obs), self._value(obs)
        zero = obs[..., 0] * 0
        if self.other:
            roll, pitch, yaw = (_about(k, value(OTHER_EULER[k])) for k in range(3))
            quaternion = multiplied(multiplied(roll, pitch), yaw)
        else:
            roll = pitch = yaw = zero
            if self.tilt and {*EULER[:2]} <= set(self.shown):
                roll, pitch = value(EULER[0]), value(EULER[1])
            elif self.tilt:
                roll = arctan2(entry(7), entry(8))
                pitch = arctan2(-entry(6), sin(roll) * entry(7) + cos(roll) * entry(8))
            if EULER[2] in self.shown:
                yaw = value(EULER[2])
            elif {*HEADING} <= set(self.shown):
                yaw = arctan2(value(HEADING[1]), value(HEADING[0]))
            elif self.yaw:
                yaw = arctan2(entry(3), entry(0))
            quaternion = multiplied(_about(1, pitch), _about(0, roll))
            if self.twist:
                angle = TWIST_ANGLE in self.shown
                twist = value(TWIST_ANGLE) if angle else arctan2(value(TWIST[1]), value(TWIST[0]))
                yaw = twist - 2 * arctan2(quaternion[3], quaternion[0])
            quaternion = multiplied(_about(2, yaw), quaternion)
        found, matrix = dict(enumerate(quaternion, self.orientation.at)), _matrix(quaternion)
        if self.moving is not None and self.orientation.velocity is not None:
            frame = matrix if self.moving is LOCAL else _matrix(_about(2, yaw))
            own = [value(k) if k in self.shown else zero for k in range(self.moving[0], self.moving[0] + 3)]
            for i in range(3 if self.moving is LOCAL else 2):
                found[self.orientation.velocity + i] = sum(frame(3 * i + k) * own[k] for k in range(3))
        if self.spin:
            spin = [value(k) for k in SPIN]
            for i in range(3):
                found[self.orientation.spin + i] = sum(matrix(3 * k + i) * spin[k] for k in range(3))
        return found

    def _value(self, obs: Array) -> Callable[[int], Array]:
        def value(number: int) -> Array:
            column, factor, offset = self.shown[number]
            return (obs[..., column] - offset) / factor

        return value

    def _entries(self) -> set[int]:
        """Entries of the matrix that are shown or follow, since two rows or columns give the third."""
        whole = {k for k in MATRIX if k in self.shown}
        self.crossed: dict[int, tuple[tuple[int, int], tuple[int, int]]] = {}
        for third in range(3):
            a, b = (third + 1) % 3, (third + 2) % 3
            for across, along in ((3, 1), (1, 3)):  # rows, then columns
                lines = [[line * across + k * along for k in range(3)] for line in (a, b)]
                if not all(k in self.shown for line in lines for k in line):
                    continue
                for k in range(3):
                    i, j = (k + 1) % 3, (k + 2) % 3
                    one, other = lines
                    self.crossed[third * across + k * along] = (one[i], other[j]), (one[j], other[i])
        return whole | set(self.crossed)

    def _entry(self, obs: Array) -> Callable[[int], Array]:
        value = self._value(obs)

        def entry(k: int) -> Array:
            if k in self.shown:
                return value(k)
            (a, b), (c, d) = self.crossed[k]
            return value(a) * value(b) - value(c) * value(d)

        return entry


def multiplied(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    """Product of two quaternions, by components."""
    (w, x, y, z), (v, p, q, r) = a, b
    return (
        w * v - x * p - y * q - z * r,
        w * p + x * v + y * r - z * q,
        w * q - x * r + y * v + z * p,
        w * r + x * q - y * p + z * v,
    )


def _about(axis: int, angle: Array) -> tuple[Array, ...]:
    zero = angle * 0
    parts = [cos(angle / 2), zero, zero, zero]
    parts[1 + axis] = sin(angle / 2)
    return tuple(parts)


def _matrix(quaternion: tuple[Array, ...]) -> Callable[[int], Array]:
    w, x, y, z = quaternion
    scale = 2 / (w * w + x * x + y * y + z * z)
    entries: tuple[Callable[[], Array], ...] = (
        lambda: 1 - scale * (y * y + z * z), lambda: scale * (x * y - w * z), lambda: scale * (x * z + w * y),
        lambda: scale * (x * y + w * z), lambda: 1 - scale * (x * x + z * z), lambda: scale * (y * z - w * x),
        lambda: scale * (x * z - w * y), lambda: scale * (y * z + w * x), lambda: 1 - scale * (x * x + y * y),
    )  # fmt: skip
    return lambda k: entries[k]()
