"""Spaces as strict JSON records, and back."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Annotated, Any, Literal, Self, TypeAlias

import numpy as np
from gymnasium import spaces
from pydantic import Field, model_validator

from wmgym.io.schema import Count, Record
from wmgym.tasks.actions import MOST_CHOICES


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
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)]
    start: Annotated[int, Field(ge=-(2**53), le=2**53)]

    def space(self) -> spaces.Discrete:
        """The space."""
        return spaces.Discrete(self.n, start=self.start)


class MultiDiscreteRecord(Record):
    """A ``MultiDiscrete`` of one axis."""

    type: Literal["multi_discrete"]
    nvec: list[Annotated[int, Field(ge=1, le=MOST_CHOICES)]]
    start: list[Annotated[int, Field(ge=-(2**53), le=2**53)]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse more choices than any task has."""
        if sum(self.nvec) > MOST_CHOICES or len(self.start) != len(self.nvec):
            raise ValueError(f"a MultiDiscrete has {MOST_CHOICES} choices at most, and a start for each part")
        return self

    def space(self) -> spaces.MultiDiscrete:
        """The space."""
        return spaces.MultiDiscrete(self.nvec, start=self.start)


class MultiBinaryRecord(Record):
    """A ``MultiBinary`` of one axis."""

    type: Literal["multi_binary"]
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES // 2)]

    def space(self) -> spaces.MultiBinary:
        """The space."""
        return spaces.MultiBinary(self.n)


class DictRecord(Record):
    """A ``Dict`` of Boxes, be it in further Dicts; ``keys`` in the order in which they are flattened."""

    type: Literal["dict"]
    keys: list[str]
    parts: list[BoxRecord | DictRecord]

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse keys without a part."""
        if not len(self.keys) == len(set(self.keys)) == len(self.parts):
            raise ValueError("a Dict needs one part for each of its keys")
        return self

    def space(self) -> spaces.Dict:
        """The space."""
        return spaces.Dict(OrderedDict(zip(self.keys, (part.space() for part in self.parts), strict=True)))


ActionRecord: TypeAlias = BoxRecord | DiscreteRecord | MultiDiscreteRecord | MultiBinaryRecord


def record_action_space(space: spaces.Space[Any]) -> ActionRecord:
    """Describe the space of actions of a task."""
    if isinstance(space, spaces.Discrete):
        return DiscreteRecord(type="discrete", n=int(space.n), start=int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        return MultiDiscreteRecord(
            type="multi_discrete", nvec=space.nvec.tolist(), start=np.asarray(space.start).tolist()
        )
    if isinstance(space, spaces.MultiBinary):
        return MultiBinaryRecord(type="multi_binary", n=int(np.prod(space.shape)))
    assert isinstance(space, spaces.Box)
    return record_box(space)


def record_dict_space(space: spaces.Dict) -> DictRecord:
    """Describe a Dict of Boxes."""
    parts = [
        record_dict_space(part) if isinstance(part, spaces.Dict) else record_box(part)  # type: ignore[arg-type]
        for part in space.spaces.values()
    ]
    return DictRecord(type="dict", keys=list(space.spaces), parts=parts)


def record_box(space: spaces.Box) -> BoxRecord:
    """Describe a Box."""
    low, high = (
        [None if math.isinf(x) else +x for x in side.reshape(-1).tolist()] for side in (space.low, space.high)
    )
    return BoxRecord.model_validate(
        {"type": "box", "shape": list(space.shape), "dtype": str(space.dtype), "low": low, "high": high}
    )


def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The smallest and the largest finite number."""
    info: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    convert = float if dtype.kind == "f" else int
    return convert(info.min), convert(info.max)
