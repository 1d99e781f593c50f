"""Draw cores with the real env's own camera."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from wmgym.tasks.ground_truth import to_mujoco
from wmgym.tasks.task import Task


class Renderer:
    """Draws cores with the real env's own camera: for videos of imagined episodes, or in a window."""

    def __init__(
        self, task: Task, render_mode: str = "rgb_array", *, fast: bool = False, **options: Any
    ) -> None:
        """Open the real env for drawing only.

        Args:
            task: of a MuJoCo env.
            render_mode: in mode "human" a frame goes to a window and what ``frame`` returns is empty.
            fast: without shadows, reflections and antialiasing, several times the frames a second where a
                processor draws them; a floor to run on is enlarged.
            options: keywords of the env, such as ``width`` and ``height``.
        """
        if task.core.to_mujoco is None:
            raise ValueError(f"{task.env_id or 'this task'} does not say how its core lies in MuJoCo")
        self.task = task
        self._env = task.make(render_mode=render_mode, **options)
        self._env.reset(seed=0)
        if fast:
            self._draw_fast()

    def frame(self, core: np.ndarray, place: np.ndarray | None = None) -> np.ndarray:
        """Picture ``(height, width, 3)`` uint8 of one core ``(core_dim,)``.

        Args:
            core: raw units.
            place: world coordinates of the root that the core omits; None puts it at the origin.
        """
        unwrapped: Any = self._env.unwrapped
        qpos, qvel = to_mujoco(self.task, np.asarray(core, np.float64), place)
        unwrapped.set_state(qpos, qvel)
        return np.asarray(self._env.render())

    def _draw_fast(self) -> None:
        unwrapped: Any = self._env.unwrapped
        unwrapped.model.vis.quality.offsamples = 0  # read where the first frame opens the context
        if self.task.core.displacement_dim:
            _enlarge_floor(unwrapped.model)
        unwrapped.render()
        scene = unwrapped.mujoco_renderer.viewer.scn
        scene.flags[[int(mujoco.mjtRndFlag.mjRND_SHADOW), int(mujoco.mjtRndFlag.mjRND_REFLECTION)]] = 0

    def close(self) -> None:
        """Release the drawing context."""
        viewer = getattr(getattr(self._env.unwrapped, "mujoco_renderer", None), "viewer", None)
        if viewer is not None and hasattr(viewer, "con"):
            viewer.make_context_current()
            viewer.con.free()  # once collected, it would free what another renderer draws with by then
        self._env.close()


def _enlarge_floor(model: Any) -> None:
    """Move the floor's edge ten times as far away, for robots that run past it; its pattern stays."""
    floors = model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE)
    model.geom_size[floors, :2] *= 10
    for material in {int(index) for index in model.geom_matid[floors] if index >= 0}:
        if not model.mat_texuniform[material]:
            model.mat_texrepeat[material] *= 10
