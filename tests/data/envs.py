"""Envs that go wrong as they are told to, and policies for Hopper."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from wmgym.data.transitions import Transitions

COLUMNS = (
    "obs", "action", "reward", "next_obs", "terminated", "truncated", "core", "next_core", "unobserved",
    "episode",
)  # fmt: skip
BOX = spaces.Box(-1.0, 1.0, (2,))


class CountingEnv(gym.Env[Any, Any]):
    """Observes the step count in one buffer that it overwrites; goes wrong as it is told to."""

    def __init__(
        self,
        action_space: spaces.Space[Any] = BOX,
        shape: tuple[int, ...] = (1,),
        length: int | None = None,
        faults: dict[int, Any] | None = None,
        rewards: dict[int, float] | None = None,
    ) -> None:
        self.observation_space = spaces.Box(0.0, 100.0, shape, np.float32)
        self.action_space = action_space
        self.length, self.faults, self.rewards = length, faults or {}, rewards or {}
        self.buffer = np.zeros(shape, np.float32)
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action} is not in {self.action_space}"
        self.count += 1
        self.actions.append(action)
        return self._look(), self.rewards.get(self.count, 1.0), self.count == self.length, False, {}

    def _look(self) -> np.ndarray:
        self.buffer[...] = self.faults.get(self.count, self.count)
        return self.buffer


class Kick(gym.Wrapper[Any, Any, Any, Any]):
    """Writes an absurd value into the simulator before its fifth step."""

    def __init__(self, env: gym.Env[Any, Any], field: str, value: float) -> None:
        super().__init__(env)
        self.field, self.value, self.count = field, value, 0

    def step(self, action: Any) -> Any:
        self.count += 1
        if self.count == 5:
            getattr(self.unwrapped.data, self.field)[0] = self.value  # type: ignore[attr-defined]
        return self.env.step(action)


def linear(obs: np.ndarray) -> np.ndarray:
    """A Hopper policy that is a matrix product, so that its last bits depend on the batch."""
    weight = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    action: np.ndarray = np.tanh(obs.astype(np.float32) @ weight)
    return action


def still(obs: np.ndarray) -> np.ndarray:
    return np.zeros((len(obs), 3), np.float32)


def assert_equal(one: Transitions, other: Transitions) -> None:
    for name in COLUMNS:
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name
    assert (one.episode_seed, one.episode_policy) == (other.episode_seed, other.episode_policy)
