"""What the numbers of a core mean in space, and in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wmgym.tasks.contacts import NO_CONTACTS, Contacts


@dataclass(frozen=True)
class Link:
    """A rigid part of a leg that moves in a plane; a hinge about y turns it against the part above.

    Attributes:
        angle: core dimension of the hinge's angle, radians.
        velocity: core dimension of its angular velocity.
        sign: 1 or -1, the sense in which it turns.
        along: metres forward from this hinge to the next one, or to the foot, where the angles add up to 0.
        up: likewise upward.
    """

    angle: int
    velocity: int
    sign: int
    along: float
    up: float


@dataclass(frozen=True)
class Foot:
    """A sphere that touches the ground, at the end of a chain of links.

    Attributes:
        radius: metres.
        links: from the root to the foot.
    """

    radius: float
    links: tuple[Link, ...]


@dataclass(frozen=True)
class Rule:
    """A number of the core that follows exactly from a step: ``offset`` and a sum of factors times sources.

    It may be clipped. So do the last action, an observation of some steps ago, a count of steps, the phase of
    a gait.

    Attributes:
        number: core dimension.
        terms: ``(source, factor)``; of a core of ``dim`` numbers, sources below ``dim`` are those before the
            step, then come those after it, then the action as networks see it.
        offset: added.
        low: smallest value, where the number is clipped.
        high: likewise the largest.
    """

    number: int
    terms: tuple[tuple[int, float], ...]
    offset: float = 0.0
    low: float | None = None
    high: float | None = None

    def of(self, core: np.ndarray, next_core: np.ndarray, action: np.ndarray) -> np.ndarray:
        """What it makes of steps: of cores ``(n, dim)``, the next ones, and actions as networks see them."""
        said, dim = np.full(len(core), self.offset), core.shape[1]
        for i, factor in self.terms:
            kind = min(i // dim, 2)
            said += factor * (core, next_core, action)[kind][:, i - kind * dim]
        return said if (self.low, self.high) == (None, None) else np.clip(said, self.low, self.high)


@dataclass(frozen=True)
class Geometry:
    """What the numbers of a core mean in space; indices count core dimensions.

    Attributes:
        dim: number of core dimensions.
        displacement_dim: root displacements predicted beside the core.
        angles: in radians, on the circle.
        fixed: do not change within an episode.
        wrapped: ``(dimension, low, high)`` of what is wrapped into an interval, as an angle that jumps from
            pi to -pi is; differences take the shorter way round. In any unit, unlike ``angles``.
        whole: whole numbers, as flags and counters are.
        copies: ``(dimension, source)`` of what always equals another dimension.
        rules: what follows exactly from a step, and is not predicted.
        free: the dynamics do not depend on them: where the root is on a plane, and which way it points.
        quaternion: first of the four numbers (w, x, y, z) that give a floating base its orientation.
        pitch: angle by which a planar robot's frame is turned, and the sense of it: 1 turns the first axis of
            a pair towards the second.
        positions: pairs or triples that form vectors in world axes; counted on from ``dim``, displacements.
        velocities: likewise; these are also seen in the body's frame.
        root: of a planar robot on legs its height, forward and upward velocity, in world axes.
        feet: its points that touch the ground.
        foot_scales: how finely the network sees their heights and velocities, in multiples of the finest.
        rotations: first of four numbers each, quaternions of which all is seen: ball joints, loose bodies,
            and the floating base where its heading matters.
        stops: ``(dimension, low, high)`` of joints with limits, of which the network sees how near they are.
        contacts: what can touch, of which the network sees how near it is and how it moves there.
        read_ago: seconds by which what an env reads of its simulation, as readouts do, lags behind its state.
    """

    dim: int
    displacement_dim: int = 0
    angles: tuple[int, ...] = ()
    fixed: tuple[int, ...] = ()
    free: tuple[int, ...] = ()
    quaternion: int | None = None
    pitch: tuple[int, int] | None = None
    positions: tuple[tuple[int, ...], ...] = ()
    velocities: tuple[tuple[int, ...], ...] = ()
    root: tuple[int, int, int] | None = None
    feet: tuple[Foot, ...] = ()
    foot_scales: tuple[float, ...] = (1.0,)
    wrapped: tuple[tuple[int, float, float], ...] = ()
    whole: tuple[int, ...] = ()
    copies: tuple[tuple[int, int], ...] = ()
    rotations: tuple[int, ...] = ()
    stops: tuple[tuple[int, float, float], ...] = ()
    contacts: Contacts = NO_CONTACTS
    read_ago: float = 0.0
    rules: tuple[Rule, ...] = ()

    @property
    def quaternions(self) -> tuple[int, ...]:
        """First numbers of all quaternions, the floating base's first."""
        base = () if self.quaternion is None else (self.quaternion,)
        return (*base, *(at for at in self.rotations if at not in base))

    @property
    def vectors(self) -> tuple[tuple[int, ...], ...]:
        """Core dimensions that are components of one quantity of a loose body, and share its unit."""
        if not self.rotations:
            return ()
        turns = tuple(tuple(range(at, at + 4)) for at in self.quaternions)
        return (*turns, *(each for each in (*self.positions, *self.velocities) if max(each) < self.dim))

    @property
    def of_single_numbers(self) -> bool:
        """Whether it says nothing of space, only what single numbers are like, as data can tell it."""
        plain = Geometry(self.dim, angles=self.angles, fixed=self.fixed)
        plain = replace(plain, wrapped=self.wrapped, whole=self.whole, copies=self.copies)
        return self == replace(plain, rules=self.rules)

    def follows(self, action_dim: int) -> bool:
        """Whether its rules are of numbers, and take sources, that there are."""
        sources = [i for rule in self.rules for i, _ in rule.terms]
        numbers = [rule.number for rule in self.rules]
        after = {i - self.dim for i in sources if self.dim <= i < 2 * self.dim}
        return (
            all(0 <= i < self.dim for i in numbers)
            and all(0 <= i < 2 * self.dim + action_dim for i in sources)
            and after.isdisjoint(numbers)
            and len(set(numbers)) == len(numbers)
            and all(r.low <= r.high for r in self.rules if r.low is not None and r.high is not None)
        )

    def told_by_actions(self, bounds: Sequence[tuple[float, float]]) -> dict[int, tuple[float, float]]:
        """Numbers that actions alone decide by rules, and between what, for actions within ``bounds``.

        So are the last ones, however many steps ago.
        """
        first, found, before = 2 * self.dim, dict[int, tuple[float, float]](), -1
        while len(found) > before:
            before = len(found)
            known = {place: found[i] for i in found for place in (i, i + self.dim)}
            known |= {first + k: ends for k, ends in enumerate(bounds)}
            for rule in self.rules:
                if rule.number not in found and all(i in known for i, _ in rule.terms):
                    ends = [[factor * end for end in known[i]] for i, factor in rule.terms]
                    low, high = (rule.offset + sum(side(each) for each in ends) for side in (min, max))
                    low = low if rule.low is None else max(low, rule.low)
                    found[rule.number] = low, high if rule.high is None else min(high, rule.high)
        return found

    def coarser(self) -> Geometry:
        """As networks saw robots before they saw contacts, and walkers' stops, and feet on two scales."""
        whole = replace(self, stops=(), foot_scales=(1.0,)) if self.feet else self
        return replace(whole, contacts=NO_CONTACTS) if whole.contacts.pairs else whole

    def in_world(self) -> Geometry:
        """As readouts see it, which are given in world axes: the heading counts, the place does not."""
        return Geometry(
            self.dim,
            angles=self.angles,
            free=self.free,
            rotations=self.rotations,
            contacts=replace(self.contacts, ago=self.read_ago),
        )
