"""ImaginedVectorEnv as the VecEnv that Stable-Baselines3 trains on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from wmgym.agents.config import TrainConfig
from wmgym.envs.conventions import named
from wmgym.envs.vector_env import ImaginedVectorEnv, Source
from wmgym.io.deprecation import renamed
from wmgym.tasks import actions as action_spaces


@renamed(halt="divergence_is_terminal")
class ImaginedVecEnv(VecEnv):
    """SB3 ``VecEnv`` over imagined episodes.

    An ending step's info holds ``terminal_observation``, ``TimeLimit.truncated`` (true for time limits and
    for ``diverged``, so that SB3 keeps bootstrapping) and ``episode`` with its return ``r``, length ``l`` and
    time ``t``. Every info holds ``diverged`` and, once the world is calibrated, ``error_bound``
    ``(core_dim,)``, whose dimensions ``world.core_names`` names; with ``trust`` also ``distrust`` and
    ``novelty``. Discrete actions count from 0 here, wherever the env's own begin; ``score`` and ``collect``
    count those of an agent that was trained so as the env does. Attributes of the vector env are read with
    ``get_attr``, for instance ``world``.
    """

    def __init__(
        self, world: Source, num_envs: int = 64, *, divergence_is_terminal: bool = False, **kwargs: Any
    ) -> None:
        """Make the env; further keywords as for ``ImaginedVectorEnv``.

        Args:
            world: a world, the directory of a saved one, or the id of an env whose world ships.
            num_envs: episodes side by side.
            divergence_is_terminal: report ``diverged`` ends as terminal (``TimeLimit.truncated`` false), so
                that SB3 gives what lies beyond the data no value: the HALT state of MOReL (Kidambi et al.
                2020, arXiv:2005.05951). For tasks that pay for staying alive.
            kwargs: keywords of ``ImaginedVectorEnv`` but ``autoreset_mode``.

        Raises:
            ValueError: an ``autoreset_mode``, or as for ``ImaginedVectorEnv``.
        """
        if "autoreset_mode" in kwargs:
            raise ValueError("an SB3 VecEnv always resets in the same step; leave autoreset_mode out")
        self._divergence_is_terminal = divergence_is_terminal
        self.venv = ImaginedVectorEnv(world, num_envs, **kwargs)
        space = self.venv.world.task.action_space
        self._first = action_spaces.first(space)
        super().__init__(num_envs, self.venv.single_observation_space, action_spaces.from_zero(space))
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._began = time.perf_counter()

    def __repr__(self) -> str:
        return repr(self.venv).replace("VectorEnv", "VecEnv")

    def reset(self) -> VecEnvObs:
        """Start all episodes; a ``seed()`` given before decides them."""
        options = next((option for option in self._options if option), None)
        obs, infos = self.venv.reset(seed=self._seeds[0], options=options)
        self.reset_infos = self._rows(infos)
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = 0
        self._lengths[:] = 0
        first: VecEnvObs = obs
        return first

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions until ``step_wait``."""
        self._actions = actions + self._first if np.any(self._first) else actions

    def step_wait(self) -> VecEnvStepReturn:
        """Advance every episode by one step."""
        obs, reward, terminated, truncated, infos = self.venv.step(self._actions)
        dones = terminated | truncated
        rows = self._rows(infos)
        self._returns += reward
        self._lengths += 1
        diverged = infos["final_info"]["diverged"] if dones.any() else dones
        for i in np.flatnonzero(dones):
            rows[i] = {
                **{key: value[i] for key, value in infos["final_info"].items() if not key.startswith("_")},
                "terminal_observation": infos["final_obs"][i],
                "TimeLimit.truncated": bool(
                    truncated[i] and not (self._divergence_is_terminal and diverged[i])
                ),
                "episode": {
                    "r": float(self._returns[i]),
                    "l": int(self._lengths[i]),
                    "t": round(time.perf_counter() - self._began, 6),
                },
            }
        self._returns[dones] = 0
        self._lengths[dones] = 0
        return obs, reward.astype(np.float32), dones, rows

    def _rows(self, infos: dict[str, Any]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{"diverged": diverged} for diverged in infos["diverged"].tolist()]
        for key, values in named(infos):
            if key != "diverged" and not key.startswith("final_"):
                for row, value in zip(rows, values, strict=True):
                    row[key] = value
        return rows

    def close(self) -> None:
        """Release the env."""
        self.venv.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One picture an env, for SB3's recorders; needs ``render_mode="rgb_array"``."""
        return self.venv.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the vector env, once for each env asked for."""
        return [getattr(self.venv, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the vector env, which all envs share."""
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise ValueError("imagined envs share their attributes; set them for all envs, indices=None")
        setattr(self.venv, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the vector env once; its answer is repeated for each env asked for."""
        answer = getattr(self.venv, method_name)(*method_args, **method_kwargs)
        return [answer] * len(list(self._get_indices(indices)))

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """No wrapper is ever around a single imagined env."""
        return [False] * len(list(self._get_indices(indices)))


def env_of(world: Source, config: TrainConfig, starts: np.ndarray | None = None) -> ImaginedVecEnv:
    """The imagined envs in which a training takes its steps."""
    return ImaginedVecEnv(
        world,
        config.num_envs,
        max_episode_steps=config.max_episode_steps,
        starts=starts,
        propagation=config.propagation,
        divergence_is_terminal=config.divergence_is_terminal,
        trust=config.trust,
    )
