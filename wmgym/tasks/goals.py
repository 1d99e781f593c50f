"""Dict observations, and the reward of envs with goals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim
from gymnasium.wrappers import FlattenObservation

from wmgym.tasks.actions import ActionSpace, refuse_space
from wmgym.tasks.layout import Array

GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")

_ENCODED = "fit to the env's state, or to features of an encoder through a gymnasium.ObservationWrapper"


def boxes_alone(space: spaces.Space[Any]) -> bool:
    """Whether a Dict holds nothing but Boxes, be it in further Dicts."""
    if isinstance(space, spaces.Dict):
        return all(boxes_alone(part) for part in space.spaces.values())
    return isinstance(space, spaces.Box)


def flatten(space: spaces.Space[Any], obs: Any) -> np.ndarray:
    """Observations of a Dict of Boxes, whose arrays have leading axes: ``(..., obs_dim)``, parts in order.

    Those that are flat already come back as they are.
    """
    if isinstance(space, spaces.Dict):
        if isinstance(obs, np.ndarray):
            return obs
        if not isinstance(obs, Mapping) or not {*space.spaces} <= {*obs}:
            raise ValueError(f"an observation is a dict of {', '.join(map(str, space.spaces))}")
        parts = [flatten(part, obs[key]) for key, part in space.spaces.items()]
        return np.concatenate(parts, -1)
    array = np.asarray(obs)
    leading = array.shape[: array.ndim - len(space.shape or ())]
    return array.reshape(*leading, -1)


def unflatten(space: spaces.Space[Any], flat: np.ndarray) -> Any:
    """The way back: copies, of the dtypes of the space."""
    if isinstance(space, spaces.Dict):
        found, at = {}, 0
        for key, part in space.spaces.items():
            size = flatdim(part)
            found[key] = unflatten(part, flat[..., at : at + size])
            at += size
        return found
    return np.array(flat, space.dtype).reshape((*flat.shape[:-1], *(space.shape or ())))


class GoalReward:
    """The reward of an env with goals, by its own ``compute_reward``; as a ``reward_fn`` of ``make_task``.

    The env is made when first asked, and takes no step.
    """

    def __init__(self, make: Callable[[], gym.Env[Any, Any]], space: spaces.Dict) -> None:
        """Of a function that makes the env, and its Dict space."""
        self._make, self._space = make, space
        self._env: Any = None

    def __call__(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """Rewards ``(batch,)`` of flat observations, without a gradient."""
        known = unflatten(self._space, next_obs.detach().cpu().numpy())
        return next_obs.new_tensor(self.compute(known["achieved_goal"], known["desired_goal"])).double()

    def compute(self, achieved: np.ndarray, desired: np.ndarray, info: Any = None) -> np.ndarray:
        """Rewards ``(batch,)`` float64 of goals ``(batch, goal_dim)``."""
        if self._env is None:
            self._env = self._make().unwrapped
        count = len(achieved)
        infos = np.array([{} for _ in range(count)]) if info is None else info
        paid = np.asarray(self._env.compute_reward(achieved, desired, infos), np.float64)
        if paid.shape != (count,):  # it takes one at a time
            each = zip(achieved, desired, infos, strict=True)
            paid = np.array([float(self._env.compute_reward(*one)) for one in each])
        return paid

    def answers(self, env: gym.Env[Any, Any]) -> bool:
        """Whether the env's function takes batches of goals, and needs no infos."""
        self._env = env.unwrapped
        try:
            goals = np.zeros((2, *(self._space["desired_goal"].shape or ())))
            return bool(np.isfinite(self.compute(goals, goals)).all())
        except Exception:  # of foreign code
            return False
        finally:
            self._env = None

    def __getstate__(self) -> dict[str, Any]:
        """All but the env, which is made again where it is needed."""
        return {**self.__dict__, "_env": None}


def goal_reward(env: gym.Env[Any, Any], make: Callable[[], gym.Env[Any, Any]]) -> GoalReward | None:
    """The reward of an env with goals; None of any other env, or where ``compute_reward`` needs infos."""
    space = env.observation_space
    goals = isinstance(space, spaces.Dict) and set(space.spaces) >= set(GOAL_KEYS) and boxes_alone(space)
    if not goals or not hasattr(env.unwrapped, "compute_reward"):
        return None
    assert isinstance(space, spaces.Dict)
    reward = GoalReward(make, space)
    return reward if reward.answers(env) else None


def refuse_images(space: spaces.Space[Any], instead: str = _ENCODED) -> None:
    """Refuse observations that are pictures, and say what to do ``instead``.

    Raises:
        ValueError: names the way out.
    """
    parts: Mapping[str, Any] = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for key, part in parts.items():
        if isinstance(part, spaces.Dict):
            refuse_images(part, instead)
        shape = part.shape or ()
        pixels = isinstance(part, spaces.Box) and bool((part.low >= 0).all() and (part.high <= 255).all())
        wide = sum(side >= 8 for side in shape) >= 2
        if pixels and wide and (len(shape) >= 3 or part.dtype == np.uint8):
            what = f"observation {key!r} is" if key else "observations are"
            raise ValueError(f"{what} an image of shape {shape}, and there is no pixel world yet; {instead}")


def supported_spaces(env: gym.Env[Any, Any]) -> tuple[spaces.Box, ActionSpace]:
    """The spaces of a flat env; ValueError where they are not supported."""
    observation_space, action_space = env.observation_space, env.action_space
    if not isinstance(observation_space, spaces.Box):
        raise ValueError(
            "observation space must be Box or a Dict of Boxes, got "
            f"{' '.join(str(observation_space).split())}; show its state as numbers, such as a row and a "
            "column, through a gymnasium.ObservationWrapper"
        )
    if not flatdim(observation_space):
        raise ValueError(
            "the observation has no numbers, and a world needs a state; show what the reward depends on"
        )
    return observation_space, refuse_space(action_space)


def flat_env(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """The env with its Dict observations in a row."""
    return FlattenObservation(env) if isinstance(env.observation_space, spaces.Dict) else env
