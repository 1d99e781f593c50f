"""Part of ``inputs``: robots that no table describes, by what their own MuJoCo model says.

"push_bot": the arm of examples/own_robot, which pushes a box. 5,000 steps of random actions and of its
scripted controller; new episodes of both judge the world. Errors are RMSE over observation columns, each
divided by its standard deviation in the data, mean over windows of 32 steps, beside those of "nothing
changes"; coverage is that of the 90 % bounds. A frame is drawn of a state by wmgym and by the env itself.

"cartpole-swingup", "finger-spin", "walker-walk": dm_control through Shimmy. 10,000 steps of three
controllers and random actions, with noise; the same controllers are then scored without noise in 100 whole
episodes each, and the gap is a share of the range of their real returns. Beside it stands that of MuJoCo
itself, from the same starts moved by 0.001 standard deviations, over all episodes and over five: a mean of
five says little of controllers that stumble. Those of
finger-spin and walker-walk are small networks that SAC trained in MuJoCo, about a third, two thirds and all
of the way (``tools/train_controllers.py``, whose seeds are none of these); of cartpole-swingup one is linear
(``tools/search_controllers.py``), one pumps energy in, and another one then balances too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import torch

import wmgym
from benchmarks.harness.real_returns import reset_seeds
from benchmarks.harness.results import ROOT, Row, target
from benchmarks.harness.worlds import Setup
from wmgym.calibration import online
from wmgym.data.policy import PolicyFn
from wmgym.data.transitions import Transitions
from wmgym.tasks.mjcf.simulation import simulation
from wmgym.tasks.rendering import Renderer

DM_CONTROL = ("cartpole-swingup", "finger-spin", "walker-walk")
ENVS = ("push_bot", *DM_CONTROL)
SEEDS = (0, 1, 2)
HORIZON, WINDOWS = 32, 400
EPISODES, FEW = 100, 5
CONTROLLERS = Path(__file__).with_name("controllers.json")


def measure(env: str, seed: int, setup: Setup) -> list[Row]:
    """The rows of an env and a seed."""
    return _push_bot(seed, setup) if env == "push_bot" else _dm_control(env, seed, setup)


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""
    arm = [row for row in rows if row["env"] == "push_bot"]
    whole = len(arm) == len(SEEDS)
    error = round(float(np.mean([row["ratio"] for row in arm])), 3) if whole else None
    coverage = round(float(np.mean([row["coverage"] for row in arm])), 3) if whole else None
    same = all(row["same_frame"] for row in arm) if whole else None
    found = [
        target(
            "own arm that pushes a box, 5,000 steps: error at h = 32 relative to the constant-state "
            "baseline, mean of 3 seeds", "<= 0.2", error, None if error is None else error <= 0.2,
        ),
        target(
            "own arm that pushes a box: coverage of the 90 % bounds on new episodes, mean of 3 seeds",
            "0.87 to 0.93", coverage,
            None if coverage is None else 0.87 <= coverage <= 0.93,
        ),
        target(
            "own arm that pushes a box: imagined frame equals MuJoCo's of the same state",
            "yes", same and "yes", same,
        ),
    ]  # fmt: skip
    for env in DM_CONTROL:
        gaps = [abs(row["gap"]) for row in rows if row["env"] == env]
        whole, worst = len(gaps) == 3 * len(SEEDS), round(max(gaps, default=0.0), 3)
        missed = worst > 0.1  # whatever the rest will be
        found.append(
            target(
                f"{env} through Shimmy, 10,000 steps: return gap of three policies, worst of 9; "
                f"{EPISODES} episodes each",
                "<= 0.1 of their range", worst if whole or missed else None,
                not missed if whole or missed else None,
            )
        )  # fmt: skip
    return found


def _push_bot(seed: int, setup: Setup) -> list[Row]:
    sys.path.insert(0, str(ROOT / "examples" / "own_robot"))
    import push_bot

    policies = {"random": None, "chase": push_bot.chase}
    data = wmgym.collect(
        "push_bot:lab/PushBot-v0", policies, steps=setup.size(5_000, 1_000), seed=seed, noise=0.3, workers=1
    )
    test = wmgym.collect(
        data.task, policies, episodes=setup.size(30, 4), seed=500 + seed, noise=0.3, workers=1
    )
    world = _fitted(data, seed, setup)
    error, constant = _errors(world, test, data.obs.std(0), seed)
    return [
        {
            "env": "push_bot", "seed": seed, "h": HORIZON, "steps": len(data), "core": data.task.core.dim,
            "readouts": data.task.core.shown_dim, "error": error, "constant_state": constant,
            "ratio": error / constant, "coverage": online.check(world, test, seed=seed).coverage,
            "same_frame": _same_frame(world, test),
        }
    ]  # fmt: skip


def _dm_control(env: str, seed: int, setup: Setup) -> list[Row]:
    policies = {
        f"linear {k}" if "gains" in each else f"network {k}": _controller(each)
        for k, each in enumerate(_controllers(env))
    }
    if env == "cartpole-swingup":
        policies |= {"pump": _swing_up(balance=False), "pump and balance": _swing_up(balance=True)}
    data = wmgym.collect(
        f"dm_control/{env}-v0", {**policies, "random": None}, steps=setup.size(10_000, 4_000), seed=seed,
        noise=0.3, workers=1,
    )  # fmt: skip
    world = _fitted(data, seed, setup)
    episodes = setup.size(EPISODES, FEW)
    report = wmgym.score(world, policies, episodes, seed=500 + seed, workers=1)
    scores = [score for score in report.scores if score.name in policies]
    real = [score.real_mean for score in scores]
    scale = max(real) - min(real)
    found: list[Row] = []
    for score in scores:
        again = _nudged(data, policies[score.name], reset_seeds(500 + seed, range(episodes)))
        apart = (again - np.array(score.real_returns)) / scale
        found.append(
            {
                "env": env, "seed": seed, "policy": score.name, "steps": len(data), "episodes": episodes,
                "real": score.real_mean, "imagined": score.imagined_mean, "range": scale,
                "diverged": score.diverged, "readouts": data.task.core.shown_dim,
                "gap": (score.imagined_mean - score.real_mean) / scale, "gap_mujoco": float(apart.mean()),
                "gap_mujoco_of_few": float(np.abs(apart.reshape(-1, FEW).mean(1)).mean()),
            }
        )  # fmt: skip
    return found


def _nudged(data: Transitions, policy: PolicyFn, seeds: list[int]) -> np.ndarray:
    """Returns of whole episodes in MuJoCo whose starts are moved by 0.001 standard deviations."""
    env = data.task.make()
    found = simulation(env)
    assert found is not None
    model, state = found
    std, returns = 1e-3 * data.core.std(0)[: model.nq + model.nv], np.zeros(len(seeds))
    for k, seed in enumerate(seeds):
        obs, _ = env.reset(seed=seed)
        moved = std * np.random.default_rng(seed).normal(size=len(std))
        state.qpos[:] += moved[: model.nq]
        state.qvel[:] += moved[model.nq :]
        mujoco.mj_forward(model, state)
        over = False
        while not over:
            action = np.clip(policy(obs[None])[0], -1, 1).astype(np.float32)
            obs, reward, terminated, truncated, _ = env.step(action)
            returns[k] += float(reward)
            over = terminated or truncated
    env.close()
    return returns


def _fitted(data: Transitions, seed: int, setup: Setup) -> wmgym.WorldModel:
    """With default settings; calibrated on a fifth of the episodes, or on one at least."""
    train, calib = data.split((0.8, 0.2), seed)
    config = wmgym.FitConfig(max_updates=200) if setup.quick else None
    return wmgym.calibrate(wmgym.fit(train, config, seed), calib, seed=seed)


@torch.no_grad()
def _errors(world: wmgym.WorldModel, test: Transitions, std: np.ndarray, seed: int) -> tuple[float, float]:
    """Of the world, in propagation "mean", and of "nothing changes" after ``HORIZON`` steps."""
    starts = test.window_starts(HORIZON)
    starts = np.random.default_rng(seed).choice(starts, size=min(WINDOWS, len(starts)), replace=False)
    at = world.init(torch.tensor(test.state[starts]), torch.Generator().manual_seed(seed))
    for t in range(HORIZON):
        at = world.step(at, torch.tensor(test.action[starts + t]), "mean").state
    real, unit = test.next_obs[starts + HORIZON - 1], np.where(std < 1e-8, 1.0, std)
    said = world.task.core.observe(at.full.numpy())

    def size(obs: np.ndarray) -> float:
        return float(np.sqrt(np.square((obs - real) / unit).mean(1)).mean())

    return size(said), size(test.obs[starts])


def _same_frame(world: wmgym.WorldModel, test: Transitions) -> bool:
    """Whether wmgym draws a state as the env does that is in it."""
    env: Any = gym.make(world.task.env_id, render_mode="rgb_array")
    env.reset(seed=0)
    core, row = world.task.core, len(test) // 2
    assert core.to_mujoco is not None
    env.unwrapped.set_state(*core.to_mujoco(test.core[row].astype(np.float64)))
    renderer = Renderer(world.task)
    same = np.array_equal(env.render(), renderer.frame(test.core[row]))
    renderer.close()
    env.close()
    return same


def _controllers(env: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(CONTROLLERS.read_text())[env]
    return found


def _controller(stored: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    if "gains" in stored:
        table = np.array(stored["gains"])
        return lambda obs: np.tanh(obs @ table[:-1] + table[-1])
    *hidden, (weight, bias) = [(np.array(each), np.array(shift)) for each, shift in stored["layers"]]

    def act(obs: np.ndarray) -> np.ndarray:
        for inner, shift in hidden:
            obs = np.maximum(obs @ inner + shift, 0)
        return np.asarray(np.tanh(obs @ weight + bias))

    return act


def _swing_up(*, balance: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Pumps energy into the pole of cartpole-swingup, and balances it near the top if asked to."""

    def act(obs: np.ndarray) -> np.ndarray:
        place, cos, sin, speed, rate = obs.T
        missing = 9.81 * 0.5 * (1 - cos) - 0.333 * 0.5 * rate**2  # joules a kilogram, to the top at rest
        force = -np.sign(rate * cos) * missing - 0.3 * (place + speed)
        upright = 0.3 * place + 0.6 * speed + 4 * np.arctan2(sin, cos) + rate
        return np.clip(np.where((cos > 0.9) & balance, upright, force), -1, 1)[:, None]

    return act
