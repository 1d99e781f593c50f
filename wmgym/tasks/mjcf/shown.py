"""How an observation shows a core: all of it is numbers, so that it is stored with a world."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wmgym.tasks.geometry import Rule
from wmgym.tasks.mjcf.orientation import COUNT, Heading, Orientation, without_heading


@dataclass(frozen=True)
class Column:
    """An observation column ``offset + sum of factor * number``, then clipped, wrapped or one of two values.

    Attributes:
        terms: ``(number, factor)``: numbers below the core's dimension are its own, then come the sines of
            the angles, then their cosines, then those of each orientation; None for a readout.
        offset: added.
        low: smallest value, where the column is clipped.
        high: likewise the largest.
        wrapped: an angle within a full turn, from ``low`` to ``high``; in [-pi, pi) where these are None.
        classed: a readout of two values, ``low`` and ``high``.
    """

    terms: tuple[tuple[int, float], ...] | None = None
    offset: float = 0.0
    low: float | None = None
    high: float | None = None
    wrapped: bool = False
    classed: bool = False

    @property
    def turn(self) -> tuple[float, float]:
        """Where the interval of a wrapped column begins, and how long it is."""
        if self.low is None or self.high is None:
            return -math.pi, 2 * math.pi
        return self.low, self.high - self.low


@dataclass(frozen=True)
class Shown:
    """An observation's columns.

    Attributes:
        dim: core dimensions.
        angles: sums of core dimensions, ``(dimension, factor)``, whose sines and cosines columns take.
        columns: one for each number of the observation.
        usual: core ``(dim,)`` that stands for what the observation hides.
        orientations: of bodies of which columns take the heading, the tilt or velocities as these feel them.
        constant: core dimensions that have their usual value in all data.
    """

    dim: int
    angles: tuple[tuple[tuple[int, float], ...], ...]
    columns: tuple[Column, ...]
    usual: tuple[float, ...]
    orientations: tuple[Orientation | Heading, ...] = ()
    constant: tuple[int, ...] = ()

    @property
    def readouts(self) -> tuple[int, ...]:
        """Columns that are predicted."""
        return tuple(k for k, column in enumerate(self.columns) if column.terms is None)

    @property
    def numbers(self) -> set[int]:
        """Core dimensions that exact columns show."""
        found = {i for column in self.columns for i, _ in column.terms or ()}
        turned = {(i - self.dim) % len(self.angles) for i in found if self.dim <= i < self.first_oriented}
        # A velocity that only says where a part was a moment ago, by a fraction of itself, does not show.
        whole = {i for k in turned for i, factor in self.angles[k] if abs(factor) == 1}
        whole |= {i for at, k in self.oriented for i in self.orientations[at].takes(k)}
        return {i for i in found if i < self.dim} | whole

    @property
    def first_oriented(self) -> int:
        """The first number of the first orientation."""
        return self.dim + 2 * len(self.angles)

    @property
    def oriented(self) -> set[tuple[int, int]]:
        """Orientations and which of their numbers columns take."""
        every = {i for column in self.columns for i, _ in column.terms or ()}
        return {self.of_orientation(i) for i in every if i >= self.first_oriented}

    def of_orientation(self, i: int) -> tuple[int, int]:
        """The orientation that a number from ``first_oriented`` on is of, and which of its numbers it is."""
        return divmod(i - self.first_oriented, COUNT)

    def hides_heading(self, at: int) -> bool:
        """Whether nothing shows which way the body with the quaternion at ``at`` heads."""
        itself = {i for column in self.columns for i, _ in column.terms or () if i < self.dim}
        own = [k for k, each in enumerate(self.orientations) if each.at == at]
        taken = {number for k, number in self.oriented if k in own}
        return itself.isdisjoint(range(at, at + 4)) and without_heading(taken)


@dataclass(frozen=True)
class Found:
    """How observations show the state.

    Attributes:
        shown: the columns.
        kept: those that follow the physical state in the core: the env remembers them, or they stand for what
            nothing shows.
        fixed: numbers of the core, kept ones included, that never change within an episode.
        needless: numbers that nothing shows and that do not help to foresee what is shown.
        rules: of kept numbers that follow exactly from a step.
        whole: kept numbers that are whole ones.
    """

    shown: Shown
    kept: tuple[int, ...]
    fixed: tuple[int, ...]
    needless: tuple[int, ...] = ()
    rules: tuple[Rule, ...] = ()
    whole: tuple[int, ...] = ()


def all_readouts(dim: int, obs_dim: int) -> Shown:
    """Nothing is known yet: the observation is predicted, column by column."""
    return Shown(dim, (), (Column(),) * obs_dim, (0.0,) * dim)
