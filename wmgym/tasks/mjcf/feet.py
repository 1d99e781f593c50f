"""Where the feet of a robot that walks in a plane are, at the end of which links."""

from __future__ import annotations

from typing import Any

import mujoco

from wmgym.tasks.geometry import Foot, Link
from wmgym.tasks.mjcf.robot import Robot

_DIGITS = 6  # of metres: model files hold what programs wrote, such as 0.19999999999999996


def foot_ends(robot: Robot, model: Any, geom: str) -> tuple[Foot, Foot]:
    """The two ends of a capsule, the front one first; links count numbers of the physical state."""
    data, nq = mujoco.MjData(model), robot.sizes[0]
    mujoco.mj_forward(model, data)
    shape, hinges = model.geom(geom), list[int]()
    body = int(shape.bodyid[0])
    while body:
        first, count = int(model.body_jntadr[body]), int(model.body_jntnum[body])
        hinges = [j for j in range(first, first + count) if model.jnt_qposadr[j] in robot.hinges] + hinges
        body = int(model.body_parentid[body])
    along = data.geom(geom).xmat.reshape(3, 3)[:, 2] * shape.size[1]
    ends = sorted((data.geom(geom).xpos + sign * along for sign in (1, -1)), key=lambda end: -end[0])

    def foot(end: Any) -> Foot:
        points = [*data.xanchor[hinges], end]
        links = (
            Link(
                angle=int(model.jnt_qposadr[j]),
                velocity=nq + int(model.jnt_dofadr[j]),
                sign=round(float(data.xaxis[j][1])),
                along=round(float(there[0] - here[0]), _DIGITS) + 0.0,
                up=round(float(there[2] - here[2]), _DIGITS) + 0.0,
            )
            for j, here, there in zip(hinges, points, points[1:], strict=False)
        )
        return Foot(radius=round(float(shape.size[0]), _DIGITS), links=tuple(links))

    return foot(ends[0]), foot(ends[1])
