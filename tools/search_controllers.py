"""Linear controllers for a task of dm_control: augmented random search (Mania et al. 2018, arXiv:1803.07055).

    python -m tools.search_controllers

Three of each task, an early, a middle and the best one, go to ``benchmarks/harness/controllers.json``:
``action = tanh(obs @ weight + bias)``, with what each is worth over whole episodes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import wmgym

FILE = Path(__file__).parents[1] / "benchmarks" / "harness" / "controllers.json"
ROUNDS = {"cartpole-swingup": 60}
PAIRS, BEST, STEP, NOISE, STEPS = 8, 4, 0.1, 0.1, 300


def run(env: gym.Env[Any, Any], gains: np.ndarray, seed: int, steps: int, seen: list[np.ndarray]) -> float:
    """Return of an episode; its observations are added to ``seen``."""
    obs, _ = env.reset(seed=seed)
    total = 0.0
    for _ in range(steps):
        seen.append(np.asarray(obs))
        obs, reward, terminated, truncated, _ = env.step(np.tanh(obs @ gains[:-1] + gains[-1]))
        total += float(reward)
        if terminated or truncated:
            break
    return total


def search(name: str) -> list[dict[str, Any]]:
    """Controllers of a task, the worst first."""
    task = wmgym.make_task(f"dm_control/{name}-v0")
    env, rng = task.make(), np.random.default_rng(0)
    seen: list[np.ndarray] = []
    gains = np.zeros((task.obs_dim + 1, task.action_dim))
    path: list[tuple[float, np.ndarray]] = []
    for at in range(ROUNDS[name]):
        std = np.ones(task.obs_dim) if at == 0 else np.clip(np.std(seen, 0), 0.05, None)
        unit = np.append(1 / std, 1.0)[:, None]
        shifts = [rng.normal(size=gains.shape) * unit for _ in range(PAIRS)]
        pairs = [
            [run(env, gains + sign * NOISE * shift, at, STEPS, seen) for sign in (1, -1)] for shift in shifts
        ]
        order = np.argsort([-max(pair) for pair in pairs])[:BEST]
        spread = np.std([pairs[i] for i in order]) + 1e-6
        gains = gains + STEP / BEST / spread * sum((pairs[i][0] - pairs[i][1]) * shifts[i] for i in order)
        seen = seen[-20_000:]
        path.append((float(np.mean(pairs)), gains))
        print(name, at, round(path[-1][0], 1), flush=True)
    worth = []
    for wanted in (len(path) // 6, len(path) // 2, int(np.argmax([value for value, _ in path]))):
        chosen = path[wanted][1]
        returns = [run(env, chosen, 100 + seed, task.max_episode_steps or STEPS, []) for seed in range(3)]
        worth.append({"return": round(float(np.mean(returns)), 1), "gains": chosen.round(4).tolist()})
    env.close()
    return sorted(worth, key=lambda each: each["return"])


if __name__ == "__main__":
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    for task_name in ROUNDS:
        if task_name not in found:
            found[task_name] = search(task_name)
            FILE.write_text(json.dumps(found) + "\n")
