"""Small networks that control tasks of dm_control, trained by SAC (Haarnoja et al. 2018) in MuJoCo.

    python -m tools.train_controllers

Three of each task, about a third and two thirds as good as the best one and the best one itself, go to
``benchmarks/harness/controllers.json``: layers of ``tanh(relu(relu(obs W + b) W + b) W + b)``, with what each
is worth over whole episodes. Each training takes an action for two steps, and four minutes of one core;
the controllers then act at every step. Its seeds are none of the benchmark's. The file is written whenever
a controller was tried, so a training may be stopped.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

import wmgym

FILE = Path(__file__).parents[1] / "benchmarks" / "harness" / "controllers.json"
STEPS = {"finger-spin": 60_000, "walker-walk": 100_000}  # decisions
SECONDS, EVERY, EPISODES, SEED = 240, 4_000, 3, 9_000  # seconds of one core

Layers = list[tuple[np.ndarray, np.ndarray]]


class Twice(gym.Wrapper[Any, Any, Any, Any]):
    """Takes every action for two steps."""

    def step(self, action: Any) -> Any:
        """The last observation, both rewards."""
        first = self.env.step(action)
        if first[2] or first[3]:
            return first
        obs, reward, *rest = self.env.step(action)
        return obs, float(first[1]) + float(reward), *rest


def control(layers: Layers, obs: np.ndarray) -> np.ndarray:
    """Actions of the layers."""
    *hidden, (weight, bias) = layers
    for inner, shift in hidden:
        obs = np.maximum(obs @ inner + shift, 0)
    return np.asarray(np.tanh(obs @ weight + bias))


def worth(task: wmgym.Task, layers: Layers) -> float:
    """Mean return of whole episodes."""
    env, total = task.make(), 0.0
    for episode in range(EPISODES):
        obs, _ = env.reset(seed=SEED + episode)
        for _ in range(task.max_episode_steps or 1_000):
            obs, reward, terminated, truncated, _ = env.step(control(layers, np.asarray(obs)))
            total += float(reward)
            if terminated or truncated:
                break
    env.close()
    return total / EPISODES


class Keep(BaseCallback):
    """Keeps what the actor is worth, every few thousand decisions."""

    def __init__(self, name: str, task: wmgym.Task) -> None:
        """Of one training."""
        super().__init__()
        self.name, self.task, self.until = name, task, time.process_time() + SECONDS
        self.path: list[tuple[float, Layers]] = []

    def _on_step(self) -> bool:
        if self.num_timesteps % EVERY == 0:
            actor: Any = self.model.policy.actor
            linear = [each for each in (*actor.latent_pi, actor.mu) if isinstance(each, torch.nn.Linear)]
            layers = [
                tuple(x.detach().double().numpy().T.round(4) for x in (each.weight, each.bias))
                for each in linear
            ]
            self.path.append((worth(self.task, layers), layers))
            print(self.name, self.num_timesteps, round(self.path[-1][0], 1), flush=True)
            write(self.name, self.path)
        return time.process_time() < self.until


def write(name: str, path: list[tuple[float, Layers]]) -> None:
    """The three of a task, the worst first."""
    best = max(value for value, _ in path)
    chosen = [min(path, key=lambda each: abs(each[0] - share * best)) for share in (1 / 3, 2 / 3, 1)]
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    found[name] = [
        {"return": round(value, 1), "layers": [[weight.tolist(), bias.tolist()] for weight, bias in layers]}
        for value, layers in chosen
    ]
    FILE.write_text(json.dumps(found) + "\n")


def train(name: str) -> None:
    """Train the controllers of a task."""
    torch.set_num_threads(1)
    task = wmgym.make_task(f"dm_control/{name}-v0")
    keep = Keep(name, task)
    sizes = {"net_arch": {"pi": [64, 64], "qf": [256, 256]}}
    SAC(
        "MlpPolicy", Twice(task.make()), learning_rate=1e-3, learning_starts=2_000, batch_size=128,
        seed=SEED,        policy_kwargs=sizes,
    ).learn(STEPS[name], callback=keep)  # fmt: skip


if __name__ == "__main__":
    for task_name in sys.argv[1:] or STEPS:
        train(task_name)
