"""Train for a moment where nothing is at stake, so that settings that SB3 meets late are known early."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from numbers import Integral
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from wmgym.agents.config import TrainConfig
from wmgym.agents.sb3.train import check_agent, new_agent, usual_algorithm
from wmgym.agents.sb3.vec_env import env_of
from wmgym.envs.conventions import row_of
from wmgym.models.world import WorldModel
from wmgym.tasks.actions import from_zero
from wmgym.tasks.task import Task

_SHORT = {"n_steps": 2, "n_epochs": 1, "gradient_steps": 1}  # one update, of any size, tells
_BUFFER = 1_000
_SHORT_ONLINE = {
    "imagination_kwargs": {"training_steps": 2, "rollout_steps": 2, "rollout_batch": 8},
    "world_kwargs": {"first_updates": 1, "updates": 1},
}
_STEPS, _EPISODE = 6, 2


def try_in_world(world: WorldModel, config: TrainConfig) -> None:
    """Make the first updates of a training in a world, which takes less than a second.

    Raises:
        ValueError: the world or SB3 refuses the settings, or the agent cannot be exported, in one line.
    """
    check_agent(env_of(world, config), config)
    if config.algorithm == "DynaSAC":
        brief = _brief_online(config)
        with (
            _refusing("DynaSAC"),
            closing(env_of(world, replace(config, max_episode_steps=_EPISODE))) as short,
        ):
            _learn_online(short, brief)
    else:
        try_training(world.task, config)


def try_training(task: Task, config: TrainConfig) -> None:
    """Make the first updates of a training on an env that stands still.

    Raises:
        ValueError: SB3 refuses the settings; says in one line what it says.
    """
    given = dict(config.hyperparameters)
    _check_whole(given, "n_steps", "batch_size", "n_epochs")
    _shorten_frequency(given)
    if (config.algorithm or usual_algorithm(task.action_space)) in ("PPO", "A2C"):
        given["n_steps"] = 2  # the default of thousands would take minutes
    _shorten(given, _SHORT | {"buffer_size": max(_BUFFER, config.num_envs)})
    with _refusing(config.algorithm or "SB3"):
        model = new_agent(_Still(task, config.num_envs), replace(config, hyperparameters=given))
        if isinstance(model, OffPolicyAlgorithm):
            if model.learning_starts > 0:
                model.learning_starts = 0
            if model.gradient_steps < 0:  # as many as steps
                model.gradient_steps = 1
        model.learn(config.num_envs, log_interval=None)  # type: ignore[arg-type]


def try_online(task: Task, config: TrainConfig, as_vec_env: Callable[[gym.Env[Any, Any]], VecEnv]) -> None:
    """Let DynaSAC make its first updates in the env as its first reset leaves it; no step of it is taken.

    Args:
        task: the real env.
        config: algorithm and hyperparameters.
        as_vec_env: puts around an env what training does.

    Raises:
        ValueError: DynaSAC refuses the settings, in one line.
    """
    brief = _brief_online(config)
    with _refusing("DynaSAC"), closing(as_vec_env(_Standing(task.make()))) as env:
        _learn_online(env, brief)


def _brief_online(config: TrainConfig) -> TrainConfig:
    """Settings of DynaSAC with which it comes to its first updates at once."""
    given: dict[str, Any] = {"learning_starts": 2, "train_freq": 1, "gradient_steps": 1}
    given |= {name: value for name, value in config.hyperparameters.items() if value is not None}
    _check_whole(given, "batch_size")
    _shorten_frequency(given)
    buffer = max(_BUFFER, 2 * config.num_envs)
    _shorten(given, {"buffer_size": buffer, "learning_starts": 2, "gradient_steps": 1})
    if given["gradient_steps"] == -1:  # as many as steps
        given["gradient_steps"] = 1
    for name, limits in _SHORT_ONLINE.items():
        if isinstance(inner := given.get(name) or {}, Mapping):
            _shorten(own := {**limits, **inner}, limits)
            given[name] = own
    return replace(config, hyperparameters=given)


def _learn_online(env: VecEnv, config: TrainConfig) -> None:
    model: Any = new_agent(env, config)
    model.learn(max(_STEPS, 2 * env.num_envs), log_interval=None)
    if model.world is None:
        raise ValueError("there would be no update at all")


def _check_whole(given: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not _is_whole(value := given.get(name, 1)) or value < 1:
            raise ValueError(f"{name} has to be a whole number above 0, got {value!r}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _shorten(given: dict[str, Any], limits: Mapping[str, int]) -> None:
    for name, most in limits.items():
        value: Any = given.get(name)
        if _is_whole(value):
            given[name] = min(value, most)


def _shorten_frequency(given: dict[str, Any]) -> None:
    """Let updates follow one step or episode; a frequency of none would be waited for without end."""
    frequency = given.get("train_freq")
    if frequency is None:
        return
    parts = list(frequency) if isinstance(frequency, (list, tuple)) and frequency else [frequency]
    _check_whole({"train_freq": parts[0]}, "train_freq")
    given["train_freq"] = (1, *parts[1:]) if isinstance(frequency, (list, tuple)) else 1


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Whatever goes wrong in a trial, in one line."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # training itself will repeat them
        try:
            yield
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(f"{name} cannot train with these: {reason[0]}") from error


class _Standing(gym.Wrapper[Any, Any, Any, Any]):
    """A real env in which nothing moves after a reset."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self._obs, info = self.env.reset(**kwargs)
        self._left = _EPISODE
        return self._obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._left -= 1
        return self._obs, 0.0, False, self._left == 0, {}


class _Still(VecEnv):
    """Shows zeros, pays nothing, and ends every episode at once."""

    def __init__(self, task: Task, num_envs: int) -> None:
        self.metadata: dict[str, Any] = {}
        super().__init__(num_envs, task.env_space, from_zero(task.action_space))
        self._task = task

    def reset(self) -> VecEnvObs:
        space = self._task.observation_space
        obs: VecEnvObs = self._task.as_dict(np.zeros((self.num_envs, *space.shape), space.dtype))
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        pass

    def step_wait(self) -> VecEnvStepReturn:
        obs: Any = self.reset()
        infos = [{"terminal_observation": row_of(obs, i)} for i in range(self.num_envs)]
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
