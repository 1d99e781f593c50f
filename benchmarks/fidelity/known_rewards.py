"""Are the reward and termination formulas of known tasks MuJoCo's own?

On 10,000 live transitions a task, of random actions and of the reference policies, reward, termination and
observation are computed in float64 from the live env's state and compared with what it returned.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import wmgym
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, per_env
from benchmarks.harness.worlds import TASKS, Setup, policies


def measure(env_id: str, setup: Setup) -> list[Row]:
    steps = setup.size(10_000, 1_000)
    task = wmgym.make_task(env_id)
    assert task.reward is not None
    assert task.terminated is not None
    entrants = [None, *policies(env_id, "pool").values(), *policies(env_id, "held-out").values()]
    rng, rows = np.random.default_rng(0), list[tuple[Any, ...]]()
    env = task.make()
    for index, policy in enumerate(entrants):
        rows += live(task, env, policy, -(-steps // len(entrants)), rng, seed=index)
    env.close()
    state, action, next_state, unobserved, reward, terminated, obs = (
        np.array(column) for column in zip(*rows[:steps], strict=True)
    )
    step = (state, action.astype(np.float64), next_state, unobserved)
    error = np.abs(task.reward(*step) - reward) / np.maximum(np.abs(reward), 1.0)
    row = {
        "env": env_id, "transitions": len(reward), "policies": len(entrants),
        "max_relative_reward_error": float(error.max()),
        "wrong_terminations": int((task.terminated(*step) != terminated).sum()),
        "terminations": int(terminated.sum()),
        "max_observation_error": float(np.abs(task.core.observe(next_state) - obs).max()),
    }  # fmt: skip
    return [row]


def live(
    task: wmgym.Task, env: Any, policy: Any, steps: int, rng: np.random.Generator, seed: int
) -> list[tuple[Any, ...]]:
    """Steps of one policy with a little noise, read from the env in float64."""
    rows = list[tuple[Any, ...]]()

    def look() -> tuple[np.ndarray, np.ndarray]:
        core = task.read_core(env, obs)
        return task.state(core[None], obs[None])[0], task.read_unobserved(env)

    obs, _ = env.reset(seed=seed)
    state, before = look()
    low, high = env.action_space.low, env.action_space.high
    while len(rows) < steps:
        action = rng.uniform(low, high) if policy is None else policy(obs) + 0.1 * rng.normal(size=low.shape)
        action = np.clip(action, low, high).astype(np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        next_state, after = look()
        unobserved = task.unobserved_over(before, after)
        rows.append((state, action, next_state, unobserved, reward, terminated, obs))
        state, before = next_state, after
        if terminated or truncated:
            obs, _ = env.reset()
            state, before = look()
    return rows


def goals(rows: list[Row]) -> list[Row]:
    """The target beside what was measured."""
    worst = max(r["max_relative_reward_error"] for r in rows)
    wrong = sum(r["wrong_terminations"] for r in rows)
    met = worst <= 1e-6 and wrong == 0 and len(rows) == len(TASKS)
    return [
        target(
            "known reward and termination formulas against MuJoCo, 10k mixed transitions, 11 tasks",
            "max relative error 1e-6",
            f"{worst:.1e}, {wrong} of {sum(r['terminations'] for r in rows)} terminations wrong",
            met,
        )
    ]


BENCHMARK = Benchmark(per_env(measure), goals, collects="steps MuJoCo 10,000 times a task and fits nothing")
