"""Film an imagined robot beside the same robot in MuJoCo, with the error bound and the real error below.

``python -m tools.make_gif`` writes the README's GIF: HalfCheetah-v5, its best held-out policy, seed 0, the
first three seconds, at half speed. The policy and the seed were fixed before anything was run. Hopper-v5 and
Walker2d-v5 were looked at likewise; of the three, HalfCheetah-v5 is the one whose bounds held least often.
The policy drives MuJoCo; the same actions go into imagination, which starts from the same state and never
sees MuJoCo again.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import wmgym
from wmgym.tasks.rendering import Renderer

ROOT = Path(__file__).resolve().parents[1]
ENV, SEED, SECONDS = "HalfCheetah-v5", 0, 3.0
WIDTH, PICTURE, PLOT, GAP = 640, 220, 190, 4  # pixels
SPEED = 0.5  # of real time, for the eye to follow
COLORS = 160
BLUE, ORANGE, GRAY = "#2a6fbb", "#c8500a", "#5a5a5a"


@dataclass(frozen=True)
class Film:
    """One episode, in imagination and in MuJoCo.

    Attributes:
        time: ``(n,)`` seconds.
        imagined: ``(n, core_dim)`` states, beside ``imagined_place`` of the root, metres.
        real: likewise, of MuJoCo.
        error: ``(n,)`` mean absolute error over state dimensions, in standard deviations of the data.
        bound: ``(n,)`` mean half-width of the 90 % bound, in the same unit.
        inside: share of dimensions and steps whose error is inside its own bound.
    """

    time: np.ndarray
    imagined: np.ndarray
    imagined_place: np.ndarray
    real: np.ndarray
    real_place: np.ndarray
    error: np.ndarray
    bound: np.ndarray
    inside: float


def film(world: wmgym.WorldModel, policy: wmgym.MLPPolicy, steps: int) -> Film:
    """Drive MuJoCo by the policy and imagination by the same actions."""
    assert world.calibration is not None
    task, unit = world.task, world.calibration.data_std
    env = task.make()
    obs, _ = env.reset(seed=SEED)
    origin = task.read_unobserved(env)
    start = task.read_core(env, obs)
    imagined = wmgym.ImaginedVectorEnv(world, 1, trust=True, render_mode="rgb_array")
    imagined.reset(seed=SEED, options={"state": task.state(start[None], obs[None])[0]})
    rows = [(start, np.zeros(1), start, np.zeros(1), np.zeros_like(start))]
    for _ in range(steps):
        action = policy(obs)
        obs, *_ = env.step(action)
        infos = imagined.step(action[None])[4]
        place = imagined.snapshot().place[0]
        moved = task.unobserved_over(origin, task.read_unobserved(env))[: len(place)]
        rows.append((imagined.core()[0], place, task.read_core(env, obs), moved, infos["error_bound"][0]))
    env.close()
    guess, place, truth, moved, bound = (np.array(column) for column in zip(*rows, strict=True))
    error = np.abs(guess - truth)
    inside = float((error <= bound)[1:].mean())
    time = task.dt * np.arange(steps + 1)
    return Film(time, guess, place, truth, moved, (error / unit).mean(1), (bound / unit).mean(1), inside)


def frames(world: wmgym.WorldModel, shown: Film) -> list[np.ndarray]:
    """Pictures ``(height, WIDTH, 3)`` uint8."""
    camera = Renderer(world.task, width=(WIDTH - GAP) // 2, height=PICTURE, camera_name="track")
    sides = [
        [camera.frame(core, place) for core, place in zip(*side, strict=True)]
        for side in ((shown.imagined, shown.imagined_place), (shown.real, shown.real_place))
    ]
    camera.close()
    gap = np.full((PICTURE, GAP, 3), 255, np.uint8)
    return [
        np.concatenate([heading(), np.concatenate([left, gap, right], 1), plot(shown, step)])
        for step, (left, right) in enumerate(zip(*sides, strict=True))
    ]


def heading() -> np.ndarray:
    """The line above both pictures."""
    figure, canvas = drawing(28)
    for x, text, color in ((0.25, "imagined (learned model)", BLUE), (0.75, "MuJoCo", ORANGE)):
        figure.text(x, 0.5, text, ha="center", va="center", fontsize=11, fontweight="bold", color=color)
    return pixels(canvas)


def plot(shown: Film, step: int) -> np.ndarray:
    """The bound as a band, the error inside it, up to one step."""
    figure, canvas = drawing(PLOT)
    axes = figure.add_axes((0.085, 0.235, 0.895, 0.73))
    time, top = shown.time, 1.12 * shown.bound.max()
    axes.fill_between(time[: step + 1], shown.bound[: step + 1], color=BLUE, alpha=0.22, linewidth=0)
    axes.plot(time[: step + 1], shown.bound[: step + 1], color=BLUE, linewidth=1.2)
    axes.plot(time[: step + 1], shown.error[: step + 1], color=ORANGE, linewidth=2)
    axes.set(xlim=(0, time[-1]), ylim=(0, top))
    axes.set_xlabel("seconds since both started in the same state", fontsize=9, color=GRAY, labelpad=2)
    axes.set_ylabel("error, data std", fontsize=9, color=GRAY)
    axes.tick_params(labelsize=8, colors=GRAY)
    axes.spines[["top", "right"]].set_visible(False)
    style = {"transform": axes.transAxes, "fontsize": 10, "va": "top"}
    axes.text(0.015, 0.97, "90 % error bound, predicted", color=BLUE, **style)
    axes.text(0.015, 0.82, "real error, measured in MuJoCo", color=ORANGE, **style)
    return pixels(canvas)


def drawing(height: int) -> tuple[Figure, FigureCanvasAgg]:
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100)
    return figure, FigureCanvasAgg(figure)


def pixels(canvas: FigureCanvasAgg) -> np.ndarray:
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write(pictures: list[np.ndarray], path: Path, fps: float) -> None:
    """Write a GIF; one palette for all frames keeps what does not move still."""
    every = Image.fromarray(np.concatenate(pictures[:: max(1, len(pictures) // 6)]))
    palette = every.quantize(COLORS, method=Image.Quantize.MEDIANCUT)
    reduced = [
        Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB")
        for picture in pictures
    ]
    held = [round(1_000 / fps)] * (len(reduced) - 1) + [1_500]  # the last frame stays
    imageio.imwrite(path, [np.asarray(each) for each in reduced], duration=held, loop=0)


def best_held_out() -> wmgym.MLPPolicy:
    """The held-out policy with the largest real return on its card."""
    pool = wmgym.load_pool(ROOT / "policies" / ENV, split="held-out")
    return max(pool.values(), key=lambda policy: policy.card.return_mean if policy.card else -np.inf)


def main(out: Path) -> None:
    world, policy = wmgym.load(ENV), best_held_out()
    shown = film(world, policy, round(SECONDS / world.task.dt))
    pictures = frames(world, shown)
    out.parent.mkdir(parents=True, exist_ok=True)
    write(pictures, out, SPEED / world.task.dt)
    print(f"{out}: {ENV}, held-out policy {policy.name}, seed {SEED}, {SECONDS:g} s, {len(pictures)} frames")
    print(f"{out.stat().st_size / 1e6:.2f} MB; {shown.inside:.0%} of errors inside their bound")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "imagined_and_real.gif")
    main(parser.parse_args().out)
