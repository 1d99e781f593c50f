"""``DynaSAC`` in an imagined env: its states, the real ones its world keeps, and what that is unsure of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from torch import Tensor

from wmgym.agents.sb3.dyna_sac_data import Flattened, StateReader
from wmgym.models.state import WorldStep
from wmgym.models.world import WorldModel
from wmgym.tasks.actions import refuse_fixed
from wmgym.tasks.task import Task

_FREE = 0.8  # share of real transitions that no penalty would touch
_LEAST = 0.01  # quantile of their rewards that every penalty leaves


def imagined_world(env: Any) -> WorldModel | None:
    """The world of an imagined env or ``VecEnv``; None of a real one."""
    if isinstance(env, VecEnv):
        found = env.get_attr("world")[0] if env.has_attr("world") else None
    else:
        found = getattr(env.unwrapped, "world", None)
    return found if isinstance(found, WorldModel) else None


def readable_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
    """A real or imagined env as ``DynaSAC`` takes it, with the simulator's state in infos.

    Raises:
        ValueError: actions that are not Box, or a ``VecEnv`` without ``StateReader`` or that hides states.
    """
    if not isinstance(env.action_space, spaces.Box):
        raise ValueError(
            f"DynaSAC needs Box actions, got {env.action_space}; for Discrete ones take "
            "wmgym.sb3.train(world, algorithm='PPO') or 'DQN'"
        )
    refuse_fixed(env.action_space, "DynaSAC")
    world = imagined_world(env)
    if world is not None and not isinstance(env, VecEnv):
        env = SAC._wrap_env(env, verbose, monitor_wrapper)
    if isinstance(env, VecEnv):
        if world is None and not all(env.env_is_wrapped(StateReader)):
            raise ValueError(
                "DynaSAC reads the simulator's state; put wmgym.sb3.StateReader around each env of the VecEnv"
            )
        if isinstance(env.observation_space, spaces.Dict):
            raise ValueError("the VecEnv shows dicts; put FlattenObservation inside each StateReader")
        if isinstance(env, VecNormalize):
            raise ValueError("DynaSAC normalises by itself; pass the env without VecNormalize")
        return env if world is None or isinstance(env, ImaginedReader) else ImaginedReader(env, world)
    if isinstance(env.observation_space, spaces.Dict):
        env = Flattened(env)
    return SAC._wrap_env(StateReader(env), verbose, monitor_wrapper)


@torch.no_grad()
def kept_states(world: WorldModel, starts: np.ndarray, generator: torch.Generator) -> Tensor:
    """Real states ``(n, state_dim)``: an env's starts, and the sample of its data that the world keeps."""
    found = torch.tensor(starts)
    if world.support is None:
        return found
    return torch.cat([found, world.init(torch.tensor(world.support.core), generator).full])


class ImaginedReader(VecEnvWrapper):
    """Does for imagined envs what ``StateReader`` does for real ones: states in infos, as observed."""

    def __init__(self, venv: VecEnv, world: WorldModel) -> None:
        super().__init__(venv)
        self.world, self.task = world, world.task

    def reset(self) -> VecEnvObs:
        """As the env's."""
        obs = self.venv.reset()
        self._core = self._read(obs)
        return obs

    def step_wait(self) -> VecEnvStepReturn:
        """As the env's; see ``StateReader.step``. Unobserved quantities are left at 0."""
        obs, rewards, dones, infos = self.venv.step_wait()
        core, unobserved = self._read(obs), np.zeros(self.task.core.unobserved_dim)
        for at, info in enumerate(infos):
            after = self._read(info["terminal_observation"][None])[0] if dones[at] else core[at]
            info["transition"] = self._core[at], after, unobserved
            info["terminated"] = bool(dones[at]) and not info["TimeLimit.truncated"]
        self._core = core
        return obs, rewards, dones, infos

    def _read(self, obs: Any) -> np.ndarray:
        flat = np.asarray(obs, np.float64).reshape(len(obs), -1)
        return np.asarray(self.task.core.from_obs(flat))[:, : self.task.core.dim]

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """As the env's, and those of a ``StateReader`` that have no meaning here."""
        if method_name in ("limit_episodes", "resume_episode"):
            return []
        if method_name == "read_episode":
            return [{"state": None, "limit": None} for _ in range(self.num_envs)]
        return self.venv.env_method(method_name, *args, indices=indices, **kwargs)


def task_of(env: VecEnv) -> Task:
    """What is known of an env, imagined or with a ``StateReader``.

    Raises:
        ValueError: the ``VecEnv`` changes what its envs show.
    """
    task: Task = env.task if isinstance(env, ImaginedReader) else env.get_attr("task")[0]
    if (shown := spaces.flatdim(env.observation_space)) != task.obs_dim:
        raise ValueError(
            f"the VecEnv shows {shown} numbers, its envs {task.obs_dim}; put what stacks or changes "
            "observations inside each StateReader"
        )
    return task


def check_same_kind(old: Task, new: Task) -> None:
    """Check that a world learned for one task can be used for another one.

    Raises:
        ValueError: states of another layout, or a reward or termination that is known of one alone.
    """
    kinds = [
        (t.core.geometry, t.core.unobserved_dim, t.reward is None, t.terminated is None) for t in (old, new)
    ]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"the agent's world was learned for {old.env_id or 'another env'} and does not fit "
            f"{new.env_id or 'this env'}; begin with a new agent"
        )


class DisagreementPenalty:
    """Takes reward from steps about which the world is less sure than about its data (arXiv:2005.13239).

    What counts is how far the predictions of two ensemble members are apart, beyond what they are for most of
    the real transitions that the world keeps. An excess of their median costs ``pessimism`` standard
    deviations of their reward, but leaves what the worst hundredth of them paid: where a fall ends an episode
    and with it the costs, a policy would sooner fall than pay more. Differentiable in state and action.

    Attributes:
        typical: that median, in standard deviations of the calibration data.
        free: up to where disagreement costs nothing.
        least: reward below which no penalty goes.
    """

    def __init__(self, world: WorldModel, pessimism: float, generator: torch.Generator) -> None:
        assert world.calibration is not None
        assert world.support is not None
        self._unit = torch.tensor(world.calibration.data_std).float()
        with torch.no_grad():
            state = world.init(torch.tensor(world.support.core), generator)
            step = world.step(state, torch.tensor(world.support.action), trust=True)
            found = self.disagreement(step)
            self.typical, self.free = found.quantile(torch.tensor([0.5, _FREE])).tolist()
            # What a learned reward pays at an end is no measure of what steps cost; see _range_of_values.
            goes_on = ~step.terminated | (world.task.reward is not None)
            paid = (step.reward[goes_on] if goes_on.sum() > 1 else step.reward).float()
            self._price = pessimism * float(paid.std()) / self.typical
            self.least = paid.quantile(_LEAST)
        self._totals = torch.zeros(3)

    def disagreement(self, step: WorldStep) -> Tensor:
        """Root mean square ``(batch,)`` over core dimensions, of a first step with ``trust``."""
        apart = (step.state.core - step.state.companion) / self._unit
        return (apart.square().mean(1) + 1e-12).sqrt()  # its slope is finite where members agree

    def __call__(self, step: WorldStep) -> WorldStep:
        """The step with what is left of its reward."""
        found = self.disagreement(step)
        self._totals += torch.stack([step.reward.detach().mean(), found.detach().mean(), torch.tensor(1.0)])
        cost = self._price * (found - self.free).relu()
        return replace(step, reward=step.reward - cost.minimum((step.reward - self.least).relu()))

    def report(self) -> dict[str, float]:
        """Means since the last report: reward before the penalty, disagreement in units of ``typical``."""
        reward, found, count = self._totals.tolist()
        self._totals = torch.zeros(3)
        return {"imagined_reward": reward / count, "disagreement": found / count / self.typical}
