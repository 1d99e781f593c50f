"""Dataclasses as strict JSON: unknown keys and values of another type are refused."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import pydantic_core
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
"""A dataclass that is stored whole holds this as ``__pydantic_config__``."""


class Record(BaseModel):
    """A strict JSON object: unknown keys and values of another type are refused."""

    model_config = STRICT


def to_json(value: Any) -> Any:
    """JSON values of a dataclass, a number, or a tuple of either."""
    return _adapter(type(value)).dump_python(value, mode="json")


def from_json(kind: type[T], values: Any) -> T:
    """Rebuild what ``to_json`` wrote.

    Raises:
        ValidationError: these are not the values of a ``kind``.
    """
    found: T = _adapter(kind).validate_json(pydantic_core.to_json(values), strict=True)
    return found


def read_settings(kind: Any, values: Any, where: str) -> Any:
    """A ``kind`` from JSON values that a person wrote.

    Raises:
        ValueError: these are not the values of a ``kind``; the message is a line that begins with ``where``.
    """
    try:
        return from_json(kind, values)
    except ValidationError as error:
        reasons = [
            f"{'.'.join([where, *map(str, each['loc'])])}: {each.get('ctx', {}).get('error', each['msg'])}"
            for each in error.errors()
        ]
        raise ValueError("; ".join(reasons)) from None
    except pydantic_core.PydanticSerializationError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None


def split_arrays(part: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays of a dataclass by name, those of a dict as ``"field.key"``, and its other fields as JSON."""
    arrays: dict[str, np.ndarray] = {}
    values: dict[str, Any] = {}
    for name in (field.name for field in fields(part)):
        value = getattr(part, name)
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, dict):
            arrays |= {f"{name}.{key}": array for key, array in value.items()}
        else:
            values[name] = to_json(value)
    return arrays, values


def join_arrays(kind: type[T], arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> T:
    """Rebuild what ``split_arrays`` took apart; a ``dict`` field has the keys that its type names.

    Raises:
        KeyError: an array or a value is missing, or there is one too many.
        ValidationError: a value is of another type.
    """
    hints, rest = _hints(kind), dict(values)
    built: dict[str, Any] = {}
    for name in (field.name for field in fields(kind)):  # type: ignore[arg-type]
        if hints[name] is np.ndarray:
            built[name] = arrays[name]
        elif get_origin(hints[name]) is dict:
            keys = get_args(get_args(hints[name])[0])
            built[name] = {key: arrays[f"{name}.{key}"] for key in keys}
        else:
            built[name] = from_json(hints[name], rest.pop(name))
    if rest:
        raise KeyError(f"unknown {', '.join(rest)}")
    return kind(**built)


_hints: Callable[[Any], dict[str, Any]] = functools.cache(get_type_hints)
_adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)
