"""How a task's simulator state, observation, reward and termination relate.

Every function here works on NumPy arrays and on torch tensors alike, batched over leading axes, so that one
formula serves the imagined env (torch, differentiable) and the check against the real one (NumPy, float64).

The *state* of a task is its core, which the dynamics step, followed by the readouts that the observation
shows beside it (contact forces, the tip of an arm), which are predicted from the core and never fed back.
*Unobserved* quantities are reward inputs absent from the observation: first the displacement of the root over
a step, then readouts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import gymnasium as gym
import numpy as np

from wmgym.io.arguments import whole_number
from wmgym.io.deprecation import renamed
from wmgym.tasks.contacts import NO_CONTACTS, Contacts

Array: TypeAlias = Any
"""A NumPy array or a torch tensor; functions return the kind they were given."""

Env: TypeAlias = gym.Env[Any, Any]
Placement: TypeAlias = tuple[tuple[int, int], ...]
"""For each number the one whose place it takes, and its sign there."""


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

    So do the last action, an observation of some steps ago, a count of steps, the phase of a gait.

    Attributes:
        number: core dimension.
        terms: ``(source, factor)``; of a core of ``dim`` numbers, sources below ``dim`` are those before the
            step, then come those after it, then the action as networks see it.
        offset: added.
    """

    number: int
    terms: tuple[tuple[int, float], ...]
    offset: float = 0.0


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
        )

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


@dataclass(frozen=True)
class Symmetry:
    """A mirror image, or a rotation, of a robot that obeys the same laws of motion.

    Attributes:
        core: places of core dimensions.
        action: places of actions.
        displacement: places of displacements.
        turn: radians by which a floating base is then turned about its own z axis.
    """

    core: Placement
    action: Placement
    displacement: Placement
    turn: float = 0.0


class Layout(Protocol):
    """How the core of a robot that its own model describes lies in MuJoCo; ``mjcf.layout.ModelLayout``."""

    def read(self, env: Env, obs: np.ndarray) -> np.ndarray:
        """Core of a live env that has just returned the flat ``obs``."""
        ...

    def parts(self, core: np.ndarray) -> dict[str, np.ndarray]:
        """Cores as arrays of ``mjData`` by name."""
        ...

    def columns(self) -> dict[str, list[int]]:
        """Observation columns that are exact functions of the core, predicted or remembered."""
        ...


def _same(array: Array) -> Array:
    return array


@renamed(hidden_dim="unobserved_dim", read_hidden="read_unobserved", stops="joint_limits")
@dataclass(frozen=True)
class Core:
    """The part of the simulator state that the dynamics step, and its relation to the observation.

    Attributes:
        geometry: what its numbers mean in space.
        observe: state ``(..., state_dim)`` to the flat observation ``(..., obs_dim)``; by default the same.
        from_obs: flat observation to state; exact unless the env clips or omits what is asked for.
        from_mujoco: ``qpos`` and ``qvel`` ``(..., nq)``, ``(..., nv)`` to core, unclipped; None reads the
            observation through ``from_obs``.
        to_mujoco: core ``(..., dim)`` to ``qpos`` and ``qvel``, what it omits at 0; None where unknown.
        shown_dim: readouts in the observation.
        unobserved_dim: unobserved quantities, the displacement first.
        read_unobserved: live env to ``(unobserved_dim,)`` float64: world positions, whose change over a step
            is the displacement, then readouts.
        symmetries: all of the robot's but the identity.
        joint_limits: ``(core dimension, low, high)`` of joints with limits; an imagined joint far past its
            limits is put back.
        units: of the state's dimensions, "" where unknown; empty where all are.
        names: of the core's dimensions, as MuJoCo names the joints; ``obs_0``, ``obs_1``, ... by default.
        layout: of a robot that its own MuJoCo model describes; else None.
        hidden: core dimensions that the observation does not show and that matter.
    """

    geometry: Geometry
    observe: Callable[[Array], Array] = _same
    from_obs: Callable[[Array], Array] = _same
    from_mujoco: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    to_mujoco: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None
    shown_dim: int = 0
    unobserved_dim: int = 0
    read_unobserved: Callable[[Env], np.ndarray] | None = None
    symmetries: tuple[Symmetry, ...] = ()
    joint_limits: tuple[tuple[int, float, float], ...] = ()
    names: tuple[str, ...] = ()
    layout: Layout | None = None
    hidden: tuple[int, ...] = ()
    units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Fill in names where none are given, and refuse another number of them."""
        if not self.names:
            object.__setattr__(self, "names", tuple(f"obs_{i}" for i in range(self.dim)))
        if len(self.names) != self.dim:
            raise ValueError(f"core has {self.dim} dimensions and {len(self.names)} names; name each")
        assert len(self.units) in (0, self.state_dim)

    @property
    def dim(self) -> int:
        """Number of core dimensions."""
        return self.geometry.dim

    @property
    def displacement_dim(self) -> int:
        """Root displacements in world axes, metres, that the reward needs and the observation omits."""
        return self.geometry.displacement_dim

    @property
    def state_dim(self) -> int:
        """Core and shown readouts."""
        return self.dim + self.shown_dim

    @property
    def readout_dim(self) -> int:
        """What is predicted from the next core: unobserved readouts, then shown ones."""
        return self.unobserved_dim - self.displacement_dim + self.shown_dim


def shown_alone(core: Core) -> Core | None:
    """The core of data that hold observations and no unobserved quantities.

    None where the readouts, which a reward of its own would take, are among these.
    """
    if core.unobserved_dim > core.displacement_dim:
        return None
    dim = core.geometry.dim
    vectors = tuple(vector for vector in core.geometry.positions if max(vector) < dim)
    return replace(
        core,
        geometry=replace(core.geometry, displacement_dim=0, positions=vectors),
        unobserved_dim=0,
        read_unobserved=None,
        symmetries=tuple(replace(each, displacement=()) for each in core.symmetries),
    )


def with_velocities(joints: Sequence[str], moving: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names of a core ``[positions, velocities]``; ``moving`` where not every position has a velocity."""
    return (*joints, *(f"{name}_velocity" for name in (joints if moving is None else moving)))


def identity_core(dim: int, angles: tuple[int, ...] = ()) -> Core:
    """The core of an env whose whole observation is its state."""
    angles = tuple(whole_number(f"angles[{k}]", i, least=0) for k, i in enumerate(angles))
    if any(i >= dim for i in angles):
        raise ValueError(f"angles= must lie in 0 .. {dim - 1}, got {angles}")
    return Core(Geometry(dim, angles=angles))


def _either(name: str) -> Callable[..., Array]:
    """A function of the library that the array is of."""

    def call(array: Array, *others: Array) -> Array:
        own = getattr(array, name, None)  # torch tensors have it as a method
        return own(*others) if own is not None else getattr(np, name)(array, *others)

    return call


sin, cos, arctan2 = _either("sin"), _either("cos"), _either("arctan2")
"""NumPy's and torch's own, whichever the array is of."""
