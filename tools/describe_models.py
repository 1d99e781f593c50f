"""What the models that Gymnasium ships say of their state, as wmgym keeps it.

    python -m tools.describe_models

Writes ``wmgym/tasks/mjcf/models.json``, so that a world is loaded without MuJoCo; a test compares the two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco

from wmgym.io.schema import to_json
from wmgym.tasks.mjcf import known
from wmgym.tasks.mjcf.feet import foot_ends
from wmgym.tasks.mjcf.model import describe
from wmgym.tasks.mjcf.robot import Model

ASSETS = Path(gym.__file__).parent / "envs" / "mujoco" / "assets"
FEET = {"hopper.xml": ("foot_geom",), "walker2d_v5.xml": ("foot_geom", "foot_left_geom")}
FILES = (
    "ant.xml", "half_cheetah.xml", "hopper.xml", "humanoid.xml", "humanoidstandup.xml",
    "inverted_double_pendulum.xml", "inverted_pendulum.xml", "pusher_v5.xml", "reacher.xml", "swimmer.xml",
    "walker2d_v5.xml",
)  # fmt: skip


def described(file: str) -> Model:
    """A model as its file says."""
    model: Any = mujoco.MjModel.from_xml_path(str(ASSETS / file))
    robot = describe(model)
    return Model(robot, tuple((geom, foot_ends(robot, model, geom)) for geom in FEET.get(file, ())))


if __name__ == "__main__":
    found = {file: to_json(described(file)) for file in FILES}
    lines = (f" {json.dumps(file)}: {json.dumps(values)}" for file, values in found.items())
    Path(known.__file__).with_name("models.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
