"""A linear-Gaussian env whose exact model is known: the oracle of the tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from wmgym.data.logs import assembled
from wmgym.data.transitions import Transitions
from wmgym.io.provenance import Provenance
from wmgym.models.dynamics import PROPAGATIONS, Prediction, Propagation
from wmgym.models.error_bounds import Calibration
from wmgym.models.world import WorldModel
from wmgym.tasks.task import Task, make_task

ENV_ID = "toy/LinearGaussian-v0"
A = np.array([[0.9, 0.2, 0.0], [-0.2, 0.9, 0.1], [0.0, 0.0, 0.8]])
B = np.array([[0.1, 0.0], [0.0, 0.2], [0.3, -0.1]])
SIGMA = 0.1
LIMIT = 60


class LinearGaussianEnv(gym.Env[np.ndarray, np.ndarray]):
    """x' = A x + B a + sigma * noise; paid -|x'|^2; never ends."""

    def __init__(self, sigma: float = SIGMA) -> None:
        self.sigma = sigma
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=3)
        return self.x.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.x = A @ self.x + B @ np.clip(action, -1, 1) + self.sigma * self.np_random.normal(size=3)
        return self.x.copy(), -float((self.x**2).sum()), False, False, {}


if ENV_ID not in gym.registry:
    gym.register(ENV_ID, entry_point=LinearGaussianEnv, max_episode_steps=LIMIT)


def paid(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return -(next_obs**2).sum(-1)


def never(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return next_obs[..., 0] != next_obs[..., 0]


def task(sigma: float = SIGMA, **heads: Any) -> Task:
    """The toy described through a factory; heads default to the true formulas."""
    heads = {"reward_fn": paid, "terminated_fn": never} | heads
    return make_task(lambda: gym.make(ENV_ID, sigma=sigma), **heads)


@dataclass
class LinearGaussian:
    """The toy's true dynamics; ``factor`` scales its stated noise, ``offset`` tells members apart."""

    sigma: float = SIGMA
    factor: float = 1.0
    offset: tuple[float, ...] = (0.0,) * 4
    target_dim: int = 3

    @property
    def num_members(self) -> int:
        return len(self.offset)

    def predict(self, core: Tensor, action: Tensor) -> Prediction:
        members = torch.arange(self.num_members)[:, None].expand(-1, len(core))
        return self._predict(core, action, members)

    def predict_assigned(self, core: Tensor, action: Tensor, member: Tensor) -> Prediction:
        return self._predict(core, action, member)

    def _predict(self, core: Tensor, action: Tensor, member: Tensor) -> Prediction:
        change = core @ torch.tensor(A - np.eye(3), dtype=core.dtype).T
        change = change + action @ torch.tensor(B, dtype=action.dtype).T
        mean = change + torch.tensor(self.offset, dtype=core.dtype)[member][..., None]
        return Prediction(mean, torch.full_like(mean, self.sigma * self.factor), None)


@dataclass
class Stub:
    """Dynamics that always say the same: ``target`` of a row, its ``std``, its termination ``logit``."""

    target: list[float]
    std: float = 0.0
    logit: float | None = None
    num_members: int = 2

    @property
    def target_dim(self) -> int:
        return len(self.target)

    def predict(self, core: Tensor, action: Tensor) -> Prediction:
        return self._predict(self.num_members, len(core))

    def predict_assigned(self, core: Tensor, action: Tensor, member: Tensor) -> Prediction:
        self.action = action
        return self._predict(len(core))

    def _predict(self, *shape: int) -> Prediction:
        mean = torch.tensor(self.target).expand(*shape, -1).clone()
        logit = None if self.logit is None else torch.full(shape, self.logit)
        return Prediction(mean, torch.full_like(mean, self.std), logit)


def world(
    dynamics: Any = None,
    described: Task | None = None,
    *,
    low: float = -np.inf,
    high: float = np.inf,
    seen: tuple[str, ...] = (),
) -> WorldModel:
    """A world around any dynamics; its bank holds ten starts."""
    described = described or task()
    limits = described.core.dim + described.core.displacement_dim
    starts = np.random.default_rng(7).normal(size=(10, described.core.state_dim)).astype(np.float32)
    bounds = (np.full(limits, side, np.float32) for side in (low, high))
    return WorldModel(
        described, dynamics or LinearGaussian(), starts, *bounds, Provenance(seen, 0, "real", {})
    )


def blank_calibration(dim: int) -> Calibration:
    """A calibration that states nothing."""
    none: dict[Propagation, np.ndarray] = {
        propagation: np.zeros((0, dim), np.float32) for propagation in PROPAGATIONS
    }
    steps: dict[Propagation, np.ndarray] = {
        propagation: np.zeros(0, np.float32) for propagation in PROPAGATIONS
    }
    one = np.ones(dim, np.float32)
    return Calibration(
        level=0.9, std_scale=one, half_width=none, per_disagreement=none, power=steps, tube=steps,
        distrust=steps, windows=np.zeros(0, np.int64), episodes=1, coverage=none, data_std=one,
        center=0 * one, reach=one,
        fingerprints=(),
    )  # fmt: skip


def uncalibrated(model: WorldModel) -> WorldModel:
    return replace(model, calibration=None)


def episodes(
    count: int, seed: int, *, sigma: float = SIGMA, steps: int = LIMIT, described: Task | None = None
) -> Transitions:
    """Real episodes of the toy under uniform random actions, computed side by side in NumPy."""
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (count, steps, 2)).astype(np.float32)
    path = np.empty((count, steps + 1, 3))
    path[:, 0] = rng.normal(size=(count, 3))
    for t in range(steps):
        path[:, t + 1] = path[:, t] @ A.T + action[:, t] @ B.T + sigma * rng.normal(size=(count, 3))
    obs, next_obs = path[:, :-1].reshape(-1, 3), path[:, 1:].reshape(-1, 3)
    return assembled(
        described or task(sigma),
        obs=obs,
        action=action.reshape(-1, 2),
        next_obs=next_obs,
        episode=np.repeat(np.arange(count), steps),
        terminated=np.zeros(count * steps, bool),
        reward=-(next_obs**2).sum(1),
    )


def open_loop_std(h: int, sigma: float = SIGMA) -> np.ndarray:
    """Closed form: standard deviation ``(3,)`` of the state after ``h`` steps of known actions."""
    powers = [np.linalg.matrix_power(A, k) for k in range(h)]
    return sigma * np.sqrt(sum((p**2).sum(1) for p in powers))
