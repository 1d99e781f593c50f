"""Task: what an env looks like from outside, and what is known of its inside."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim

from wmgym.io.arguments import instance
from wmgym.tasks import actions
from wmgym.tasks.actions import ActionSpace
from wmgym.tasks.goals import (
    boxes_alone,
    flat_env,
    flatten,
    goal_reward,
    refuse_images,
    supported_spaces,
    unflatten,
)
from wmgym.tasks.layout import Core, identity_core
from wmgym.tasks.mjcf.simulation import step_limit
from wmgym.tasks.real_env import (
    made_by,
    make_or_explain,
    own_kwargs,
    plain,
    refuse_import,
    refuse_other_actions,
    same_joints,
    time_limits,
)
from wmgym.tasks.registry import lookup
from wmgym.tasks.shift import nominal_limit
from wmgym.tasks.spec import OnCore, RewardFn, TerminatedFn, UserRewardFn

if TYPE_CHECKING:
    from wmgym.tasks.mjcf.robot import Robot

EnvFactory: TypeAlias = Callable[[], gym.Env[Any, Any]]


@dataclass(frozen=True, repr=False)
class Task:
    """A Gymnasium env with Box observations, or Dicts of them, described for a world model.

    Attributes:
        env_id: id for ``gym.make``; empty where the env came from a factory without a spec.
        env_kwargs: keywords for ``gym.make``; JSON values only.
        observation_space: the env's own space, or the Box that its Dict is flattened to.
        action_space: the env's own space.
        dt: seconds of simulated time a step; 1.0 where the env does not say.
        max_episode_steps: the env's time limit, or None.
        core: state layout; the observation itself unless the task is known.
        reward: known reward ``(state, action, next_state, unobserved) -> (batch,)``, or None: learned; a
            state is a core and the readouts that the observation shows beside it.
        terminated: likewise known termination, bool, or None: learned.
        from_table: core and termination are the table's, and so is the reward unless it is learned, so that a
            saved world can find them again.
        factory: makes the real env where ``env_id`` alone cannot.
        robot: what the env's compiled MuJoCo model says of the state, where no table describes it; then
            ``collect`` records that state, and finds how observations show it.
        dict_space: the env's own space, where it is a Dict of Boxes.
    """

    env_id: str
    env_kwargs: Mapping[str, Any]
    observation_space: spaces.Box
    action_space: ActionSpace
    dt: float
    max_episode_steps: int | None
    core: Core
    reward: RewardFn | None = None
    terminated: TerminatedFn | None = None
    from_table: bool = False
    factory: EnvFactory | None = field(default=None, compare=False, repr=False)
    robot: Robot | None = field(default=None, compare=False, repr=False)
    dict_space: spaces.Dict | None = None

    def __repr__(self) -> str:
        """The env, the sizes of its spaces, and where reward and termination come from."""
        reward, terminated = (
            "learned" if known is None else "table" if self.from_table else "given"
            for known in (self.reward, self.terminated)
        )
        return (
            f"Task({self.env_id or 'an env without an id'}, obs {self.obs_dim}, core {self.core.dim}, "
            f"action {self.action_dim}, reward {reward}, termination {terminated})"
        )

    @property
    def has_env(self) -> bool:
        """Whether ``make`` can make the real env; tasks of recorded data have none."""
        return bool(self.env_id) or self.factory is not None

    @property
    def obs_dim(self) -> int:
        """Length of the flattened observation."""
        return int(np.prod(self.observation_space.shape))

    @property
    def action_dim(self) -> int:
        """Length of the action as the network sees it: flattened Box, or one-hot."""
        return actions.width(self.action_space)

    @property
    def env_space(self) -> spaces.Box | spaces.Dict:
        """The space of observations as the env gives them."""
        return self.observation_space if self.dict_space is None else self.dict_space

    def flat(self, obs: Any) -> np.ndarray:
        """Observations, as the env gives them or flat, with leading axes or without: ``(..., obs_dim)``."""
        return np.asarray(obs) if self.dict_space is None else flatten(self.dict_space, obs)

    def as_dict(self, flat: np.ndarray) -> Any:
        """Flat observations ``(..., obs_dim)`` as the env gives them."""
        return flat if self.dict_space is None else unflatten(self.dict_space, flat)

    def make(self, **kwargs: Any) -> gym.Env[Any, Any]:
        """Make the real env, its time limit included; Dict observations flattened."""
        if self.factory is not None:
            if kwargs:
                raise ValueError(f"a factory takes no keywords, got {sorted(kwargs)}; build them into it")
            return flat_env(made_by(self.factory))
        if not self.has_env:
            raise ValueError(
                "this task has no env: it was described from recorded data, or from an env without an id; "
                "pass make_task a factory"
            )
        refuse_import(self.env_id)
        limit = {"max_episode_steps": self.max_episode_steps}
        env = flat_env(make_or_explain(self.env_id, {**limit, **self.env_kwargs, **kwargs}))
        refuse_other_actions(env, self.action_space)
        return env

    def read_core(self, env: gym.Env[Any, Any], obs: np.ndarray) -> np.ndarray:
        """Core of a live env that has just returned ``obs``: ``(core_dim,)`` float64."""
        if self.core.layout is not None:
            return self.core.layout.read(env, obs)
        if self.core.from_mujoco is not None:
            data: Any = env.unwrapped.data  # type: ignore[attr-defined]
            return self.core.from_mujoco(data.qpos, data.qvel)
        # A copy: envs may write into the array that they hand out.
        return np.asarray(self.core.from_obs(np.array(obs, np.float64).reshape(-1)))[: self.core.dim]

    def read_unobserved(self, env: gym.Env[Any, Any]) -> np.ndarray:
        """World positions whose change is the displacement, then readouts: ``(unobserved_dim,)`` float64."""
        read = self.core.read_unobserved
        return np.zeros(0) if read is None else np.array(read(env), np.float64)

    def unobserved_over(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Unobserved quantities of a step, from two readings: the displacement, then the later readouts."""
        moved = self.core.displacement_dim
        return np.concatenate([after[:moved] - before[:moved], after[moved:]])

    def state(self, core: np.ndarray, obs: np.ndarray) -> np.ndarray:
        """States ``(n, state_dim)``: cores with the readouts of flat observations beside them."""
        if not self.core.shown_dim:
            return core
        return np.concatenate([core, self.core.from_obs(obs)[..., self.core.dim :]], -1)


def make_task(
    env_or_id: str | gym.Env[Any, Any] | EnvFactory,
    reward_fn: UserRewardFn | None = None,
    terminated_fn: UserRewardFn | None = None,
    core: Core | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    angles: Sequence[int] = (),
) -> Task:
    """Describe a Gymnasium env.

    Args:
        env_or_id: an id, a live env, or a function without arguments that makes one.
        reward_fn: batched ``(obs, action, next_obs) -> (batch,)`` on torch tensors, flattened observations.
            None takes the table's where the task is known and a learned head elsewhere.
        terminated_fn: likewise, returning bool.
        core: state layout; None takes the table's, or the observation itself.
        env_kwargs: keywords for ``gym.make``, with an id only.
        angles: numbers of the observation that are angles in radians; those that jump in the data are found.

    Raises:
        TypeError: an argument of the wrong kind, or a factory that returns no Gymnasium env.
        ValueError: the spaces are not supported; the message says which are.
    """
    if core is not None:
        instance("core", core, Core, "make one with wmgym.tasks.layout.Core, or leave it out")
    if env_kwargs is not None and not isinstance(env_or_id, str):
        raise ValueError("env_kwargs goes with an env id; build them into the factory instead")
    factory: EnvFactory | None = None
    if isinstance(env_or_id, str):
        env = make_or_explain(env_or_id, {} if env_kwargs is None else env_kwargs)
    elif isinstance(env_or_id, gym.Env):
        env = env_or_id
        if not plain(env):
            raise ValueError(
                "an env that is wrapped or has no id cannot be remade; pass the factory that builds it"
            )
    elif callable(env_or_id):
        factory, env = env_or_id, made_by(env_or_id)
    else:
        raise ValueError(f"expected an env id, an env or a factory, got {type(env_or_id).__name__}")
    try:
        refuse_images(env.observation_space)
        own_space, own_env, env = env.observation_space, env, flat_env(env)
        spec, (observation_space, action_space) = env.spec, supported_spaces(env)
        if isinstance(env_or_id, str):
            env_id, kwargs = env_or_id, dict(env_kwargs or {})
        else:
            env_id, kwargs = (spec.id, own_kwargs(spec)) if spec is not None else ("", {})
        known = lookup(env_id, kwargs) if core is None and (factory is None or plain(env)) else None
        if known is not None and "xml_file" in kwargs and not same_joints(env, env_id, kwargs):
            warnings.warn(
                f"{env_id} is known, but not with ['xml_file'] of other joints or another time step; its "
                "reward and termination will be learned",
                stacklevel=2,
            )
            known = None
        robot = _robot(env) if core is None and known is None else None
        if angles and (core is not None or known is not None or robot is not None):
            raise ValueError("angles= is for envs whose observation is all that is known of the state")
        if core is None:
            core = known.core if known else identity_core(flatdim(observation_space), tuple(angles))
        reward, terminated = (known.reward, known.terminated) if known else (None, None)
        limits = [each._max_episode_steps for each in time_limits(env)]
        limits += [limit for limit in (step_limit(env),) if limit is not None]
        if reward is None and reward_fn is None:
            reward_fn = goal_reward(own_env, factory or partial(gym.make, env_id, **kwargs))
        own_limit = (spec.max_episode_steps if spec is not None else None) or nominal_limit(env_id, kwargs)
        return Task(
            env_id=env_id,
            env_kwargs=kwargs,
            observation_space=observation_space,
            action_space=action_space,
            dt=known.dt if known else float(getattr(env.unwrapped, "dt", 1.0)),
            max_episode_steps=min(limits, default=own_limit),
            core=core,
            reward=reward if reward_fn is None else OnCore(core, reward_fn, "reward_fn"),
            terminated=terminated if terminated_fn is None else OnCore(core, terminated_fn, "terminated_fn"),
            from_table=known is not None and reward_fn is None and terminated_fn is None,
            factory=factory,
            robot=robot,
            dict_space=own_space if isinstance(own_space, spaces.Dict) and boxes_alone(own_space) else None,
        )
    finally:
        if not isinstance(env_or_id, gym.Env):
            env.close()


def alike(one: Task, other: Task) -> bool:
    """Whether states and actions of two tasks agree, as those of a robot before and after a change."""
    same = all(getattr(one, x) == getattr(other, x) for x in ("observation_space", "action_space", "dt"))
    return same and one.core.names == other.core.names


def on_robot(task: Task, robot: str | gym.Env[Any, Any] | EnvFactory | Task) -> Task:
    """The same task with another real env, read as before, but for symmetries that it may have lost.

    Raises:
        ValueError: the other env has other spaces, or another time step.
    """
    other = robot if isinstance(robot, Task) else make_task(robot)
    for name in ("observation_space", "action_space", "dt"):
        mine, its = getattr(task, name), getattr(other, name)
        if mine != its:
            raise ValueError(f"the changed robot's {name} is {its}, the world's is {mine}; both must agree")
    return replace(
        task,
        env_id=other.env_id,
        env_kwargs=other.env_kwargs,
        factory=other.factory,
        max_episode_steps=other.max_episode_steps,
        core=other.core if other.core.names == task.core.names else replace(task.core, symmetries=()),
    )


def with_core(task: Task, core: Core) -> Task:
    """The task with another state layout, to which the caller's functions of observations are told."""
    heads = {"reward": task.reward, "terminated": task.terminated}
    moved: dict[str, Any] = {
        name: replace(head, core=core) for name, head in heads.items() if isinstance(head, OnCore)
    }
    return replace(task, core=core, **moved)


def _robot(env: gym.Env[Any, Any]) -> Robot | None:
    from wmgym.tasks.mjcf.layout import robot_of

    return robot_of(env)
