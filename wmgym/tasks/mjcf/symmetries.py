"""Mirror images of a robot, and swaps of its like limbs: guessed from its model, and kept where steps agree.

With all joints at zero, a reflection that maps every moving body to a body of the same kind says which joint
takes the place of which, and which way round. Whether the robot then obeys the same laws, its env decides:
from mirrored states and actions it must step to the mirrored states.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces

from wmgym.tasks import actions
from wmgym.tasks.actions import ActionSpace
from wmgym.tasks.layout import Symmetry
from wmgym.tasks.mjcf.mirrored_steps import Steps
from wmgym.tasks.mjcf.model import BALL, FREE, HINGE
from wmgym.tasks.mjcf.simulation import simulation

_ALIKE = 1e-6  # metres, and shares of masses and gears
_MOST_BODIES = 64

Numbers = list[tuple[int, int]]
"""A ``Placement`` under way."""


def find_symmetries(
    env: gym.Env[Any, Any], space: ActionSpace, states: np.ndarray, fixed: frozenset[int]
) -> tuple[Symmetry, ...]:
    """The symmetries of a live MuJoCo env's robot; none where an action is no command to one actuator.

    Args:
        env: stepped from ``states``, and left wherever that leads.
        space: of its actions.
        states: ``(n, k)`` float64, physical ones that it has been in.
        fixed: numbers of them that never change.
    """
    found = simulation(env)
    if found is None or not isinstance(space, spaces.Box) or actions.width(space) != found[0].nu:
        return ()
    rest = _Rest(found[0], fixed)
    steps: Steps | None = None
    held: list[Symmetry] = []
    for candidate in rest.candidates():
        steps = steps or Steps(env, space, states)
        if steps.agree(candidate, rest.quaternions):
            held.append(candidate)
    return tuple(held)


class _Rest:
    """A model with every joint at zero.

    Attributes:
        quaternions: first numbers, in the physical state, of all.
    """

    def __init__(self, model: Any, fixed: frozenset[int]) -> None:
        self.model, self.fixed, data = model, fixed, mujoco.MjData(model)
        joints = zip(model.jnt_qposadr.tolist(), model.jnt_type.tolist(), strict=True)
        turns = [at + 3 * (kind == FREE) for at, kind in joints if kind in (FREE, BALL)]
        data.qpos[:], data.mocap_pos[:], data.mocap_quat[:] = 0.0, 0.0, (1.0, 0.0, 0.0, 0.0)
        data.qpos[turns] = 1.0
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_tendon(model, data)
        mujoco.mj_transmission(model, data)
        self.data = data
        self.moment = np.zeros((model.nu, model.nv))  # of actuators on joints
        mujoco.mju_sparse2dense(
            self.moment, data.actuator_moment, data.moment_rownnz, data.moment_rowadr, data.moment_colind
        )
        self.first_mocap = int(model.nq + model.nv + model.na)
        self.quaternions = [*turns, *(self._mocap(k)[1] for k in range(model.nmocap))]
        self.parent = {
            b: int(model.body_weldid[model.body_parentid[b]])
            for b in range(1, model.nbody)
            if model.body_jntnum[b] or model.body_mocapid[b] >= 0
        }
        # A goal, say, which nothing moves and nothing meets.
        self.idle = {b for b in self.parent if b not in self.parent.values() and self._idle(b)}
        loose = {b for b in self.parent if model.body_mocapid[b] >= 0 or self._kinds(b) == (FREE,)}
        placed = [data.xipos[b] for b in self.parent if b not in self.idle | loose]
        self.middle = np.mean(placed, 0) if placed else np.zeros(3)
        self.anchored = bool(loose - self.idle)  # what floats is mirrored about the world's origin

    def candidates(self) -> Iterator[Symmetry]:
        """All that the model does not rule out, but for the identity."""
        model, seen = self.model, set[Symmetry]()
        if len(self.parent) > _MOST_BODIES:
            return
        own = tuple((i, 1) for i in range(self.first_mocap + 7 * int(model.nmocap)))
        for signs in itertools.product((1, -1), repeat=3):
            flipped = np.array(signs, float)
            if self.anchored and np.abs(self.middle[flipped < 0]).max(initial=0.0) > _ALIKE:
                continue
            for swapped in (False, True):
                image = self._image(flipped, swapped)
                found = None if image is None else self._placed(flipped, image)
                if found is not None and found.core != own and found not in seen:
                    seen.add(found)
                    yield found

    def _image(self, flipped: np.ndarray, swapped: bool) -> dict[int, int] | None:
        """The body whose place each takes; ``swapped`` prefers another one to itself."""
        image = {0: 0}
        for body, parent in self.parent.items():
            above = image.get(parent, -1)
            like = [
                x for x, its in self.parent.items()
                if its == above and x not in image.values() and self._alike(body, x, flipped)
            ]  # fmt: skip
            if like:
                image[body] = min(like, key=lambda x: (x == body) == swapped)
            elif body not in self.idle:
                return None
        # What is idle and has no image stays as it is.
        return image

    def _alike(self, body: int, other: int, flipped: np.ndarray) -> bool:
        model, place = self.model, self.data.xipos
        mirrored = self.middle + flipped * (place[body] - self.middle)
        mass = model.body_mass[[body, other]]
        return (
            (body in self.idle) == (other in self.idle)
            and (model.body_mocapid[body] >= 0) == (model.body_mocapid[other] >= 0)
            and self._kinds(body) == self._kinds(other)
            and bool(np.abs(mirrored - place[other]).max() <= _ALIKE)
            and bool(abs(mass[0] - mass[1]) <= _ALIKE * mass.max())
        )

    def _placed(self, flipped: np.ndarray, image: dict[int, int]) -> Symmetry | None:
        """What takes the place of what; None where that is no permutation with signs."""
        model = self.model
        nq, nv = int(model.nq), int(model.nv)
        core: Numbers = [(i, 1) for i in range(self.first_mocap + 7 * int(model.nmocap))]
        for body, other in image.items():
            if body and model.body_mocapid[body] >= 0:
                (place, turn), (there, turned) = (
                    self._mocap(int(model.body_mocapid[b])) for b in (body, other)
                )
                _vector(core, place, there, flipped)
                _vector(core, turn + 1, turned + 1, flipped.prod() * flipped)
                core[turned] = (turn, 1)
            firsts = model.body_jntadr[[body, other]]
            for k in range(int(model.body_jntnum[body])):
                if not self._joint(core, int(firsts[0]) + k, int(firsts[1]) + k, flipped):
                    return None
        action = self._actuators(core[nq : nq + nv], nq)
        if action is None:
            return None
        for i, (source, sign) in enumerate(action):
            if model.actuator_actnum[i] != model.actuator_actnum[source]:
                return None
            for k in range(int(model.actuator_actnum[i])):
                at = [nq + nv + int(model.actuator_actadr[x]) + k for x in (i, source)]
                core[at[0]] = (at[1], sign)
        return Symmetry(core=tuple(core), action=tuple(action), displacement=())

    def _joint(self, core: Numbers, one: int, other: int, flipped: np.ndarray) -> bool:
        """Put one joint's numbers where the other one's are."""
        model, data, kind = self.model, self.data, int(self.model.jnt_type[one])
        (at, there), nq = model.jnt_qposadr[[one, other]].tolist(), int(model.nq)
        dof, its = (nq + int(model.jnt_dofadr[j]) for j in (one, other))
        if kind in (FREE, BALL):
            bodies = model.jnt_bodyid[[one, other]]
            frame, image = (data.xmat[b].reshape(3, 3) for b in bodies)
            inner = frame.T @ np.diag(flipped) @ image  # how the mirrored body is mirrored in its own frame
            signs = np.round(inner.diagonal())
            if np.abs(inner - np.diag(signs)).max() > _ALIKE:
                return False
            axial = signs.prod() * signs
            if kind == FREE:
                _vector(core, at, there, flipped)
                _vector(core, dof, its, flipped)
                at, there, dof, its = at + 3, there + 3, dof + 3, its + 3
            core[there] = (at, 1)
            _vector(core, at + 1, there + 1, axial)
            _vector(core, dof, its, axial)
            return True
        axis = flipped * data.xaxis[one] * (flipped.prod() if kind == HINGE else 1.0)
        sign = round(float(axis @ data.xaxis[other]))
        if np.abs(axis - sign * data.xaxis[other]).max() > _ALIKE:
            return False
        (limited, its_limited), ends = model.jnt_limited[[one, other]], np.sort(sign * model.jnt_range[one])
        if limited != its_limited or (limited and np.abs(model.jnt_range[other] - ends).max() > _ALIKE):
            return False
        core[there], core[its] = (at, sign), (dof, sign)
        return True

    def _actuators(self, velocity: Numbers, nq: int) -> Numbers | None:
        """The actuator, and its sign, whose pull each one's is the mirror image of."""
        model, found = self.model, Numbers()
        source, sign = np.array(velocity, np.int64).reshape(-1, 2).T
        mirrored = self.moment[:, source - nq] * sign
        constants = [model.actuator_gainprm, model.actuator_biasprm, model.actuator_dynprm]
        left = set(range(int(model.nu)))
        for i, pull in enumerate(self.moment):
            size = _ALIKE * max(1.0, float(np.abs(pull).max(initial=0.0)))
            for k, way in itertools.product(sorted(left), (1, -1)):
                same = all(np.allclose(each[i], each[k], rtol=_ALIKE) for each in constants)
                if same and pull.any() and np.abs(pull - way * mirrored[k]).max() <= size:
                    found.append((k, way))
                    left.remove(k)
                    break
            else:
                return None
        return found

    def _kinds(self, body: int) -> tuple[int, ...]:
        first, count = int(self.model.body_jntadr[body]), int(self.model.body_jntnum[body])
        return tuple(int(kind) for kind in self.model.jnt_type[first : first + count])

    def _idle(self, body: int) -> bool:
        model = self.model
        shapes = [g for g in range(model.ngeom) if int(model.body_weldid[model.geom_bodyid[g]]) == body]
        if any(model.geom_contype[g] or model.geom_conaffinity[g] for g in shapes):
            return False
        first, count = int(model.body_jntadr[body]), int(model.body_jntnum[body])
        return {int(at) for at in model.jnt_qposadr[first : first + count]} <= self.fixed

    def _mocap(self, index: int) -> tuple[int, int]:
        """First numbers of a mocap body's place and of its quaternion."""
        return self.first_mocap + 3 * index, self.first_mocap + 3 * int(self.model.nmocap) + 4 * index


def _vector(core: Numbers, at: int, there: int, signs: np.ndarray) -> None:
    core[there : there + 3] = [(at + k, round(float(sign))) for k, sign in enumerate(signs)]
