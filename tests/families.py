"""Small envs of other families than MuJoCo's: wrapped headings, flags, goals, parts of actions, bonuses."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Rover(gym.Env[np.ndarray, np.ndarray]):
    """A heading wrapped to [-pi, pi], its rate, a copy of it, a flag (turning left), and a constant load."""

    def __init__(self, steps: int = 40) -> None:
        self.observation_space = spaces.Box(-4.0, 4.0, (5,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.steps = steps

    def _obs(self) -> np.ndarray:
        heading = (self.heading + np.pi) % (2 * np.pi) - np.pi
        return np.float32([heading, self.rate, self.rate, self.rate > 0, self.load])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.heading, self.load = self.np_random.uniform(-3, 3), self.np_random.uniform(1, 2)
        self.rate, self.at = self.np_random.uniform(-1, 1), 0
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.rate = float(np.clip(self.rate + 0.1 * action[0], -2, 2))
        self.heading += 0.2 * self.rate
        self.at += 1
        return self._obs(), 0.0, False, self.at >= self.steps, {}


class Reach(gym.Env[Any, np.ndarray]):
    """A point that is to reach a goal in a plane: Dict observations, and a reward of -1 or 0."""

    def __init__(self, steps: int = 20) -> None:
        goal = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.observation_space = spaces.Dict(
            observation=spaces.Box(-np.inf, np.inf, (3,), np.float64), achieved_goal=goal, desired_goal=goal
        )
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.steps = steps

    def _obs(self) -> dict[str, np.ndarray]:
        return {
            "observation": np.append(self.place, self.at / self.steps),
            "achieved_goal": self.place.copy(),
            "desired_goal": self.goal.copy(),
        }

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.goal = self.np_random.uniform(-1, 1, (2, 2))
        self.at = 0
        return self._obs(), {}

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> Any:
        return -(np.linalg.norm(achieved - desired, axis=-1) > 0.2).astype(np.float64)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = self.place + 0.2 * np.asarray(action, np.float64)
        self.at += 1
        obs = self._obs()
        reward = self.compute_reward(obs["achieved_goal"], obs["desired_goal"], {})
        return obs, float(reward), False, self.at >= self.steps, {}


class Line(gym.Env[np.ndarray, Any]):
    """Walk along a line: what ``pays`` says of the place, and an end at 1, where ``bonus`` is paid."""

    def __init__(self, action_space: Any = None, bonus: float = 100.0, sparse: bool = False) -> None:
        self.observation_space = spaces.Box(-5.0, 5.0, (1,), np.float32)
        self.action_space = action_space or spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.bonus, self.sparse = bonus, sparse

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.at = self.np_random.uniform(-1, 0.5), 0
        return np.float32([self.x]), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        push = float(np.sum(np.asarray(action, np.float64) - self._middle()))
        self.x = float(np.clip(self.x + 0.2 * push, -3, 3))
        self.at += 1
        ended = self.x >= 1
        pays = float(self.x > 0) if self.sparse else -0.1 * push**2
        return np.float32([self.x]), pays + self.bonus * ended, ended, self.at >= 30, {}

    def _middle(self) -> Any:
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            return space.start + (space.n - 1) / 2
        if isinstance(space, spaces.MultiDiscrete):
            return np.asarray(space.start) + (space.nvec - 1) / 2
        return 0.5 if isinstance(space, spaces.MultiBinary) else 0.0
