"""Tasks as strict JSON records, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal, Self

import gymnasium as gym
import numpy as np
from pydantic import Field, JsonValue, model_validator

from wmgym.io.schema import Record, from_json, refusing, to_json
from wmgym.tasks.actions import width
from wmgym.tasks.core_schema import RuleRecord, SymmetryRecord, TraitsRecord
from wmgym.tasks.geometry import Geometry
from wmgym.tasks.goals import GOAL_KEYS, GoalReward
from wmgym.tasks.layout import Core, identity_core, shown_alone
from wmgym.tasks.real_env import refuse_import
from wmgym.tasks.registry import lookup
from wmgym.tasks.space_schema import (
    ActionRecord,
    BoxRecord,
    DictRecord,
    record_action_space,
    record_box,
    record_dict_space,
)
from wmgym.tasks.spec import Known, OnCore, RewardFn
from wmgym.tasks.task import Task, with_core

Origin = Literal["table", "given", "learned", "goal"]
"""Of a reward or termination; "goal" is by the env's own ``compute_reward``."""


class TaskRecord(Record):
    """All of a ``Task`` but functions; an infinite keyword is ``{"float": "inf"}``, as JSON has none.

    ``names`` and ``traits`` are those of the observation's numbers where it is the state; ``layout`` is the
    ``ModelLayout`` of a robot that its own MuJoCo model describes, and ``symmetries`` are such a robot's.
    """

    env_id: str
    env_kwargs: dict[str, JsonValue]
    observation_space: BoxRecord
    action_space: ActionRecord
    dt: Annotated[float, Field(gt=0)]
    max_episode_steps: Annotated[int, Field(ge=1, le=2**53)] | None
    reward: Origin
    terminated: Origin
    names: list[str] | None = None
    layout: dict[str, JsonValue] | None = None
    traits: TraitsRecord | None = None
    dict_space: DictRecord | None = None
    symmetries: list[SymmetryRecord] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse what no task can have."""
        if isinstance(self.action_space, BoxRecord) and not self.action_space.bounded:
            raise ValueError("actions must have bounds")
        heads = self.reward, self.terminated
        if "table" in heads and heads not in (("table", "table"), ("learned", "table")):
            raise ValueError("termination is from the table, and the reward is too or learned")
        if self.names and len(self.names) != math.prod(self.observation_space.shape):
            raise ValueError("there must be a name for each number of the observation")
        return self


def record_task(task: Task) -> TaskRecord:
    """Describe a task for storage.

    Raises:
        ValueError: a keyword of its env is no JSON value.
    """
    return TaskRecord(
        env_id=task.env_id,
        env_kwargs=record_kwargs(task.env_kwargs),
        observation_space=record_box(task.observation_space),
        action_space=record_action_space(task.action_space),
        dt=task.dt,
        max_episode_steps=task.max_episode_steps,
        reward=_origin(task, task.reward),
        terminated=_origin(task, task.terminated),
        names=list(task.core.names) if _observed(task) and task.core.names != _plain(task).names else None,
        layout=None if task.core.layout is None else to_json(task.core.layout),
        traits=None if task.from_table or task.core.layout is not None else _traits(task.core.geometry),
        dict_space=None if task.dict_space is None else record_dict_space(task.dict_space),
        symmetries=None if task.core.layout is None else _symmetries(task.core),
    )


def has_functions(task: Task) -> bool:
    """Whether the caller's functions are part of a task, so that no file can hold all of it."""
    return "given" in (_origin(task, task.reward), _origin(task, task.terminated))


def rebuild_task(record: TaskRecord, task: Task | None, where: str = "task") -> Task:
    """The stored task, or the caller's where functions were given that no file can hold.

    Args:
        record: what was stored.
        task: the caller's.
        where: the file, for the error.

    Raises:
        StoreError: the stored spaces and keywords are not of the env that is known by that id.
        ValueError: the file needs ``task``, the one given describes other spaces, or the stored one was
            known in another process or to another version of wmgym, but is not here.
    """
    observation_space, action_space = record.observation_space.space(), record.action_space.space()
    if task is not None:
        if (task.observation_space, task.action_space) != (observation_space, action_space):
            raise ValueError(f"{where}: task= has other spaces than the stored {record.env_id!r}")
        if record.layout is not None:
            return with_core(task, _core(record, None, where))
        if record.traits is None or not task.core.geometry.of_single_numbers:
            return task
        with refusing(where, f"a task {record.env_id!r}", "make it again"):
            geometry = record.traits.of(task.core.dim, width(action_space))
        return with_core(task, replace(task.core, geometry=geometry))
    if "given" in (record.reward, record.terminated):
        raise ValueError(
            f"{where}: {record.env_id!r} was described with reward_fn, terminated_fn or core, which are not "
            "stored; pass task=wmgym.make_task(..., reward_fn=..., terminated_fn=...) as before"
        )
    env_kwargs = rebuild_kwargs(record.env_kwargs)
    with refusing(where, f"a task {record.env_id!r}", "make it again"):
        known = lookup(record.env_id, env_kwargs) if record.terminated == "table" else None
    if record.terminated == "table" and known is None:
        raise ValueError(
            f"{where}: reward and termination of {record.env_id!r} were known where this was stored and are "
            "not here; if the robot is your own, run the line that sets wmgym.tasks.registry.TABLE before "
            "loading, else use the version of wmgym that stored it"
        )
    core = _core(record, known, where)
    reward: RewardFn | None = known.reward if known and record.reward == "table" else None
    dict_space = None if record.dict_space is None else record.dict_space.space()
    if record.reward == "goal":
        with refusing(where, f"a task {record.env_id!r}", "make it again"):
            if dict_space is None or not set(dict_space.spaces) >= set(GOAL_KEYS):
                raise ValueError("a reward by goals needs a Dict observation with goals")
        reward = OnCore(
            core, GoalReward(partial(_make_env, record.env_id, env_kwargs), dict_space), "reward_fn"
        )
    if known is not None:
        _try(record, known, int(np.prod(observation_space.shape)), where)
    return Task(
        env_id=record.env_id,
        env_kwargs=env_kwargs,
        observation_space=observation_space,
        action_space=action_space,
        dt=record.dt,
        max_episode_steps=record.max_episode_steps,
        core=core,
        reward=reward,
        terminated=known.terminated if known else None,
        from_table=known is not None,
        dict_space=dict_space,
    )


def _make_env(env_id: str, env_kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """The env of an id whose module is imported; a file does not import one."""
    refuse_import(env_id)
    return gym.make(env_id, **env_kwargs)


def _core(record: TaskRecord, known: Known | None, where: str) -> Core:
    obs_dim = math.prod(record.observation_space.shape)
    if record.layout is not None:
        from wmgym.tasks.mjcf.layout import ModelLayout, core_of  # imports MuJoCo

        with refusing(where, f"a task {record.env_id!r}", "make it again"):
            layout = from_json(ModelLayout, record.layout)
            action_dim = width(record.action_space.space())
            layout.check(obs_dim, action_dim)
            own = core_of(layout)
            found = tuple(each.of(own.dim, action_dim) for each in record.symmetries or ())
            return replace(own, symmetries=found)
    if known is None:
        geometry = (record.traits or TraitsRecord()).of(obs_dim, width(record.action_space.space()))
        return replace(identity_core(obs_dim), geometry=geometry, names=tuple(record.names or ()))
    core = known.core if record.reward == "table" else shown_alone(known.core)
    if core is None:
        raise ValueError(
            f"a reward of {record.env_id!r} takes what no observation shows; it cannot be learned"
        )
    return core


def _try(record: TaskRecord, known: Known, obs_dim: int, where: str) -> None:
    """Call what is known in code once, so that stored values it cannot take are refused now."""
    core, action = known.core, record.action_space
    states, unobserved = np.zeros((1, core.state_dim)), np.zeros((1, core.unobserved_dim))
    actions = np.zeros((1, math.prod(action.shape) if isinstance(action, BoxRecord) else 1))
    with refusing(where, f"a task {record.env_id!r}", "make it again"):
        flat = len(record.observation_space.shape) == len(getattr(action, "shape", [0])) == 1
        if not flat or core.observe(states).shape != (1, obs_dim) or record.dt != known.dt:
            raise ValueError("its spaces or dt are another env's")
        reward, ended = (f(states, actions, states, unobserved) for f in (known.reward, known.terminated))
        if reward.shape != (1,) or ended.shape != (1,) or not np.isfinite(reward).all():
            raise ValueError("env_kwargs give no reward or no termination")


def record_kwargs(env_kwargs: Mapping[str, Any]) -> dict[str, JsonValue]:
    """Keywords of an env as JSON values, an infinite number as ``{"float": "inf"}``; ValueError if not so."""
    return {key: _record_value(key, value) for key, value in env_kwargs.items()}


def rebuild_kwargs(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that ``record_kwargs`` took apart; others as they are."""
    return {key: _rebuild_value(value) for key, value in values.items()}


def _origin(task: Task, function: Any) -> Origin:
    """Where a head comes from; a core of the caller's own makes all of them given."""
    if task.from_table:
        return "learned" if function is None else "table"
    if isinstance(function, OnCore) and isinstance(function.function, GoalReward) and task.factory is None:
        return "goal"
    if function is None and (_observed(task) or task.core.layout is not None):
        return "learned"
    return "given"


def _plain(task: Task) -> Core:
    return identity_core(task.obs_dim)


def _observed(task: Task) -> bool:
    """Whether the observation is the state, of whose numbers at most names and traits are known."""
    plain, core = _plain(task), task.core
    if len(core.names) != len(plain.names):
        return False
    alone = replace(core, names=plain.names, geometry=plain.geometry) == plain
    return alone and core.geometry.of_single_numbers


def _symmetries(core: Core) -> list[SymmetryRecord] | None:
    """None where there are none."""
    return [SymmetryRecord(core=each.core, action=each.action) for each in core.symmetries] or None


def _traits(geometry: Geometry) -> TraitsRecord | None:
    """None where there are none, or more is known than those."""
    if not geometry.of_single_numbers:
        return None
    found = {name: getattr(geometry, name) for name in TraitsRecord.model_fields if name != "rules"}
    found["rules"] = tuple(RuleRecord(**vars(rule)) for rule in geometry.rules)
    return TraitsRecord(**found) if any(found.values()) else None


def _record_value(key: str, value: Any) -> JsonValue:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, (list, tuple)):
        return [_record_value(key, item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _record_value(key, item) for name, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"{key}={value!r} cannot be stored; pass numbers, strings and lists to the env".replace("\n", " ")
    )


def _rebuild_value(value: JsonValue) -> Any:
    if isinstance(value, list):
        return [_rebuild_value(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"float"} and value["float"] in ("inf", "-inf", "nan"):
            return float(str(value["float"]))
        return {name: _rebuild_value(item) for name, item in value.items()}
    return value
