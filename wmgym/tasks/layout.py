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
from wmgym.tasks.geometry import Geometry

Array: TypeAlias = Any
"""A NumPy array or a torch tensor; functions return the kind they were given."""

Env: TypeAlias = gym.Env[Any, Any]
Placement: TypeAlias = tuple[tuple[int, int], ...]
"""For each number the one whose place it takes, and its sign there."""


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

    @property
    def formulas(self) -> tuple[tuple[int, tuple[float, float] | None], ...]:
        """Observation columns computed from the core, not copied, with the ends of a wrapped one's turn."""
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
