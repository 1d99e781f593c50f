"""What files may hold: dataclasses as strict JSON, and arrays of stated shapes, types and ranges."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import pydantic_core
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from wmgym.io.files import StoreError

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
"""A dataclass that is stored whole holds this as ``__pydantic_config__``."""

Count = Annotated[int, Field(ge=0, le=2**53)]
"""How many: an integer that a float64 holds exactly."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole."""

Amount = Annotated[float, Field(ge=0)]
"""Something that cannot be less than nothing: a time, a length, a deviation."""


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"the interval begins at {ends[0]:g}, after its end {ends[1]:g}")
    return ends


Interval = Annotated[tuple[float, float], AfterValidator(_ordered)]
"""From the first number to the second."""

Fingerprint = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
"""Content hash of an episode."""


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
        raise ValueError("; ".join(_reasons(error, where))) from None
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
            value = pydantic_core.to_json(rest.pop(name))
            built[name] = _field_adapter(hints[name]).validate_json(value)
    if rest:
        raise KeyError(f"unknown {', '.join(rest)}")
    return kind(**built)


@dataclass(frozen=True)
class ArraySpec:
    """What a stored array must be like.

    Attributes:
        shape: of each axis.
        dtype: by NumPy's name.
        low: the smallest number allowed; infinity is refused unless it is named here.
        high: the largest.
        nan: whether NaN is allowed.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float = -np.finfo(np.float64).max
    high: float = np.finfo(np.float64).max
    nan: bool = False


def check_arrays(arrays: Mapping[str, np.ndarray], specs: Mapping[str, ArraySpec]) -> None:
    """Refuse arrays that are not the specified ones.

    Raises:
        ValueError: one is missing, one too many, or of another shape or type, or holds a number outside its
            range; the message names it.
    """
    if odd := sorted(arrays.keys() ^ specs.keys()):
        raise ValueError(f"array {odd[0]} is {'unknown' if odd[0] in arrays else 'missing'}")
    for name, spec in specs.items():
        array = arrays[name]
        if array.shape != spec.shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {spec.shape}")
        if array.dtype != spec.dtype:
            raise ValueError(f"{name} holds {array.dtype}, expected {spec.dtype}")
        least, most = (np.fmin, np.fmax) if spec.nan else (np.minimum, np.maximum)
        ends = (float(end.reduce(array, axis=None)) for end in (least, most) if array.size)
        for end in ends:  # a comparison with NaN is false
            if not (spec.low <= end <= spec.high or (spec.nan and math.isnan(end))):
                raise ValueError(f"{name} holds {end:g}, outside [{spec.low:g}, {spec.high:g}]")


@contextlib.contextmanager
def refusing(where: str, what: str, cure: str) -> Iterator[None]:
    """Make a ``StoreError`` of one line of whatever goes wrong while stored contents are rebuilt.

    Args:
        where: the file or directory.
        what: it should hold, with an article.
        cure: what to do about it.
    """
    try:
        yield
    except Exception as error:  # the classes of users fail in their own ways
        if isinstance(error, ValidationError):
            reason = _reasons(error)[0]
        else:
            said = f"{error!s} is missing" if isinstance(error, KeyError) else str(error)
            reason = (said.strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, StoreError):  # says what to do itself
            raise StoreError(f"{where}: {reason}") from error
        raise StoreError(f"{where}: not {what} of this version of wmgym ({reason}); {cure}") from error


def _reasons(error: ValidationError, *where: str) -> list[str]:
    """A line for each thing that is wrong, with its place."""
    return [
        f"{'.'.join([*where, *map(str, each['loc'])])}: {each.get('ctx', {}).get('error', each['msg'])}"
        for each in error.errors(include_url=False, include_input=False)
    ]


_hints: Callable[[Any], dict[str, Any]] = functools.cache(
    functools.partial(get_type_hints, include_extras=True)  # the ranges of numbers
)
_field_adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(
    functools.partial(TypeAdapter, config=STRICT)  # which a dataclass brings with it
)
_adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)
