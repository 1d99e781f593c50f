"""A policy in the real env beside what the world imagines of it, with error and bound below, as a video."""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from wmgym.calibration.open_loop import given_actions
from wmgym.data.collect import collect
from wmgym.data.policy import PolicyFn
from wmgym.envs.vector_env import ImaginedVectorEnv
from wmgym.evaluation.report.strip import GAP, HEIGHT, WIDTH, Episode, Strip
from wmgym.io import files
from wmgym.models.world import WorldModel
from wmgym.tasks.rendering import Renderer

SECONDS, FPS = 10.0, 30.0


class DrawingError(ValueError):
    """MuJoCo cannot draw this task, or not on this machine."""


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Refuse, before any work, a name that ``Video.save`` would refuse on this machine."""
    _require(path, ".mp4" if importlib.util.find_spec("imageio_ffmpeg") else ".webp")


def _require(path: str | os.PathLike[str], suffix: str) -> None:
    if Path(path).suffix != suffix:
        hint = "" if suffix == ".mp4" else "; pip install 'wmgym[report]' for .mp4"
        raise ValueError(f"the video is a {suffix} file, so {path} must end in {suffix}{hint}")


@dataclass(frozen=True)
class Video:
    """An encoded video.

    Attributes:
        data: the file's bytes.
        mime: "video/mp4" (H.264), or "image/webp" where imageio-ffmpeg is not installed.
        poster: a JPEG of its last picture.
    """

    data: bytes
    mime: str
    poster: bytes

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file; its name must end in what it is.

        Raises:
            ValueError: another suffix than ".mp4" or, without imageio-ffmpeg, ".webp".
        """
        _require(path, f".{self.mime.partition('/')[2]}")
        return files.write_bytes(path, self.data)

    @property
    def source(self) -> str:
        """As a data URI."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode()}"

    @property
    def poster_source(self) -> str:
        """The poster as a data URI."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.poster).decode()}"


def record(world: WorldModel, policy: PolicyFn | None, seed: int = 0, seconds: float = SECONDS) -> Video:
    """Film a policy in MuJoCo, and what the world imagines under the same actions from the same start state.

    Below the pictures stand the error of the imagined state and the world's bound for it, up to the moment
    shown. The imagined side never sees MuJoCo again.

    Args:
        world: the learned simulator, of a task that MuJoCo can draw.
        policy: as ``collect`` takes them; None for uniform random actions.
        seed: decides the start state and everything random.
        seconds: simulated time at most; the video runs in real time.

    Raises:
        DrawingError: the task cannot be drawn, or there is no OpenGL to draw with.
    """
    episode = run_both(world, policy, seed, max(1, round(seconds / world.task.dt)))
    return encode(pictures(world, episode), _rate(world)[1])


def run_both(world: WorldModel, policy: PolicyFn | None, seed: int, steps: int) -> Episode:
    """Let a policy drive the real env, and give the same actions to the world from the same start state."""
    real = collect(world.task, {"filmed": policy}, episodes=1, seed=seed, max_episode_steps=steps, workers=1)
    bounded = world.calibration is not None
    env = ImaginedVectorEnv(
        world, 1, max_episode_steps=len(real), trust=bounded or None, render_mode="rgb_array",
        autoreset_mode=AutoresetMode.DISABLED,
    )  # fmt: skip
    _, infos = env.reset(seed=seed, options={"state": real.state[0]})
    rows = [(env.core()[0], env.snapshot().place[0], infos.get("error_bound", _NONE)[0])]
    actions = given_actions(world, real.action).cpu().numpy()
    for action in actions:
        _, _, terminated, truncated, infos = env.step(action[None])
        rows.append((env.core()[0], env.snapshot().place[0], infos.get("error_bound", _NONE)[0]))
        if terminated[0] or truncated[0]:
            break
    imagined, place, bounds = (np.array(column) for column in zip(*rows, strict=True))
    states = np.concatenate([real.core[:1], real.next_core])
    unit = world.calibration.data_std if world.calibration is not None else states.std(0)
    unit = np.where(unit > 0, unit, 1.0)
    moved = real.unobserved[:, : place.shape[1]]
    return Episode(
        seconds=world.task.dt * np.arange(len(imagined)),
        real=states,
        real_place=np.concatenate([np.zeros_like(moved[:1]), np.cumsum(moved, 0)]),
        imagined=imagined,
        imagined_place=place,
        error=(np.abs(states[: len(imagined)] - imagined) / unit).mean(1),
        bound=(bounds / unit).mean(1) if bounded else None,
    )


_NONE = np.zeros(1)  # bounds of a world without any


def pictures(world: WorldModel, episode: Episode) -> Iterator[np.ndarray]:
    """Pictures ``(height, width, 3)`` uint8; where one side ended, its last state stays."""
    stride, _ = _rate(world)
    longest = max(len(episode.real), len(episode.imagined))
    try:
        camera = Renderer(world.task, fast=True, width=WIDTH, height=HEIGHT, camera_name="track")
    except Exception as error:  # each GL back end fails in its own way
        hint = "" if os.environ.get("MUJOCO_GL") else "; without a display, export MUJOCO_GL=egl may help"
        raise DrawingError(
            f"{world.task.env_id or 'this task'} cannot be drawn here: {error}{hint}"
        ) from error
    strip = Strip(episode, longest, world.task.dt)
    try:
        for step in range(0, longest, stride):
            left, right = (
                _framed(camera.frame(core[at], place[at]), ended=step > at)
                for core, place, at in (
                    (episode.real, episode.real_place, min(step, len(episode.real) - 1)),
                    (episode.imagined, episode.imagined_place, min(step, len(episode.imagined) - 1)),
                )
            )
            gap = np.full((HEIGHT, GAP, 3), strip.paper, np.uint8)
            yield np.concatenate([strip.heading, np.concatenate([left, gap, right], 1), strip.at(step)])
    finally:
        camera.close()


def _framed(picture: np.ndarray, ended: bool) -> np.ndarray:
    """A picture, dimmed after its episode's end."""
    return (picture * 0.45).astype(np.uint8) if ended else picture


def _rate(world: WorldModel) -> tuple[int, float]:
    """Steps a picture and pictures a second, in real time."""
    stride = max(1, round(1 / (FPS * world.task.dt)))
    return stride, 1 / (stride * world.task.dt)


def encode(frames: Iterator[np.ndarray], fps: float) -> Video:
    """H.264 in MP4 where imageio-ffmpeg is installed, else an animated WebP."""
    from PIL import Image

    try:
        import imageio_ffmpeg
    except ModuleNotFoundError:
        shown = [Image.fromarray(frame) for frame in frames]
        stream = io.BytesIO()
        rest = {"save_all": True, "append_images": shown[1:], "duration": round(1000 / fps), "loop": 0}
        shown[0].save(stream, "WEBP", quality=60, **rest)
        return Video(stream.getvalue(), "image/webp", _jpeg(np.asarray(shown[-1])))
    return _h264(frames, fps, imageio_ffmpeg)


def _h264(frames: Iterator[np.ndarray], fps: float, ffmpeg: Any) -> Video:
    with tempfile.TemporaryDirectory() as folder:
        path, writer = Path(folder) / "video.mp4", None
        for frame in frames:
            if writer is None:
                height, width = frame.shape[:2]
                writer = ffmpeg.write_frames(
                    str(path), (width, height), fps=fps, codec="libx264", quality=None, macro_block_size=2,
                    output_params=["-crf", "25", "-preset", "fast", "-movflags", "+faststart"],
                )  # fmt: skip
                writer.send(None)
            writer.send(np.ascontiguousarray(frame))
        assert writer is not None
        writer.close()
        return Video(path.read_bytes(), "video/mp4", _jpeg(frame))


def _jpeg(picture: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=80)
    return stream.getvalue()
