"""What observations tell of how bodies are turned: the way back from columns that show one number each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wmgym.tasks.layout import Array, arctan2, cos, sin
from wmgym.tasks.mjcf.orientation import (
    EULER,
    HEADING,
    LEVEL,
    LOCAL,
    MATRIX,
    OTHER_EULER,
    POSITIVE,
    SPIN,
    TWIST,
    TWIST_ANGLE,
    Heading,
    Orientation,
    about,
    along,
    matrix_of,
    multiplied,
)


class Told:
    """What an observation tells of an orientation: the way back from columns that show one number each."""

    def __init__(
        self,
        orientation: Orientation,
        shown: Mapping[int, tuple[int, float, float]],
        known: bool = False,
        level: bool = False,
    ) -> None:
        """Take by number ``(column, factor, offset)``, and what else is known.

        Args:
            orientation: where the core holds it.
            shown: by number, of ``COUNT``.
            known: whether other columns give the quaternion.
            level: whether the body never tilts.
        """
        self.orientation, self.shown, self.given = orientation, dict(shown), known
        self.whole = self._entries()
        self.tilt = level or {6, 7, 8} <= self.whole or {*EULER[:2]} <= set(shown)
        self.level = level
        pair, angle = {*HEADING} <= set(shown), EULER[2] in shown
        self.yaw = pair or angle or {0, 3} <= self.whole
        self.twist = not self.yaw and ({*TWIST} <= set(shown) or TWIST_ANGLE in shown)
        self.other = {*OTHER_EULER} <= set(shown)
        self.positive = {*POSITIVE} <= set(shown)
        moving = (LOCAL, LEVEL) if orientation.velocity is not None else ()
        self.moving = next((each for each in moving if set(each[:2]) <= set(shown)), None)
        self.local = self.moving is LOCAL and {*LOCAL} <= set(shown)
        self.spin = {*SPIN} <= set(shown)

    @property
    def anything(self) -> bool:
        """Whether that is more than nothing."""
        told = self.positive or self.tilt or self.yaw or self.twist or self.other
        return self.moving is not None or self.spin if self.given else told

    def known(self, anyway: bool = False) -> set[int]:
        """Core dimensions that are determined; with ``anyway`` but for the heading where none is shown."""
        turned = self.tilt and (anyway or self.yaw or self.twist)
        if not (self.given or self.positive or self.other or turned):
            return set()
        found = set(range(self.orientation.at, self.orientation.at + 4))
        for told, first in ((self.local, self.orientation.velocity), (self.spin, self.orientation.spin)):
            found |= set(range(first, first + 3)) if told and first is not None else set()
        level = self.moving is LEVEL or (self.moving is LOCAL and self.level)
        if level and self.orientation.velocity is not None:
            found |= {self.orientation.velocity, self.orientation.velocity + 1}
        return found

    def numbers(self, obs: Array, state: Array) -> dict[int, Array]:
        """Core dimensions ``(...)`` by their place; no tilt or heading where none is shown.

        Args:
            obs: ``(..., obs_dim)``.
            state: ``(..., dim)``, what other columns give.
        """
        value, zero = self._value(obs), obs[..., 0] * 0
        quaternion = self._turned(obs, state)
        matrix = matrix_of(quaternion)
        found = {} if self.given else dict(enumerate(quaternion, self.orientation.at))
        if self.moving is not None and self.orientation.velocity is not None:
            ahead = arctan2(matrix(3), matrix(0))
            frame = matrix if self.moving is LOCAL else matrix_of(about(2, ahead))
            own = [value(k) if k in self.shown else zero for k in range(self.moving[0], self.moving[0] + 3)]
            own = own if self.moving is LOCAL else [*own[:2], zero]
            for i in range(3 if self.moving is LOCAL else 2):
                found[self.orientation.velocity + i] = sum(frame(3 * i + k) * own[k] for k in range(3))
        if self.spin:
            spin = [value(k) for k in SPIN]
            for i in range(3):
                found[self.orientation.spin + i] = sum(matrix(3 * k + i) * spin[k] for k in range(3))
        return found

    def _turned(self, obs: Array, state: Array) -> tuple[Array, ...]:
        """The quaternion."""
        entry, value = self._entry(obs), self._value(obs)
        if self.given:
            return tuple(state[..., self.orientation.at + k] for k in range(4))
        if self.positive:
            return tuple(value(k) for k in POSITIVE)
        if self.other:
            roll, pitch, yaw = (about(k, value(OTHER_EULER[k])) for k in range(3))
            return multiplied(multiplied(roll, pitch), yaw)
        roll = pitch = yaw = obs[..., 0] * 0
        if {*EULER[:2]} <= set(self.shown):
            roll, pitch = value(EULER[0]), value(EULER[1])
        elif self.tilt and not self.level:
            roll = arctan2(entry(7), entry(8))
            pitch = arctan2(-entry(6), sin(roll) * entry(7) + cos(roll) * entry(8))
        if EULER[2] in self.shown:
            yaw = value(EULER[2])
        elif {*HEADING} <= set(self.shown):
            yaw = arctan2(value(HEADING[1]), value(HEADING[0]))
        elif self.yaw:
            yaw = arctan2(entry(3), entry(0))
        tilted = multiplied(about(1, pitch), about(0, roll))
        if self.twist:
            angle = TWIST_ANGLE in self.shown
            twist = value(TWIST_ANGLE) if angle else arctan2(value(TWIST[1]), value(TWIST[0]))
            yaw = twist - 2 * arctan2(tilted[3], tilted[0])
        return multiplied(about(2, yaw), tilted)

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
            for down, right in ((3, 1), (1, 3)):  # rows, then columns
                lines = [[line * down + k * right for k in range(3)] for line in (a, b)]
                if not all(k in self.shown for line in lines for k in line):
                    continue
                for k in range(3):
                    i, j = (k + 1) % 3, (k + 2) % 3
                    one, other = lines
                    self.crossed[third * down + k * right] = (one[i], other[j]), (one[j], other[i])
        return whole | set(self.crossed)

    def _entry(self, obs: Array) -> Callable[[int], Array]:
        value = self._value(obs)

        def entry(k: int) -> Array:
            if k in self.shown:
                return value(k)
            (a, b), (c, d) = self.crossed[k]
            return value(a) * value(b) - value(c) * value(d)

        return entry


class ToldHeading:
    """The way back from velocities along and across a heading, which other columns give."""

    def __init__(self, heading: Heading, shown: Mapping[int, tuple[int, float, float]]) -> None:
        """Take by number ``(column, factor, offset)``."""
        self.heading, self.shown = heading, dict(shown)

    def known(self) -> set[int] | None:
        """Core dimensions that are determined; None where none are."""
        return {*self.heading.velocity} if {*LEVEL} <= set(self.shown) else None

    def numbers(self, obs: Array, state: Array) -> dict[int, Array]:
        """Core dimensions ``(...)`` by their place, from what other columns give of the state."""
        shown = [self.shown[k] for k in LEVEL]
        own = tuple((obs[..., column] - offset) / factor for column, factor, offset in shown)
        back = along(-self.heading.angle(state), own)
        return dict(zip(self.heading.velocity, back, strict=True))
