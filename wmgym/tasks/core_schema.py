"""What is stored of a core beside its layout: what its numbers are like, and its symmetries."""

from __future__ import annotations

from typing import Literal

from wmgym.io.schema import Count, Record
from wmgym.tasks.geometry import Geometry, Rule
from wmgym.tasks.layout import Symmetry


class RuleRecord(Record):
    """A ``Rule``."""

    number: Count
    terms: tuple[tuple[Count, float], ...]
    offset: float
    low: float | None = None
    high: float | None = None


class TraitsRecord(Record):
    """What is known of the numbers of an observation that is the state; see ``Geometry``."""

    angles: tuple[Count, ...] = ()
    fixed: tuple[Count, ...] = ()
    wrapped: tuple[tuple[Count, float, float], ...] = ()
    whole: tuple[Count, ...] = ()
    copies: tuple[tuple[Count, Count], ...] = ()
    rules: tuple[RuleRecord, ...] = ()

    def of(self, dim: int, action_dim: int) -> Geometry:
        """A geometry of ``dim`` numbers with these traits, of a task with actions of so many."""
        named = [*self.angles, *self.fixed, *self.whole, *(i for pair in self.copies for i in pair)]
        if any(i >= dim for i in (*named, *(each[0] for each in self.wrapped))):
            raise ValueError("a trait is of a number that the observation does not have")
        if any(not low < high for _, low, high in self.wrapped):
            raise ValueError("an interval's low end must be below its high end")
        found = Geometry(
            dim,
            angles=self.angles,
            fixed=self.fixed,
            wrapped=self.wrapped,
            whole=self.whole,
            copies=self.copies,
            rules=tuple(Rule(**dict(rule)) for rule in self.rules),
        )
        if not found.follows(action_dim):
            raise ValueError("a rule is of a number that the observation or the action does not have")
        return found


class SymmetryRecord(Record):
    """A ``Symmetry`` of a robot without displacements and without turns."""

    core: tuple[tuple[Count, Literal[1, -1]], ...]
    action: tuple[tuple[Count, Literal[1, -1]], ...]

    def of(self, dim: int, action_dim: int) -> Symmetry:
        """Of a core and actions of so many numbers."""
        for places, size in ((self.core, dim), (self.action, action_dim)):
            if sorted(source for source, _ in places) != list(range(size)):
                raise ValueError("a symmetry must give each number a place of its own")
        return Symmetry(self.core, self.action, displacement=())
