"""Videos of a policy beside what the world imagines of it."""

from __future__ import annotations

import sys
from pathlib import Path

import imageio.v3 as imageio
import imageio_ffmpeg
import numpy as np
import pytest

import wmgym
from wmgym.evaluation.report import video
from wmgym.evaluation.report.strip import GAP, WIDTH, Strip
from wmgym.tasks.rendering import Renderer


@pytest.fixture(scope="module")
def episode(pendulum_world: wmgym.WorldModel) -> video.Episode:
    return video.run_both(pendulum_world, None, 0, 12)


def test_both_sides_start_alike_and_get_the_same_actions(
    episode: video.Episode, pendulum_world: wmgym.WorldModel
) -> None:
    np.testing.assert_allclose(episode.real[0], episode.imagined[0], atol=1e-6)
    assert episode.error[0] < 1e-5
    assert episode.bound is not None
    assert episode.bound[0] == 0
    assert len(episode.imagined) == len(episode.error) == len(episode.bound) <= len(episode.real)
    assert pendulum_world.calibration is not None
    unit = pendulum_world.calibration.data_std
    step = len(episode.error) - 1
    expected = (np.abs(episode.real[step] - episode.imagined[step]) / unit).mean()
    assert episode.error[step] == pytest.approx(expected)


def test_the_strip_is_uncovered_from_left_to_right(episode: video.Episode) -> None:
    steps = len(episode.real)
    strip = Strip(episode, steps, 0.04)
    first, last = strip.at(0), strip.at(steps - 1)
    assert first.shape == last.shape == (*strip.bare.shape[:2], 3)
    assert strip.bare.shape[1] == strip.heading.shape[1] == 2 * WIDTH + GAP
    shown = [int((strip.at(step) != strip.bare).any(0).any(1).sum()) for step in (1, steps - 1)]
    assert shown[0] < shown[1]


def test_h264_and_webp_hold_every_picture(
    episode: video.Episode, pendulum_world: wmgym.WorldModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = video.encode(video.pictures(pendulum_world, episode), 25.0)
    assert made.mime == "video/mp4"
    assert b"avc1" in made.data[:2_000]
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(made.save(tmp_path / "v.mp4")))
    assert frames == len(episode.real)
    assert made.poster.startswith(b"\xff\xd8")
    with pytest.raises(ValueError, match=r"must end in \.mp4"):
        made.save(tmp_path / "v.gif")

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    other = video.encode(iter([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)]), 25.0)
    assert other.mime == "image/webp"
    assert other.source.startswith("data:image/webp;base64,")
    assert len(imageio.imread(other.data, plugin="pillow", index=...)) == 2


def test_a_task_that_mujoco_does_not_know_is_not_drawn(cartpole_world: wmgym.WorldModel) -> None:
    with pytest.raises(video.DrawingError, match="CartPole-v1 cannot be drawn here"):
        video.record(cartpole_world, None, seconds=3)


def test_one_camera_after_another_and_far_from_the_start() -> None:
    task = wmgym.make_task("HalfCheetah-v5")
    core = np.zeros(task.core.dim)
    shown = []
    for place in (0.0, 60.0):  # the floor of HalfCheetah ends after 40 m
        camera = Renderer(task, fast=True, width=64, height=48, camera_name="track")
        shown.append(camera.frame(core, np.array([place])).astype(int))
        camera.close()
    assert min(picture[30:].std() for picture in shown) > 20
    assert np.abs(shown[0] - shown[1]).mean() < 10
