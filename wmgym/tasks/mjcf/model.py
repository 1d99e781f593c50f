"""What a compiled MuJoCo model says of its state: names, angles, rotations, limits, what does not matter."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from wmgym.tasks.mjcf.robot import Chain, Robot
from wmgym.tasks.mjcf.simulation import PARTS, sizes

FREE, BALL, SLIDE, HINGE = (
    int(mujoco.mjtJoint.mjJNT_FREE),
    int(mujoco.mjtJoint.mjJNT_BALL),
    int(mujoco.mjtJoint.mjJNT_SLIDE),
    int(mujoco.mjtJoint.mjJNT_HINGE),
)
PHYSICAL = sum(int(getattr(mujoco.mjtState, f"mjSTATE_{part.upper()}")) for part in PARTS)
"""Of MuJoCo's state, what ``simulation.physical_state`` reads, in its order."""


def describe(model: Any) -> Robot:
    """Read a compiled model."""
    joints = [_Joint(model, j) for j in range(model.njnt)]
    position, velocity = _joint_names(model, joints)
    hinges = [joint.at for joint in joints if joint.kind == HINGE]
    counted = _counted(model)
    limits = [
        (joint.at, float(low), float(high))
        for joint in joints
        for low, high in [model.jnt_range[joint.index]]
        if joint.kind in (SLIDE, HINGE) and model.jnt_limited[joint.index]
    ]
    first_mocap = int(model.nq + model.nv + model.na)
    first_turn = first_mocap + 3 * int(model.nmocap)
    rotations = [joint.at + 3 * (joint.kind == FREE) for joint in joints if joint.kind in (FREE, BALL)]
    rotations += [first_turn + 4 * k for k in range(model.nmocap)]
    root = _root(model, joints)
    return Robot(
        sizes=sizes(model),
        names=(*position, *velocity, *_other_names(model)),
        hinges=tuple(hinges),
        circle=tuple(joint.at for joint in joints if joint.kind == HINGE and joint.index not in counted),
        limits=tuple(limits),
        rotations=tuple(rotations),
        vectors=_vectors(joints),
        **root,
        sums=_sums(model, joints),
        headings=_headings(model, joints),
    )


class _Joint:
    def __init__(self, model: Any, index: int) -> None:
        self.index, self.kind = index, int(model.jnt_type[index])
        self.at, self.dof = int(model.jnt_qposadr[index]), int(model.nq + model.jnt_dofadr[index])
        self.body = int(model.jnt_bodyid[index])
        self.name = model.joint(index).name or f"joint{index}"


def _vectors(joints: list[_Joint]) -> tuple[tuple[int, ...], ...]:
    found: list[tuple[int, ...]] = []
    for joint in joints:
        if joint.kind == FREE:
            found += [tuple(range(first, first + 3)) for first in (joint.at, joint.dof, joint.dof + 3)]
        elif joint.kind == BALL:
            found.append(tuple(range(joint.dof, joint.dof + 3)))
    return tuple(found)


def _joint_names(model: Any, joints: list[_Joint]) -> tuple[list[str], list[str]]:
    """Of ``qpos`` and of ``qvel``."""
    places = {FREE: ["_x", "_y", "_z"]}
    turns = [f"_quat_{axis}" for axis in "wxyz"]
    rates = [f"_{axis}_angular" for axis in "xyz"]
    position, velocity = [], []
    for joint in joints:
        single = joint.kind in (SLIDE, HINGE)
        place = places.get(joint.kind, [])
        position += [joint.name + part for part in ([""] if single else [*place, *turns])]
        velocity += [joint.name + part + "_velocity" for part in ([""] if single else [*place, *rates])]
    return position, velocity


def _other_names(model: Any) -> list[str]:
    """Of activations and of mocap bodies."""
    active = [i for i in range(model.nu) for _ in range(max(0, int(model.actuator_actnum[i])))]
    names = [f"{model.actuator(i).name or f'actuator{i}'}_activation" for i in active]
    moved = sorted(
        (int(model.body_mocapid[i]), model.body(i).name or f"body{i}")
        for i in range(model.nbody)
        if model.body_mocapid[i] >= 0
    )
    names += [f"{name}_{axis}" for _, name in moved for axis in "xyz"]
    return names + [f"{name}_quat_{axis}" for _, name in moved for axis in "wxyz"]


def _counted(model: Any) -> set[int]:
    """Hinges whose full turns count: limited, sprung, held by a position servo, a tendon or an equality."""
    found = {j for j in range(model.njnt) if model.jnt_limited[j] or model.jnt_stiffness[j].any()}
    on_joint = (int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT))
    for i in range(model.nu):
        if int(model.actuator_trntype[i]) in on_joint and model.actuator_biasprm[i, 1]:
            found.add(int(model.actuator_trnid[i, 0]))
    wraps = model.wrap_type == int(mujoco.mjtWrap.mjWRAP_JOINT)
    found |= {int(j) for j in model.wrap_objid[wraps]}
    for kind, *pair in zip(model.eq_type, model.eq_obj1id, model.eq_obj2id, strict=True):
        if int(kind) == int(mujoco.mjtEq.mjEQ_JOINT):
            found |= {int(j) for j in pair if j >= 0}
    return found


def _root(model: Any, joints: list[_Joint]) -> dict[str, Any]:
    """The floating base of the only robot in an otherwise empty world, and what does not matter about it."""
    root: dict[str, Any] = {
        "base": None, "base_velocity": (), "pitch": None, "pitch_velocity": (), "nowhere": (),
    }  # fmt: skip
    if not joints or not _alone(model, joints):
        return root
    normals = _planes(model)
    own = [joint for joint in joints if joint.body == joints[0].body]

    def level(direction: np.ndarray) -> bool:
        """Whether neither gravity nor a floor tells places along it apart."""
        facing = [direction @ normal for normal in (*normals, model.opt.gravity)]
        return bool(np.abs(facing).max(initial=0.0) < 1e-9)

    first = own[0]
    if first.kind == FREE:
        up = np.abs(model.opt.gravity[:2]).max() < 1e-9 and all(
            abs(normal[2]) > 1 - 1e-9 for normal in normals
        )
        axes = [k for k, axis in enumerate(np.eye(3)) if level(axis)]
        root["nowhere"] = tuple(first.at + k for k in axes)
        if up:
            root |= {"base": first.at + 3, "base_velocity": tuple(first.dof + k for k in range(3))}
        return root
    sliding: list[tuple[_Joint, np.ndarray]] = []
    for joint in own:
        if joint.kind != SLIDE:
            break
        sliding.append((joint, turned(model.body_quat[joint.body], model.jnt_axis[joint.index])))
    bound = _bound(model)
    loose = [(joint, axis) for joint, axis in sliding if level(axis) and joint.index not in bound]
    root["nowhere"] = tuple(joint.at for joint, _ in loose)
    turning = own[len(sliding)] if len(own) > len(sliding) else None
    if len(loose) == len(sliding) == 2 and turning is not None and turning.kind == HINGE:
        axis = turned(model.body_quat[turning.body], model.jnt_axis[turning.index])
        sense = np.cross(loose[0][1], loose[1][1]) @ axis
        if abs(abs(sense) - 1) < 1e-9 and turning.index not in bound | _counted(model):
            root |= {
                "pitch": (turning.at, round(float(sense))),
                "pitch_velocity": tuple(joint.dof for joint, _ in loose),
            }
    return root


def _alone(model: Any, joints: list[_Joint]) -> bool:
    """Whether all that moves hangs on one body, and nothing stands about that it could meet but floors."""
    base = int(model.body_rootid[joints[0].body])
    if joints[0].body != base or any(int(model.body_rootid[joint.body]) != base for joint in joints):
        return False
    anchored = [
        kind
        for kind in model.eq_type
        if int(kind) not in (int(mujoco.mjtEq.mjEQ_JOINT), int(mujoco.mjtEq.mjEQ_TENDON))
    ]
    sited = any(int(kind) == int(mujoco.mjtTrn.mjTRN_SITE) for kind in model.actuator_trntype)
    if model.nmocap or anchored or sited or np.abs(model.opt.wind).any():
        return False
    still = [g for g in range(model.ngeom) if int(model.body_rootid[model.geom_bodyid[g]]) != base]
    solid = [g for g in still if model.geom_contype[g] or model.geom_conaffinity[g]]
    return all(int(model.geom_type[g]) == int(mujoco.mjtGeom.mjGEOM_PLANE) for g in solid)


def _planes(model: Any) -> list[np.ndarray]:
    """Normals of floors and walls that things can touch; they stand still."""
    found = []
    for g in range(model.ngeom):
        touched = model.geom_contype[g] or model.geom_conaffinity[g]
        if int(model.geom_type[g]) == int(mujoco.mjtGeom.mjGEOM_PLANE) and touched:
            found.append(turned(model.geom_quat[g], np.array([0.0, 0.0, 1.0])))
    return found


def _bound(model: Any) -> set[int]:
    """Joints whose place matters to a spring, a limit, an actuator, a tendon or an equality."""
    driven = {
        int(model.actuator_trnid[i, 0])
        for i in range(model.nu)
        if int(model.actuator_trntype[i]) == int(mujoco.mjtTrn.mjTRN_JOINT) and model.actuator_biasprm[i, 1]
    }
    return _counted(model) | driven


def _headings(model: Any, joints: list[_Joint]) -> tuple[tuple[int, int, int, tuple[int, int]], ...]:
    """Bodies on two slides at right angles and a hinge about the axis that is across both."""
    found = []
    for body in dict.fromkeys(joint.body for joint in joints):
        own = [joint for joint in joints if joint.body == body]
        slides = [joint for joint in own if joint.kind == SLIDE]
        for hinge in (joint for joint in own if joint.kind == HINGE):
            across = [j for j in slides if abs(model.jnt_axis[j.index] @ model.jnt_axis[hinge.index]) < 1e-9]
            before = own.index(hinge) > max((own.index(joint) for joint in across), default=0)
            if len(across) == 2 and before:
                first, second = (model.jnt_axis[joint.index] for joint in across)
                sense = float(np.cross(first, second) @ model.jnt_axis[hinge.index])
                if abs(abs(sense) - 1) < 1e-9:
                    turn = across[0].dof, across[1].dof
                    found.append((hinge.at, hinge.dof, round(sense), turn))
    return tuple(found)


def _sums(model: Any, joints: list[_Joint]) -> tuple[Chain, ...]:
    """Every hinge, and of every body those above it, as far up as they turn about one axis; each sum once."""
    on_body: dict[int, list[_Joint]] = {}
    for joint in joints:
        on_body.setdefault(joint.body, []).append(joint)
    found: dict[Chain, None] = {}
    for body in range(1, model.nbody):
        chain: list[tuple[int, float]] = []
        axis: np.ndarray | None = None
        turn, at = np.array([1.0, 0.0, 0.0, 0.0]), body
        while at:
            own = [joint for joint in on_body.get(at, ()) if joint.kind != SLIDE]
            for joint in reversed(own):
                if joint.kind != HINGE:
                    at = 0
                    break
                # In the frame of the body where the chain ends, all hinges at rest.
                here = turned(_conjugate(turn), model.jnt_axis[joint.index])
                axis = here if axis is None else axis
                sign = float(here @ axis)
                if abs(abs(sign) - 1) > 1e-9:
                    at = 0
                    break
                chain.append((joint.at, round(sign) * 1.0))
            if not at:
                break
            turn = product(model.body_quat[at], turn)
            at = int(model.body_parentid[at])
        for length in range(1, len(chain) + 1):
            upper = tuple(sorted(chain[:length]))
            found.setdefault(tuple((i, sign * upper[0][1]) for i, sign in upper))
    for joint in joints:
        if joint.kind == HINGE:
            found.setdefault(((joint.at, 1.0),))
    return tuple(found)


def put(model: Any, data: Any, state: np.ndarray) -> None:
    """Bodies where a physical state has them, and what then touches what; no forces."""
    mujoco.mj_setState(model, data, state, PHYSICAL)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_collision(model, data)


def turned(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """A vector turned by a unit quaternion."""
    found = np.zeros(3)
    mujoco.mju_rotVecQuat(found, vector, quaternion)
    return found


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of two quaternions."""
    found = np.zeros(4)
    mujoco.mju_mulQuat(found, a, b)
    return found


def _conjugate(quaternion: np.ndarray) -> np.ndarray:
    return np.asarray(quaternion * np.array([1.0, -1.0, -1.0, -1.0]))
