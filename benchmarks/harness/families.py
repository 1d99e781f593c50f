"""Other families of envs, with default settings: goals, classic control, Box2D; part of ``inputs``.

8,000 steps, of uniform random actions and of one controller by turns of an episode; actions of a Box with
noise of 0.2. The controllers are the functions below: a linear one for CartPole, torque or force along the
velocity for Acrobot and MountainCarContinuous, energy and then a spring for Pendulum, the descent that
Gymnasium's own heuristic flies for LunarLander, a spring to the goal for PointMaze and FetchReach, and for
FetchPush a gripper that goes behind the block and pushes. The gap is the controller's imagined minus real
mean return over 20 episodes, in shares of how far it is above random actions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import gymnasium as gym
import gymnasium_robotics
import numpy as np
from gymnasium import spaces

import wmgym
from benchmarks.harness.results import Row, target
from benchmarks.harness.worlds import Setup

STEPS, EPISODES = 8_000, 20
MORE = {"FetchPush-v4": 100}  # which mostly succeeds at once or not at all
Controller = Callable[[np.ndarray], np.ndarray]


def cart_pole(obs: np.ndarray) -> np.ndarray:
    return (obs @ [0.05, 0.1, 1.0, 0.5] > 0).astype(np.int64)


def acrobot(obs: np.ndarray) -> np.ndarray:
    return np.where(obs[:, 5] > 0, 2, 0)


def mountain_car(obs: np.ndarray) -> np.ndarray:
    return np.where(obs[:, 1] >= 0, 1.0, -1.0)[:, None].astype(np.float32)


def pendulum(obs: np.ndarray) -> np.ndarray:
    angle, speed = np.arctan2(obs[:, 1], obs[:, 0]), obs[:, 2]
    lacking = np.clip(5 * (speed**2 / 6 + 5 * (obs[:, 0] - 1)), -2, 2)
    torque = np.where(obs[:, 0] > 0.85, -(10 * angle + 2.5 * speed), -np.sign(speed + 1e-9) * lacking)
    return np.clip(torque, -2, 2)[:, None].astype(np.float32)


def lander(obs: np.ndarray) -> np.ndarray:
    x, y, vx, vy, angle, turn, left, right = obs.T
    todo = 0.5 * (np.clip(0.5 * x + vx, -0.4, 0.4) - angle) - turn
    hover = 0.5 * (0.55 * np.abs(x) - y) - 0.5 * vy
    landed = (left > 0) | (right > 0)
    todo, hover = np.where(landed, 0.0, todo), np.where(landed, -0.5 * vy, hover)
    side = np.where(todo < -0.05, 3, np.where(todo > 0.05, 1, 0))
    return np.where((hover > np.abs(todo)) & (hover > 0.05), 2, side)


def maze(obs: np.ndarray) -> np.ndarray:
    place, goal, speed = obs[:, 0:2], obs[:, 2:4], obs[:, 6:8]
    return np.clip(4 * (goal - place) - speed, -1, 1).astype(np.float32)


def _moved(move: np.ndarray) -> np.ndarray:
    """Actions of Fetch's gripper, which stays as it is."""
    return np.concatenate([np.clip(10 * move, -1, 1), np.zeros((len(move), 1))], 1).astype(np.float32)


def reach(obs: np.ndarray) -> np.ndarray:
    return _moved(obs[:, 3:6] - obs[:, 0:3])


def push(obs: np.ndarray) -> np.ndarray:
    block, goal, grip = obs[:, 0:3], obs[:, 3:6], obs[:, 6:9]
    way = (goal - block) * [1, 1, 0]
    left = np.linalg.norm(way, axis=1, keepdims=True)
    way = way / np.maximum(left, 1e-6)
    behind, apart = block - 0.07 * way, grip - block
    along = (apart * way).sum(1, keepdims=True)
    side = np.linalg.norm((apart - along * way)[:, :2], axis=1, keepdims=True)
    ready = (along < -0.02) & (side < 0.025) & (apart[:, 2:] < 0.03)
    above = np.linalg.norm((grip - behind)[:, :2], axis=1, keepdims=True) < 0.03
    ahead = np.concatenate([(goal - 0.035 * way)[:, :2], block[:, 2:]], 1)
    to = np.where(ready, ahead, np.where(above, behind, behind + np.array([0, 0, 0.12])))
    return _moved(np.where(left < 0.02, 0.0, to - grip))


CONTROLLERS: dict[str, Controller] = {
    "PointMaze_Open-v3": maze, "FetchReach-v4": reach, "FetchPush-v4": push, "LunarLander-v3": lander,
    "CartPole-v1": cart_pole, "Acrobot-v1": acrobot, "MountainCarContinuous-v0": mountain_car,
    "Pendulum-v1": pendulum,
}  # fmt: skip
GOALS = ("PointMaze_Open-v3", "FetchReach-v4", "FetchPush-v4")
LARGEST_GAP = {env: 0.10 if env in GOALS else 0.15 if "Lander" in env else 0.05 for env in CONTROLLERS}
ENVS = tuple(CONTROLLERS)


def measure(env: str, seed: int, setup: Setup) -> list[Row]:
    """One row: gap and divergence of the controller, and imagined rewards that the data never show."""
    gym.register_envs(gymnasium_robotics)
    policy, episodes = CONTROLLERS[env], setup.size(MORE.get(env, EPISODES), 2)
    with warnings.catch_warnings(action="ignore"):  # Gymnasium-Robotics' of its versions
        task = wmgym.make_task(env)
        noise = 0.2 if isinstance(task.action_space, spaces.Box) else 0.0
        both = {"random": None, "controller": policy}
        steps = setup.size(STEPS, 2_000)
        data = wmgym.collect(task, both, steps=steps, seed=seed, noise=noise, workers=1)
        world = wmgym.fit(data, wmgym.FitConfig(max_updates=200) if setup.quick else None, seed)
        report = wmgym.score(world, {"controller": policy}, episodes, seed=100 + seed, workers=1)
    score, random = report["controller"], report["random"]
    assert data.reward is not None
    known = np.unique(data.reward)
    odd = None
    if len(known) <= 16:
        venv = wmgym.ImaginedVectorEnv(world, 64)
        venv.reset(seed=seed)
        venv.action_space.seed(seed)
        paid = np.concatenate([venv.step(venv.action_space.sample())[1] for _ in range(100)])
        odd = float((~np.isin(paid, known)).mean())
    return [
        {
            "family": True, "env": env, "seed": seed, "steps": len(data),
            "episodes": episodes, "real": score.real_mean,
            "random": random.real_mean, "imagined": score.imagined_mean,
            "imagined_random": random.imagined_mean, "gap": score.gap, "gap_random": random.gap,
            "diverged": score.diverged, "odd_rewards": odd,
        }
    ]  # fmt: skip


def goals(rows: list[Row]) -> list[Row]:
    """Targets beside the mean over the seeds that were measured."""
    found = []
    for env, most in LARGEST_GAP.items():
        mine = [row for row in rows if row["env"] == env]
        seeds = f"mean of {len(mine)} of 3 seeds" if len(mine) < 3 else "mean of 3 seeds"
        gap = float(np.mean([abs(row["gap"]) for row in mine])) if mine else None
        whole = len(mine) == 3  # what one seed says meets nothing
        met = gap <= most if whole and gap is not None else None
        found.append(target(f"{env}: return gap, {seeds}", f"<= {most:.0%}", gap and round(gap, 3), met))
        if env in GOALS:
            odd = max((row["odd_rewards"] for row in mine), default=None)
            what = f"{env}: imagined rewards outside the real set"
            found.append(target(what, "0", odd, odd == 0 if whole else None))
        else:
            lost = float(np.mean([row["diverged"] for row in mine])) if mine else None
            met = lost <= 0.02 if whole and lost is not None else None
            found.append(target(f"{env}: imagined episodes that diverge", "<= 2%", lost, met))
    return found
