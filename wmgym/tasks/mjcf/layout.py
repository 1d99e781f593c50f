"""The core of a robot that its own model describes: its physical state, and what else the env remembers."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np

from wmgym.io.schema import STRICT
from wmgym.tasks.geometry import Geometry
from wmgym.tasks.layout import Core
from wmgym.tasks.mjcf.mirror import Mirror, with_left
from wmgym.tasks.mjcf.orientation import COUNT
from wmgym.tasks.mjcf.robot import Robot
from wmgym.tasks.mjcf.shown import Found, Shown, all_readouts
from wmgym.tasks.mjcf.simulation import PARTS, physical_state, simulation

Env: TypeAlias = gym.Env[Any, Any]

_LATEST = 1.0  # seconds that a time step of MuJoCo may take


@dataclass(frozen=True)
class ModelLayout:
    """All that a world needs to know of a robot's model; plain numbers, stored with it.

    The core is the physical state, then the observation's numbers that it does not explain.

    Attributes:
        sizes: numbers of each of ``simulation.PARTS``.
        names: of the core's dimensions.
        geometry: what these mean.
        joint_limits: ``(dimension, low, high)``.
        kept: observation columns that follow the physical state.
        shown: how the observation shows the core.
    """

    __pydantic_config__ = STRICT

    sizes: tuple[int, ...]
    names: tuple[str, ...]
    geometry: Geometry
    joint_limits: tuple[tuple[int, float, float], ...]
    kept: tuple[int, ...]
    shown: Shown

    def check(self, obs_dim: int, action_dim: int) -> None:
        """Refuse stored numbers that contradict each other."""
        dim, shown = self.geometry.dim, self.shown
        physical = sum(self.sizes)
        turns = [i for chain in shown.angles for i, _ in chain]
        terms = [i for column in shown.columns for i, _ in column.terms or ()]
        places = [*self.geometry.angles, *self.geometry.fixed, *self.geometry.free, *turns]
        places += [at + 3 for at in self.geometry.quaternions] + [i for i, _, _ in self.joint_limits]
        places += [*shown.constant, *self.geometry.whole, *(i for i, _, _ in self.geometry.stops)]
        if len(self.sizes) != len(PARTS) or physical + len(self.kept) != dim or len(self.names) != dim:
            raise ValueError("sizes and names of its layout do not give the core")
        if (shown.dim, len(shown.usual), len(shown.columns)) != (dim, dim, obs_dim):
            raise ValueError("its layout is of another core or observation")
        if not (
            all(0 <= i < dim for i in places)
            and all(0 <= i < shown.first_oriented + COUNT * len(shown.orientations) for i in terms)
            and all(each.fits(physical) and 0 <= each.ago <= _LATEST for each in shown.orientations)
            and all(k in shown.orientations[at].numbers for at, k in shown.oriented)
            and all(0 <= k < obs_dim for k in self.kept)
            and all(n >= 0 for n in self.sizes)
            and self.geometry.contacts.fit(physical)
            and self.geometry.follows(action_dim)
            and 0 <= self.geometry.read_ago <= _LATEST
            and all((c.low is not None and c.high is not None) for c in shown.columns if c.classed)
        ):
            raise ValueError("its layout counts numbers that the core or the observation does not have")
        ranges = [(low, high) for _, low, high in (*self.joint_limits, *self.geometry.stops)]
        ranges += [(c.low, c.high) for c in shown.columns if c.low is not None and c.high is not None]
        if any(low > high for low, high in ranges):
            raise ValueError("a range of its layout begins after its end")

    def columns(self) -> dict[str, list[int]]:
        """Observation columns by how a world knows them.

        "exact" ones are computed from the physical state, what is left to a goal that nothing shows from it
        and a number that stays through the episode, and what an env remembers by a rule, such as the last
        action, from the step. "predicted" ones come from a network that sees the
        state, "remembered" ones are state themselves, since they depend on more than it.
        """
        predicted = [*self.shown.readouts]
        first, follow = sum(self.sizes), {rule.number for rule in self.geometry.rules}
        remembered = sorted(
            k
            for place, k in enumerate(self.kept)
            if len(self.shown.columns[k].terms or ()) == 1 and first + place not in follow
        )
        every = range(len(self.shown.columns))
        exact = [k for k in every if k not in {*predicted, *remembered}]
        return {"exact": exact, "predicted": predicted, "remembered": remembered}

    @functools.cached_property  # every step with a learned reward asks
    def formulas(self) -> tuple[tuple[int, tuple[float, float] | None], ...]:
        """Columns computed from the core, not copied, with the ends of a wrapped one's turn."""
        found = []
        for k, column in enumerate(self.shown.columns):
            if column.terms and (len(column.terms) > 1 or column.terms[0][0] >= self.shown.dim):
                start, turn = column.turn
                found.append((k, (start, start + turn) if column.wrapped else None))
        return tuple(found)

    def read(self, env: Env, obs: np.ndarray) -> np.ndarray:
        """Core of a live env that has just returned the flat ``obs``: ``(dim,)`` float64."""
        found = simulation(env)
        if found is None or len(state := physical_state(found[1])) != sum(self.sizes):
            raise ValueError("the env's MuJoCo model is another one than the world's; collect and fit again")
        return with_left(self.shown, self.kept, state, np.asarray(obs, np.float64).reshape(-1))

    def parts(self, core: np.ndarray) -> dict[str, np.ndarray]:
        """Cores ``(..., dim)`` as arrays ``(..., n)`` of ``mjData`` by name."""
        ends = np.cumsum(self.sizes)
        split = np.split(core[..., : ends[-1]], ends[:-1], -1)
        return dict(zip(PARTS, split, strict=True))


def robot_of(env: Env) -> Robot | None:
    """What the compiled model of a live env says; None where it has none."""
    found = simulation(env)
    if found is None:
        return None
    from wmgym.tasks.mjcf.model import describe  # imports MuJoCo

    return describe(found[0])


def unsettled(robot: Robot, obs_dim: int) -> ModelLayout:
    """The layout as long as nothing is known of the observation."""
    return settled(robot, Found(all_readouts(len(robot.names), obs_dim), (), ()), ())


def geometry(
    robot: Robot,
    shown: Collection[int] = (),
    fixed: tuple[int, ...] = (),
    needless: tuple[int, ...] = (),
    more: int = 0,
) -> Geometry:
    """What the numbers mean, once it is known which of them the observation shows and which never change.

    Args:
        robot: the model's.
        shown: numbers that the observation shows.
        fixed: that do not change within an episode.
        needless: that the network predicts and need not see.
        more: numbers behind the physical state.
    """
    still, shown = set(fixed), set(shown)
    apart = still.union(needless)
    rotations = [at for at in robot.rotations if not apart.issuperset(range(at, at + 4))]
    base = robot.base if robot.base in rotations else None
    # Where the world looks the same everywhere, what a reward may yet depend on is what is shown.
    free = tuple(i for i in robot.nowhere if i not in shown and i not in apart)
    heading = base is not None and not shown.isdisjoint(range(base, base + 4))
    pitch, velocities, positions = None, [], []
    if base is not None:
        velocities.append(robot.base_velocity)
        positions.append(tuple(range(base - 3, base)))
    elif robot.pitch is not None and robot.pitch[0] not in shown:
        pitch, free = robot.pitch, (*free, robot.pitch[0])
        velocities.append(robot.pitch_velocity)
        positions.append(robot.nowhere)
    else:  # nothing turns with a base: all that is said of vectors is that they are some
        velocities += robot.vectors
    free = (*free, *needless)
    return Geometry(
        dim=len(robot.names) + more,
        angles=tuple(i for i in robot.circle if i not in free and i not in still),
        fixed=fixed,
        free=free,
        quaternion=base,
        pitch=pitch,
        positions=tuple(positions),
        velocities=tuple(velocities),
        rotations=tuple(at for at in rotations if at != base or heading),
        stops=tuple((i, low, high) for i, low, high in robot.limits if i not in apart and low < high),
    )


def core_of(layout: ModelLayout) -> Core:
    """The core that a layout describes."""
    mirror = Mirror(layout.shown)
    nq, nv = layout.sizes[:2]

    def to_mujoco(core: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return core[..., :nq], core[..., nq : nq + nv]

    alone = len(layout.names) == nq + nv
    return Core(
        geometry=layout.geometry,
        observe=mirror.observe,
        from_obs=mirror.from_obs,
        from_mujoco=(lambda qpos, qvel: np.concatenate([qpos, qvel], -1)) if alone else None,
        to_mujoco=to_mujoco,
        shown_dim=len(layout.shown.readouts),
        joint_limits=layout.joint_limits,
        names=layout.names,
        units=_units(layout),
        layout=layout,
        hidden=tuple(i for i in mirror.hidden if i not in layout.geometry.free),
    )


def _units(layout: ModelLayout) -> tuple[str, ...]:
    """What a stored layout still tells: quaternions and angles have no length."""
    units = [""] * (layout.geometry.dim + len(layout.shown.readouts))
    for at in layout.geometry.quaternions:
        units[at : at + 4] = ["1"] * 4
    for angle in layout.geometry.angles:
        units[angle] = "rad"
    return tuple(units)


def settled(
    robot: Robot,
    found: Found,
    kept_names: tuple[str, ...],
    model: Any = None,
    core: Any = None,
    late: float = 0.0,
) -> ModelLayout:
    """The layout once recorded data have told how the observation shows the state.

    Args:
        robot: the model's.
        found: what the data tell.
        kept_names: of the numbers that are kept.
        model: the compiled model, which says what can touch what.
        core: physical states ``(n, dim)``, which say what does.
        late: seconds by which the places that the env reads lag behind its joints.
    """
    shown, kept = found.shown, found.kept
    numbers = shown.numbers
    if robot.base is not None and shown.hides_heading(robot.base):
        numbers -= set(range(robot.base, robot.base + 4))  # only its tilt shows
    whole = geometry(robot, numbers, found.fixed, found.needless, len(kept))
    whole = replace(whole, rules=found.rules, whole=found.whole)
    if model is not None:
        from wmgym.tasks.mjcf.contacts import find_contacts  # imports MuJoCo

        base = whole.quaternion if whole.pitch is None else whole.pitch[0]
        contacts = find_contacts(model, core, frozenset(found.needless), base)
        whole = replace(whole, contacts=contacts, read_ago=late)
    return ModelLayout(
        sizes=robot.sizes,
        names=(*robot.names, *kept_names),
        geometry=whole,
        joint_limits=robot.limits,
        kept=kept,
        shown=shown,
    )
