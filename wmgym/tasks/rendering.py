"""Draw cores with the real env's own camera."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

from wmgym.tasks.ground_truth import put, to_mujoco
from wmgym.tasks.mjcf.simulation import simulation
from wmgym.tasks.task import Task

_SIZE = 480  # of pictures that no env's own settings decide


_NO_OPENGL = (
    "there is no OpenGL to draw with; set MUJOCO_GL=egl, or osmesa, before Python starts, and install it: "
    "apt-get install libegl1 libgl1-mesa-dri"
)


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
            options: keywords of the env, such as ``width`` and ``height``; an env that fixes them itself is
                drawn as it wants, and its pictures are brought to that size.
        """
        if task.core.to_mujoco is None:
            raise ValueError(
                f"{task.env_id or 'this task'} does not say how its core lies in MuJoCo; draw worlds of data "
                "that wmgym.collect recorded from a MuJoCo env"
            )
        self.task = task
        self._own: mujoco.Renderer | None = None
        self._broken = False
        self._env = self._open(render_mode, options)
        self._env.reset(seed=0)
        if fast and self._own is None:
            self._draw_fast()

    def _open(self, render_mode: str, options: dict[str, Any]) -> gym.Env[Any, Any]:
        """The env in this mode; where a function made it without one, a camera of our own draws it."""
        self._size: tuple[int, int] | None = None  # of pictures of an env that has its own
        if self.task.factory is None:
            try:
                return self.task.make(render_mode=render_mode, **options)
            except (TypeError, ValueError) as error:
                if not options or "keyword argument" not in str(error):
                    raise
            if "height" in options and "width" in options:
                self._size = options["height"], options["width"]
            return self.task.make(render_mode=render_mode)
        env = self.task.make()
        if env.render_mode != render_mode:
            if render_mode == "human":
                raise ValueError("the env's factory gives it no window; pass it render_mode='human' there")
            model, _ = simulation(env) or (None, None)
            size = options.get("height", _SIZE), options.get("width", _SIZE)
            self._own = mujoco.Renderer(model, *size)
        return env

    def frame(self, core: np.ndarray, place: np.ndarray | None = None) -> np.ndarray:
        """Picture ``(height, width, 3)`` uint8 of one core ``(core_dim,)``.

        Args:
            core: raw units.
            place: world coordinates of the root that the core omits; None puts it at the origin.
        """
        if self._broken:  # a second try would abort the process
            raise RuntimeError(_NO_OPENGL)
        found = simulation(self._env)
        assert found is not None
        if self.task.core.layout is None:
            unwrapped: Any = self._env.unwrapped
            unwrapped.set_state(*to_mujoco(self.task, np.asarray(core, np.float64), place))
        else:
            put(self.task, *found, core)
            mujoco.mj_forward(*found)
        if self._own is not None:
            self._own.update_scene(found[1])
            return np.asarray(self._own.render())
        try:
            return _brought_to(np.asarray(self._env.render()), self._size)
        except mujoco.FatalError as error:
            self._broken = True
            raise RuntimeError(_NO_OPENGL) from error

    def _draw_fast(self) -> None:
        unwrapped: Any = self._env.unwrapped
        found = simulation(self._env)
        assert found is not None
        model = found[0]
        model.vis.quality.offsamples = 0  # read where the first frame opens the context
        if self.task.core.displacement_dim or self.task.core.geometry.free:
            _enlarge_floor(model)
        unwrapped.render()
        scene = getattr(getattr(getattr(unwrapped, "mujoco_renderer", None), "viewer", None), "scn", None)
        if scene is not None:
            scene.flags[[int(mujoco.mjtRndFlag.mjRND_SHADOW), int(mujoco.mjtRndFlag.mjRND_REFLECTION)]] = 0

    def close(self) -> None:
        """Release the drawing context."""
        if self._own is not None:
            self._own.close()
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


def _brought_to(picture: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """A picture ``(height, width, 3)`` in another size, whole: what is left over at its sides is black."""
    if size is None or picture.ndim != 3 or picture.shape[:2] == size:
        return picture
    scale = min(size[0] / picture.shape[0], size[1] / picture.shape[1])
    inner = [max(1, round(scale * side)) for side in picture.shape[:2]]
    rows, columns = (np.arange(new) * old // new for new, old in zip(inner, picture.shape[:2], strict=True))
    made = np.zeros((*size, 3), picture.dtype)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    made[top : top + inner[0], left : left + inner[1]] = picture[rows][:, columns]
    return made
