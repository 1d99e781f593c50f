"""What ``DynaSAC`` records of the real env: SB3's replay buffer, and the simulator's state beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import (
    FlattenObservation,
    OrderEnforcing,
    PassiveEnvChecker,
    TimeLimit,
    TransformAction,
    TransformObservation,
    TransformReward,
)
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecEnv

from wmgym.data.transitions import Transitions
from wmgym.io.provenance import library_versions
from wmgym.tasks.ground_truth import Snapshot, restore, snapshot
from wmgym.tasks.real_env import time_limits
from wmgym.tasks.task import Task, make_task

_STATELESS = (
    *(OrderEnforcing, PassiveEnvChecker, TimeLimit),  # the latter's is read beside
    *(TransformAction, TransformObservation, TransformReward),
)

_STATE_IN_MUJOCO = "gymnasium.envs.mujoco."


class Flattened(FlattenObservation):
    """An env with Dict observations, flat.

    Attributes:
        observation_parts: name and shape of each part, in their order; None where a part is no Box.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        assert isinstance(env.observation_space, spaces.Dict)
        parts = list(env.observation_space.spaces.items())
        boxes = all(isinstance(part, spaces.Box) for _, part in parts)
        self.observation_parts = [(name, list(part.shape or ())) for name, part in parts] if boxes else None
        super().__init__(env)


def parts_shown(env: VecEnv) -> Any:
    """``Flattened.observation_parts`` of the envs; None of those that show arrays."""
    return env.get_attr("observation_parts")[0] if env.has_attr("observation_parts") else None


def flat_observation(observation: Mapping[str, Any], parts: Any) -> np.ndarray:
    """What ``Flattened`` makes of one observation ``(obs_dim,)`` or of a batch ``(batch, obs_dim)``.

    Raises:
        ValueError: the agent learned from arrays, or from other parts.
    """
    if parts is None or {name for name, _ in parts} != observation.keys():
        known = "arrays" if parts is None else f"dicts of {', '.join(name for name, _ in parts)}"
        raise ValueError(f"the agent learned from {known}, got a dict of {', '.join(observation)}")
    values = [(np.asarray(observation[name]), len(shape)) for name, shape in parts]
    return np.concatenate([each.reshape((*each.shape[: each.ndim - ndim], -1)) for each, ndim in values], -1)


class StateReader(gym.Wrapper[Any, Any, Any, Any]):
    """Writes the state that a world model learns from into the infos of a real env.

    ``DynaSAC`` puts it around an env by itself. Put it around each env of a ``VecEnv`` of your own, inside
    SB3's ``Monitor``: after an automatic reset nobody can read the state an episode ended in.

    Args:
        env: a Gymnasium env with Box observations.
        task: what is known of the env; None asks ``make_task``, which knows the MuJoCo v5 tasks and leaves
            reward and termination of others to be learned.
    """

    def __init__(self, env: gym.Env[Any, Any], task: Task | None = None) -> None:
        super().__init__(env)
        if task is None:
            plain = env.spec is not None and not env.spec.additional_wrappers
            task = make_task(env if plain else lambda: _KeptOpen(env))
        self.task = replace(task, factory=None)
        self._limit: int | None = None

    def limit_episodes(self, steps: int | None) -> None:
        """Truncate episodes after this many steps; None leaves it to the env."""
        self._limit = steps

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """As the env's."""
        obs, info = self.env.reset(**kwargs)
        self._steps = 0
        self._read(obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the env's; ``info["transition"]`` is core, next core and unobserved quantities of the step."""
        core, unobserved = self._core, self._unobserved
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        self._read(obs)
        info["transition"] = (core, self._core, self.task.unobserved_over(unobserved, self._unobserved))
        info["terminated"] = terminated
        cut = self._limit is not None and self._steps >= self._limit
        return obs, reward, terminated, truncated or (cut and not terminated), info

    def read_episode(self) -> dict[str, Any]:
        """Where the running episode is, in plain values and arrays; "state" is None where nobody can tell."""
        found: dict[str, Any] = {"limit": self._limit, "state": None}
        layer: Any = self.env
        while isinstance(layer, _STATELESS):
            layer = layer.env
        known = self.task.core.from_mujoco is not None or type(layer).__module__.startswith(_STATE_IN_MUJOCO)
        if layer is self.unwrapped and known:
            found |= vars(snapshot(self.env))
            found["elapsed"] = [each._elapsed_steps for each in time_limits(self.env)]
            found["own"] = self._steps, self._core, self._unobserved
            found["random"] = self.unwrapped.np_random.bit_generator.state
        return found

    def resume_episode(self, found: dict[str, Any]) -> None:
        """Go on from where ``read_episode`` was called; of an episode without state, its limit is all."""
        self._limit = found["limit"]
        if found["state"] is not None:
            restore(self.env, Snapshot(found["state"], found["derived"], None, found.get("held")))
            for limit, elapsed in zip(time_limits(self.env), found["elapsed"], strict=True):
                limit._elapsed_steps = elapsed
            self._steps, self._core, self._unobserved = found["own"]
            self.unwrapped.np_random.bit_generator.state = found["random"]

    def _read(self, obs: Any) -> None:
        self._core = self.task.read_core(self.env, obs)
        self._unobserved = self.task.read_unobserved(self.env)


class _KeptOpen(gym.Wrapper[Any, Any, Any, Any]):
    def close(self) -> None:
        """Describing an env does not end it."""


class StateBuffer(ReplayBuffer):
    """SB3's replay buffer, with cores, unobserved quantities and terminations.

    A share of its places is held out for good: no model learns from what is stored there.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        *,
        core_dim: int,
        unobserved_dim: int,
        held_out: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__(buffer_size, observation_space, action_space, device, n_envs, optimize_memory_usage)
        shape = (self.buffer_size, n_envs)
        self.cores = np.zeros((*shape, core_dim), np.float32)
        self.next_cores = np.zeros_like(self.cores)
        self.unobserved = np.zeros((*shape, unobserved_dim))
        self.terminated = np.zeros(shape, bool)
        self.deterministic = np.zeros(shape, bool)
        self._held_out = np.random.default_rng(seed).random(shape) < held_out

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """As SB3's, from infos of a ``StateReader``."""
        for env, info in enumerate(infos):
            at = self.pos, env
            self.cores[at], self.next_cores[at], self.unobserved[at] = info["transition"]
            self.terminated[at] = info["terminated"]
            self.deterministic[at] = info.get("deterministic", False)
        super().add(obs, next_obs, action, reward, done, infos)

    def end_episodes(self) -> None:
        """Say that the next step of every env is of a new episode."""
        if self.size():
            last = (self.pos - 1) % self.buffer_size
            self.timeouts[last] = np.maximum(self.timeouts[last], 1 - self.dones[last])
            self.dones[last] = 1

    def pack(self) -> dict[str, Any]:
        """What is stored, by name; ``unpack`` puts it back."""
        arrays = {name: getattr(self, name)[: self.size()] for name in self._stored()}
        return arrays | {"pos": self.pos, "full": self.full, "held": np.packbits(self._held_out)}

    def unpack(self, packed: dict[str, Any]) -> None:
        """Take what ``pack`` gave, of a buffer of the same size and spaces."""
        count = self._held_out.size
        if packed["held"].size != -(-count // 8):
            raise ValueError(
                f"the file's replay buffer is not of size {self.buffer_size}; leave buffer_size out"
            )
        for name in self._stored():
            getattr(self, name)[: len(packed[name])] = packed[name]
        self.pos, self.full = packed["pos"], packed["full"]
        self._held_out = np.unpackbits(packed["held"], count=count).astype(bool).reshape(self._held_out.shape)

    def _stored(self) -> list[str]:
        shape = (self.buffer_size, self.n_envs)
        arrays = {name: each for name, each in vars(self).items() if isinstance(each, np.ndarray)}
        return [name for name, each in arrays.items() if each.shape[:2] == shape and name != "_held_out"]

    def _rows(self, array: np.ndarray, last: int | None = None) -> np.ndarray:
        """What is stored in ``(buffer_size, n_envs, ...)``, oldest first, one env after the other."""
        count = self.size() if last is None else min(last, self.size())
        places = np.arange(self.pos - count, self.pos) % self.buffer_size
        return array[places].swapaxes(0, 1).reshape(count * self.n_envs, *array.shape[2:])

    @property
    def held_out(self) -> np.ndarray:
        """Of ``transitions()``, those held out: ``(n,)`` bool."""
        return self._rows(self._held_out)

    @property
    def taken(self) -> np.ndarray:
        """When each of ``transitions()`` was: ``(n,)``, 0 for the oldest of every env."""
        return np.tile(np.arange(self.size()), self.n_envs)

    def deterministic_rows(self, last: int | None = None) -> np.ndarray:
        """Of ``transitions(task, last)``, those whose action was without noise: ``(n,)`` bool."""
        return self._rows(self.deterministic, last)

    def transitions(self, task: Task, last: int | None = None) -> Transitions:
        """What is stored as steps of ``task``, env by env; the ``last`` of every env alone if asked."""
        done = self._rows(self.dones, last) > 0
        done.reshape(self.n_envs, -1)[:, -1] = True
        episode = np.concatenate([[0], np.cumsum(done)[:-1]])
        space = task.action_space
        assert isinstance(space, spaces.Box)
        half, middle = (space.high - space.low) / 2, (space.high + space.low) / 2
        actions = self._rows(self.actions, last) * half.reshape(-1) + middle.reshape(-1)
        terminated = self._rows(self.terminated, last)
        return Transitions(
            task=task,
            obs=self._flat(self.observations, last),
            action=actions.astype(np.float32),
            reward=self._rows(self.rewards, last).astype(np.float64),
            next_obs=self._flat(self.next_observations, last),
            terminated=terminated,
            truncated=done & ~terminated,
            core=self._rows(self.cores, last),
            next_core=self._rows(self.next_cores, last),
            unobserved=self._rows(self.unobserved, last),
            episode=episode,
            episode_seed=(-1,) * int(episode[-1] + 1),
            episode_policy=("DynaSAC",) * int(episode[-1] + 1),
            source="real",
            versions=library_versions(),
        )

    def _flat(self, observations: np.ndarray, last: int | None) -> np.ndarray:
        rows = self._rows(observations, last)
        return rows.reshape(len(rows), -1).astype(np.float32)


def returns_ahead(data: Transitions, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose next ``steps`` rewards are known, or all up to a termination, and the sums of these."""
    assert data.reward is not None
    rows = np.arange(len(data))
    last = np.minimum(rows + steps, np.append(data.first[1:], len(data))[data.episode]) - 1
    known = (last - rows == steps - 1) | data.terminated[last]
    paid = np.concatenate([[0.0], np.cumsum(data.reward)])
    return rows[known], (paid[last + 1] - paid[rows])[known]
