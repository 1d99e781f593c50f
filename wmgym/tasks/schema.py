"""Tasks as strict JSON records, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from pydantic import JsonValue

from wmgym.io.schema import Record
from wmgym.tasks.layout import Core, identity_core
from wmgym.tasks.registry import lookup
from wmgym.tasks.task import Task

Origin = Literal["table", "given", "learned"]


class BoxRecord(Record):
    """A ``Box``; None stands for an unbounded side."""

    type: Literal["box"]
    shape: list[int]
    dtype: Literal[
        "float16", "float32", "float64", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32",
        "int64", "bool",
    ]  # fmt: skip
    low: list[int | float | None]
    high: list[int | float | None]

    def space(self) -> spaces.Box:
        """The space."""
        dtype = np.dtype(self.dtype)
        low = np.array([-np.inf if x is None else x for x in self.low], dtype).reshape(self.shape)
        high = np.array([np.inf if x is None else x for x in self.high], dtype).reshape(self.shape)
        return spaces.Box(low, high, dtype=dtype.type)


class DiscreteRecord(Record):
    """A ``Discrete``."""

    type: Literal["discrete"]
    n: int
    start: int

    def space(self) -> spaces.Discrete:
        """The space."""
        return spaces.Discrete(self.n, start=self.start)


class TaskRecord(Record):
    """All of a ``Task`` but functions; an infinite keyword is ``{"float": "inf"}``, as JSON has none.

    ``names`` are those of the observation's numbers where it is the state and they have some of their own.
    """

    env_id: str
    env_kwargs: dict[str, JsonValue]
    observation_space: BoxRecord
    action_space: BoxRecord | DiscreteRecord
    dt: float
    max_episode_steps: int | None
    reward: Origin
    terminated: Origin
    names: list[str] | None = None


def record_task(task: Task) -> TaskRecord:
    """Describe a task for storage.

    Raises:
        ValueError: a keyword of its env is no JSON value.
    """
    action_space: BoxRecord | DiscreteRecord
    if isinstance(task.action_space, spaces.Discrete):
        n, start = int(task.action_space.n), int(task.action_space.start)
        action_space = DiscreteRecord(type="discrete", n=n, start=start)
    else:
        action_space = _record_box(task.action_space)
    return TaskRecord(
        env_id=task.env_id,
        env_kwargs=record_kwargs(task.env_kwargs),
        observation_space=_record_box(task.observation_space),
        action_space=action_space,
        dt=task.dt,
        max_episode_steps=task.max_episode_steps,
        reward=_origin(task, task.reward),
        terminated=_origin(task, task.terminated),
        names=list(task.core.names) if _names_alone(task) else None,
    )


def rebuild_task(record: TaskRecord, task: Task | None) -> Task:
    """The stored task, or the caller's where functions were given that no file can hold.

    Raises:
        ValueError: the file needs ``task``, the one given describes other spaces, or the stored one was
            known in another process or to another version of wmgym, but is not here.
    """
    observation_space, action_space = record.observation_space.space(), record.action_space.space()
    if task is not None:
        if (task.observation_space, task.action_space) != (observation_space, action_space):
            raise ValueError(f"task= has other spaces than the stored {record.env_id!r}")
        return task
    if "given" in (record.reward, record.terminated):
        raise ValueError(
            f"{record.env_id!r} was described with reward_fn, terminated_fn or core, which are not stored; "
            "pass task=wmgym.make_task(..., reward_fn=..., terminated_fn=...) as before"
        )
    env_kwargs = rebuild_kwargs(record.env_kwargs)
    known = lookup(record.env_id, env_kwargs) if record.reward == "table" else None
    if record.reward == "table" and known is None:
        raise ValueError(
            f"reward and termination of {record.env_id!r} were known where this was stored and are not here; "
            "if the robot is your own, run the line that sets wmgym.tasks.registry.TABLE before loading, "
            "else use the version of wmgym that stored it"
        )
    return Task(
        env_id=record.env_id,
        env_kwargs=env_kwargs,
        observation_space=observation_space,
        action_space=action_space,
        dt=record.dt,
        max_episode_steps=record.max_episode_steps,
        core=known.core if known else _observed_core(record, int(np.prod(observation_space.shape))),
        reward=known.reward if known else None,
        terminated=known.terminated if known else None,
        from_table=known is not None,
    )


def _observed_core(record: TaskRecord, dim: int) -> Core:
    return replace(identity_core(dim), names=tuple(record.names or ()))


def record_kwargs(env_kwargs: Mapping[str, Any]) -> dict[str, JsonValue]:
    """Keywords of an env as JSON values, an infinite number as ``{"float": "inf"}``; ValueError if not so."""
    return {key: _record_value(key, value) for key, value in env_kwargs.items()}


def rebuild_kwargs(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that ``record_kwargs`` took apart; others as they are."""
    return {key: _rebuild_value(value) for key, value in values.items()}


def _origin(task: Task, function: Any) -> Origin:
    """Where a head comes from; a core of the caller's own makes all of them given."""
    if task.from_table:
        return "table"
    if function is None and (task.core == identity_core(task.obs_dim) or _names_alone(task)):
        return "learned"
    return "given"


def _names_alone(task: Task) -> bool:
    """Whether the observation is the state and only the names of its numbers are the caller's own."""
    plain = identity_core(task.obs_dim)
    named = len(task.core.names) == len(plain.names) and task.core.names != plain.names
    return named and replace(task.core, names=plain.names) == plain


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
        if value.keys() == {"float"}:
            return float(str(value["float"]))
        return {name: _rebuild_value(item) for name, item in value.items()}
    return value


def _record_box(space: spaces.Box) -> BoxRecord:
    low, high = (
        [None if math.isinf(x) else +x for x in side.reshape(-1).tolist()] for side in (space.low, space.high)
    )
    return BoxRecord.model_validate(
        {"type": "box", "shape": list(space.shape), "dtype": str(space.dtype), "low": low, "high": high}
    )
