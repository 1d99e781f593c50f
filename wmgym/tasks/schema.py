"""Tasks as strict JSON records, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import numpy as np
from gymnasium import spaces
from pydantic import Field, JsonValue, model_validator

from wmgym.io.schema import Count, Record, from_json, refusing, to_json
from wmgym.tasks.layout import Core, identity_core, shown_alone
from wmgym.tasks.registry import lookup
from wmgym.tasks.spec import Known
from wmgym.tasks.task import Task, with_core

Origin = Literal["table", "given", "learned"]


class BoxRecord(Record):
    """A ``Box``; None stands for an unbounded side, which a space of floats alone may have."""

    type: Literal["box"]
    shape: list[Count]
    dtype: Literal[
        "float16", "float32", "float64", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32",
        "int64", "bool",
    ]  # fmt: skip
    low: list[int | float | None]
    high: list[int | float | None]

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse bounds that are not of the shape or of the type, or that leave nothing between them."""
        if not math.prod(self.shape) == len(self.low) == len(self.high):
            raise ValueError("low and high must each hold one number for every place of the shape")
        dtype = np.dtype(self.dtype)
        least, most = (0, 1) if dtype.kind == "b" else _range(dtype)
        sides = zip(self.low, self.high, strict=True)
        whole = [(least if a is None else a, most if b is None else b) for a, b in sides]
        if dtype.kind != "f" and any(type(x) is not int for x in (*self.low, *self.high)):
            raise ValueError(f"bounds of {self.dtype} must be integers")
        if not all(least <= a <= b <= most for a, b in whole):
            raise ValueError(f"low must not exceed high, nor either the range of {self.dtype}")
        return self

    @property
    def bounded(self) -> bool:
        """Whether every number has two bounds."""
        return None not in self.low and None not in self.high

    def space(self) -> spaces.Box:
        """The space."""
        dtype = np.dtype(self.dtype)
        low = np.array([-np.inf if x is None else x for x in self.low], dtype).reshape(self.shape)
        high = np.array([np.inf if x is None else x for x in self.high], dtype).reshape(self.shape)
        return spaces.Box(low, high, dtype=dtype.type)


class DiscreteRecord(Record):
    """A ``Discrete``."""

    type: Literal["discrete"]
    n: Annotated[int, Field(ge=1, le=2**53)]
    start: Annotated[int, Field(ge=-(2**53), le=2**53)]

    def space(self) -> spaces.Discrete:
        """The space."""
        return spaces.Discrete(self.n, start=self.start)


class TaskRecord(Record):
    """All of a ``Task`` but functions; an infinite keyword is ``{"float": "inf"}``, as JSON has none.

    ``names`` are those of the observation's numbers where it is the state and they have some of their own;
    ``layout`` is the ``ModelLayout`` of a robot that its own MuJoCo model describes.
    """

    env_id: str
    env_kwargs: dict[str, JsonValue]
    observation_space: BoxRecord
    action_space: BoxRecord | DiscreteRecord
    dt: Annotated[float, Field(gt=0)]
    max_episode_steps: Annotated[int, Field(ge=1, le=2**53)] | None
    reward: Origin
    terminated: Origin
    names: list[str] | None = None
    layout: dict[str, JsonValue] | None = None

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
        layout=None if task.core.layout is None else to_json(task.core.layout),
    )


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
        return task if record.layout is None else with_core(task, _core(record, None, where))
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
    if known is not None:
        _try(record, known, int(np.prod(observation_space.shape)), where)
    return Task(
        env_id=record.env_id,
        env_kwargs=env_kwargs,
        observation_space=observation_space,
        action_space=action_space,
        dt=record.dt,
        max_episode_steps=record.max_episode_steps,
        core=_core(record, known, where),
        reward=known.reward if known and record.reward == "table" else None,
        terminated=known.terminated if known else None,
        from_table=known is not None,
    )


def _core(record: TaskRecord, known: Known | None, where: str) -> Core:
    obs_dim = math.prod(record.observation_space.shape)
    if record.layout is not None:
        from wmgym.tasks.mjcf.layout import ModelLayout, core_of  # imports MuJoCo

        with refusing(where, f"a task {record.env_id!r}", "make it again"):
            layout = from_json(ModelLayout, record.layout)
            layout.check(obs_dim)
            return core_of(layout)
    if known is None:
        return replace(identity_core(obs_dim), names=tuple(record.names or ()))
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


def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The smallest and the largest finite number."""
    info: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    convert = float if dtype.kind == "f" else int
    return convert(info.min), convert(info.max)


def _origin(task: Task, function: Any) -> Origin:
    """Where a head comes from; a core of the caller's own makes all of them given."""
    if task.from_table:
        return "learned" if function is None else "table"
    plain = task.core == identity_core(task.obs_dim) or _names_alone(task)
    if function is None and (plain or task.core.layout is not None):
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
        if value.keys() == {"float"} and value["float"] in ("inf", "-inf", "nan"):
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
