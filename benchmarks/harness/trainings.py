"""What a benchmark of training algorithms does at checkpoints: evaluate, keep time, keep models."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.harness.results import Row
from wmgym.io.provenance import cpu_seconds

EVALUATION_SEED = 900_000


class Checkpoints(BaseCallback):
    """Calls ``reached`` after these numbers of real steps, once the updates that are due there are done."""

    def __init__(self, steps: list[int], reached: Callable[[int], None], clock: Clock) -> None:
        super().__init__()
        self.steps, self.reached, self.clock = set(steps), reached, clock
        self.due: int | None = None

    def _on_training_start(self) -> None:
        self.clock.resume()

    def _on_rollout_start(self) -> None:
        self._evaluate()

    def _on_step(self) -> bool:
        self._evaluate()  # nothing was learned since the checkpoint: it lies within a rollout
        if self.num_timesteps in self.steps:
            self.due = self.num_timesteps
        return True

    def _on_training_end(self) -> None:
        self._evaluate()
        self.clock.pause()

    def _evaluate(self) -> None:
        if self.due is not None:
            step, self.due = self.due, None
            self.reached(step)


@dataclasses.dataclass
class Clock:
    """Seconds of training, and of all else (evaluations, files), on the wall and of this process' cores."""

    wall: float = 0.0
    cpu: float = 0.0
    other_wall: float = 0.0
    other_cpu: float = 0.0

    def __post_init__(self) -> None:
        self._since: tuple[float, float, bool] | None = None

    def resume(self, training: bool = True) -> None:
        self.pause()
        self._since = time.perf_counter(), cpu_seconds(), training

    def pause(self) -> None:
        if self._since is None:
            return
        wall, cpu, training = self._since
        wall, cpu, self._since = time.perf_counter() - wall, cpu_seconds() - cpu, None
        if training:
            self.wall, self.cpu = self.wall + wall, self.cpu + cpu
        else:
            self.other_wall, self.other_cpu = self.other_wall + wall, self.other_cpu + cpu


class Models:
    """The last model of a unit that trains, with its clock, in a folder that is complete or not there."""

    def __init__(self, folder: Path, recipe: str) -> None:
        self.folder, self.recipe = folder, recipe

    def latest(self) -> Path | None:
        """The folder of the last model of this recipe."""
        found = sorted(self.folder.glob(f"{self.recipe}-*"))
        return found[-1] if found else None

    def save(self, model: Any, clock: Clock) -> None:
        """Keep this model instead of earlier ones."""
        before = list(self.folder.glob("*")) if self.folder.exists() else []
        temporary = self.folder / f"unfinished-{os.getpid()}"
        temporary.mkdir(parents=True, exist_ok=True)
        model.save(temporary / "model.zip")
        (temporary / "clock.json").write_text(json.dumps(dataclasses.asdict(clock)))
        place = self.folder / f"{self.recipe}-{model.num_timesteps:09}"
        shutil.rmtree(place, ignore_errors=True)
        temporary.rename(place)
        for folder in before:
            if folder != place:
                shutil.rmtree(folder, ignore_errors=True)


def evaluate(model: Any, envs: list[gym.Env[Any, Any]]) -> np.ndarray:
    """Returns ``(len(envs),)`` of the deterministic policy, an episode an env, from fixed start states."""
    obs = np.stack([env.reset(seed=EVALUATION_SEED + i)[0] for i, env in enumerate(envs)])
    returns, going = np.zeros(len(envs)), list(range(len(envs)))
    while going:
        actions, _ = model.predict(obs[going], deterministic=True)
        for i, action in zip(going.copy(), actions, strict=True):
            obs[i], reward, terminated, truncated, _ = envs[i].step(action)
            returns[i] += float(reward)
            if terminated or truncated:
                going.remove(i)
    return returns


def summary(returns: np.ndarray) -> Row:
    """What a row says of an evaluation; the share under half of the median means nothing below zero."""
    median = float(np.median(returns))
    return {
        "mean": round(float(returns.mean()), 1), "min": round(float(returns.min()), 1),
        "median": round(median, 1),
        "under_half": round(float((returns < median / 2).mean()), 3) if median > 0 else None,
        "returns": returns.round(1).tolist(),
    }  # fmt: skip
