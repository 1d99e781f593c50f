"""Draw cores with the real env's own camera."""

from __future__ import annotations

from typing import Any

import numpy as np

from wmgym.tasks.ground_truth import to_mujoco
from wmgym.tasks.task import Task


class Renderer:
    """Draws cores with the real env's own camera: for videos of imagined episodes, or in a window."""

    def __init__(self, task: Task, render_mode: str = "rgb_array", **options: Any) -> None:
        """Open the real env for drawing only; ``options`` are its keywords, as ``width`` and ``height``.

        In mode "human" a frame goes to a window and what ``frame`` returns is empty.
        """
        if task.core.to_mujoco is None:
            raise ValueError(f"{task.env_id or 'this task'} does not say how its core lies in MuJoCo")
        self.task = task
        self._env = task.make(render_mode=render_mode, **options)
        self._env.reset(seed=0)

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

    def close(self) -> None:
        """Release the drawing context."""
        self._env.close()
