"""The core of a robot whose reward is known in code, as far as its model tells."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wmgym.io.files import read_json
from wmgym.io.schema import from_json
from wmgym.tasks.geometry import Foot, Geometry
from wmgym.tasks.layout import Core
from wmgym.tasks.mjcf.mirror import Mirror
from wmgym.tasks.mjcf.robot import Model, Robot
from wmgym.tasks.mjcf.shown import Column, Shown

_DIGITS = 6  # of radians
_FOOT_SCALES = 1.0, 8.0  # of 5 mm and 0.1 m/s


@functools.cache
def models() -> dict[str, Model]:
    """What ``python -m tools.describe_models`` wrote of the models that Gymnasium ships, by file name."""
    found = read_json(Path(__file__).with_name("models.json"))
    return {name: from_json(Model, values) for name, values in found.items()}


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
    shown_units: Sequence[str] = (),
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
        shown_units: of the readouts in the observation.
        fields: others of ``Core``.
    """
    model = models()[xml]
    robot = model.robot
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
    hinges = [each for each in robot.limits if each[0] in robot.hinges and each[0] in place]
    ranges = tuple((place[i], round(a, _DIGITS), round(b, _DIGITS)) for i, a, b in hinges)
    if feet:
        ends = tuple(_placed(end, place) for name in feet for end in dict(model.feet)[name])
        root = _root(robot, place)
        whole = replace(whole, root=root, feet=ends, foot_scales=_FOOT_SCALES, stops=ranges)
    return Core(
        whole,
        from_mujoco=from_mujoco,
        to_mujoco=to_mujoco,
        names=tuple(robot.names[number] for number in numbers),
        units=(*(robot.units[number] for number in numbers), *shown_units),
        joint_limits=ranges if limits else (),
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


def _placed(foot: Foot, place: dict[int, int]) -> Foot:
    """A foot whose links count core dimensions."""
    links = (replace(each, angle=place[each.angle], velocity=place[each.velocity]) for each in foot.links)
    return replace(foot, links=tuple(links))


def _padded(rows: np.ndarray, before: int, after: int) -> np.ndarray:
    zeros = [np.zeros((*rows.shape[:-1], count), rows.dtype) for count in (before, after)]
    return np.concatenate([zeros[0], rows, zeros[1]], -1)
