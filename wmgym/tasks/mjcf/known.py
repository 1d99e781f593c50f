"""The core of a robot whose reward is known in code, as far as its model tells."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

from wmgym.tasks.layout import Core, Foot, Geometry, Link
from wmgym.tasks.mjcf.model import Robot, describe
from wmgym.tasks.mjcf.shown import Column, Mirror, Shown

_DIGITS = 6  # of metres and radians: model files hold what programs wrote, such as 0.19999999999999996


def joint_core(
    xml: str,
    *,
    omitted: int = 0,
    still: int = 0,
    apart: int = 0,
    moves: int = 0,
    feet: Sequence[str] = (),
    limits: bool = False,
    geometry: dict[str, Any] | None = None,
    **fields: Any,
) -> Core:
    """The core ``[qpos, qvel]`` of a model that Gymnasium ships.

    Args:
        xml: the model's file among Gymnasium's assets.
        omitted: numbers of ``qpos`` that are not in the core, the first ones.
        still: slides at the end that stand still: their places are in the core, their velocities are not.
        apart: slides at the end of which neither is.
        moves: displacements of the root that the reward takes.
        feet: geoms of a walking robot's feet, capsules that touch the ground with both ends.
        limits: whether imagined hinges are held to their limits.
        geometry: fields that the model does not decide.
        fields: others of ``Core``.
    """
    robot, model = _of(xml)
    nq, nv = robot.sizes[:2]
    numbers = [*range(omitted, nq - apart), *range(nq, nq + nv - apart - still)]
    place = {number: k for k, number in enumerate(numbers)}
    kept, speeds = nq - apart - omitted, apart + still

    def from_mujoco(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        return np.concatenate([qpos[..., omitted : nq - apart], qvel[..., : nv - speeds]], -1)

    def to_mujoco(core: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _padded(core[..., :kept], omitted, apart), _padded(core[..., kept:], 0, speeds)

    fixed = tuple(range(kept - still, kept))
    whole = replace(_geometry(robot, place, moves, fixed), **(geometry or {}))
    if feet:
        whole = replace(whole, root=_root(robot, place), feet=tuple(_feet(robot, model, place, feet)))
    hinges = [each for each in robot.limits if each[0] in robot.hinges and each[0] in place]
    return Core(
        whole,
        from_mujoco=from_mujoco,
        to_mujoco=to_mujoco,
        names=tuple(robot.names[number] for number in numbers),
        joint_limits=tuple((place[i], round(a, _DIGITS), round(b, _DIGITS)) for i, a, b in hinges * limits),
        **fields,
    )


def shown_as(dim: int, columns: str) -> dict[str, Any]:
    """``observe``, ``from_obs`` and ``shown_dim`` of a core by a word for each observation column.

    Args:
        dim: core dimensions.
        columns: ``3`` is a core dimension, ``sin3`` and ``cos3`` are of it, ``3~10`` is clipped to 10 in
            size, ``_`` is a readout.
    """
    words = columns.split()
    angles = sorted({int(word[3:]) for word in words if word[:3] in ("sin", "cos")})
    found = []
    for word in words:
        number, _, limit = word.partition("~")
        if word == "_":
            found.append(Column())
            continue
        if number.isdigit():
            i = int(number)
        else:
            i = dim + angles.index(int(number[3:])) + len(angles) * (number[:3] == "cos")
        high = float(limit) if limit else None
        low = None if high is None else -high
        found.append(Column(((i, 1.0),), 0.0, low, high))
    mirror = Mirror(Shown(dim, tuple(((i, 1.0),) for i in angles), tuple(found), (0.0,) * dim))
    return {"observe": mirror.observe, "from_obs": mirror.from_obs, "shown_dim": words.count("_")}


@functools.cache
def _of(xml: str) -> tuple[Robot, Any]:
    model = mujoco.MjModel.from_xml_path(str(Path(gym.__file__).parent / "envs" / "mujoco" / "assets" / xml))
    return describe(model), model


def _geometry(robot: Robot, place: dict[int, int], moves: int, fixed: tuple[int, ...]) -> Geometry:
    """What the model decides: a planar base that turns freely, a floating one, and where neither is seen."""
    dim = len(place)

    def placed(numbers: Sequence[int]) -> tuple[int, ...]:
        return tuple(place[i] for i in numbers if i in place)

    roots, moved = placed(robot.nowhere), tuple(range(dim, dim + moves))
    pitch = robot.pitch and (place[robot.pitch[0]], robot.pitch[1])
    floating = robot.base is not None
    whole = tuple(range(3)) if floating else roots
    vectors = tuple(each for each in (moved, whole if roots else ()) if each)
    return Geometry(
        dim=dim,
        displacement_dim=moves,
        angles=tuple(i for i in placed(robot.circle) if pitch is None or i != pitch[0]),
        fixed=fixed,
        free=roots if pitch is None else (*roots, pitch[0]),
        quaternion=None if robot.base is None else place[robot.base],
        pitch=pitch,
        positions=vectors if floating or pitch else (),
        velocities=(placed(robot.base_velocity or robot.pitch_velocity),) if floating or pitch else (),
    )


def _root(robot: Robot, place: dict[int, int]) -> tuple[int, int, int]:
    """Height, forward and upward velocity of a root that slides along x and z and turns about y."""
    nq = robot.sizes[0]
    return place[1], place[nq], place[nq + 1]


def _feet(robot: Robot, model: Any, place: dict[int, int], geoms: Sequence[str]) -> list[Foot]:
    """The two ends of each foot, at the end of the links from the root's hinge on."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    nq, found = robot.sizes[0], []
    for name in geoms:
        geom = model.geom(name)
        hinges: list[int] = []
        body = int(geom.bodyid[0])
        while body:
            first, count = int(model.body_jntadr[body]), int(model.body_jntnum[body])
            hinges = [j for j in range(first, first + count) if model.jnt_qposadr[j] in robot.hinges] + hinges
            body = int(model.body_parentid[body])
        along = data.geom(name).xmat.reshape(3, 3)[:, 2] * geom.size[1]
        ends = sorted((data.geom(name).xpos + sign * along for sign in (1, -1)), key=lambda end: -end[0])
        for end in ends:
            points = [*data.xanchor[hinges], end]
            links = (
                Link(
                    angle=place[int(model.jnt_qposadr[j])],
                    velocity=place[nq + int(model.jnt_dofadr[j])],
                    sign=round(float(data.xaxis[j][1])),
                    along=round(float(there[0] - here[0]), _DIGITS) + 0.0,
                    up=round(float(there[2] - here[2]), _DIGITS) + 0.0,
                )
                for j, here, there in zip(hinges, points, points[1:], strict=False)
            )
            found.append(Foot(radius=round(float(geom.size[0]), _DIGITS), links=tuple(links)))
    return found


def _padded(rows: np.ndarray, before: int, after: int) -> np.ndarray:
    zeros = [np.zeros((*rows.shape[:-1], count), rows.dtype) for count in (before, after)]
    return np.concatenate([zeros[0], rows, zeros[1]], -1)
