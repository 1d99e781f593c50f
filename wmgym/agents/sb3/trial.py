"""Train for a moment where nothing is at stake, so that settings that SB3 meets late are known early."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from wmgym.agents.config import TrainConfig
from wmgym.agents.sb3.train import new_agent
from wmgym.tasks.task import Task

_SHORT = {"buffer_size": 1_000, "n_steps": 2, "gradient_steps": 1}  # one update, of any size, tells


def try_training(task: Task, config: TrainConfig) -> None:
    """Make the first updates of a training on an env that stands still.

    Raises:
        ValueError: SB3 refuses the settings; says in one line what it says.
    """
    given = dict(config.hyperparameters)
    for name in ("n_steps", "batch_size"):
        if not isinstance(value := given.get(name, 1), int) or value < 1:
            raise ValueError(f"{name} has to be a whole number above 0, got {value!r}")
    discrete = isinstance(task.action_space, spaces.Discrete)
    if (config.algorithm or ("PPO" if discrete else "SAC")) in ("PPO", "A2C"):
        given["n_steps"] = 2  # the default of thousands would take minutes
    for name, short in _SHORT.items():
        if isinstance(value := given.get(name), int):
            given[name] = min(value, short)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # training itself will repeat them
        try:
            model = new_agent(_Still(task, config.num_envs), replace(config, hyperparameters=given))
            if isinstance(model, OffPolicyAlgorithm) and model.learning_starts > 0:
                model.learning_starts = 0
            model.learn(config.num_envs, log_interval=None)  # type: ignore[arg-type]
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(f"{config.algorithm or 'SB3'} cannot train with these: {reason[0]}") from error


class _Still(VecEnv):
    """Shows zeros, pays nothing, and ends every episode at once."""

    def __init__(self, task: Task, num_envs: int) -> None:
        self.metadata: dict[str, Any] = {}
        super().__init__(num_envs, task.observation_space, task.action_space)

    def reset(self) -> VecEnvObs:
        return np.zeros((self.num_envs, *self.observation_space.shape), self.observation_space.dtype)  # type: ignore[misc]

    def step_async(self, actions: np.ndarray) -> None:
        pass

    def step_wait(self) -> VecEnvStepReturn:
        obs: Any = self.reset()
        infos: list[dict[str, Any]] = [{"terminal_observation": row} for row in obs]
        return obs, np.zeros(self.num_envs, np.float32), np.ones(self.num_envs, bool), infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        pass

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        return [None] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> list[bool]:
        return [False] * self.num_envs
